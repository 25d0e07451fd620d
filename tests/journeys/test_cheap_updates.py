"""What changed is all that travels: by a bundle, within what the device's owner allows."""

import hashlib
from pathlib import Path

import pytest

from controller.cli.bundles import wait_for_bundles
from controller.cli.releases import announce
from controller.cli.uploading import push_file
from schemas.messages import Phase, UpdateEvent, Verb
from tests.support.bundles import pages
from tests.support.fleet import NO_PROBATION
from tests.support.packages import build, make_source
from tests.support.wholeness import assert_on_disk
from tests.support.world import CHANNEL, World

pytestmark = [pytest.mark.journey, pytest.mark.broker]

DEVICE = "pi-1"
NAME = "book"
BUNDLES_S = 60.0


def publish(world: World, version: str, files: dict[str, bytes | str]) -> Path:
    """Push a release, wait for its bundles, announce it; gives its source."""
    source = make_source(world.folder / "sources" / version, NAME, version, files, health=NO_PROBATION)
    push_file(world.client, build(source, world.folder / "built"))
    wait_for_bundles(world.client, NAME, version, BUNDLES_S)
    announce(world.client, name=NAME, version=version, channel=CHANNEL)
    return source


def staged(world: World, version: str) -> UpdateEvent:
    return [one for one in world.events(DEVICE) if one.version == version and one.phase is Phase.STAGED][-1]


def test_an_update_comes_as_a_bundle_and_one_that_costs_too_much_when_it_is_let_through(world: World) -> None:
    world.start_controller(bundles="1")
    world.add_agent(DEVICE, policy={"max_bytes": 100_000})
    world.start_agent(DEVICE)
    publish(world, "1.0.0", pages(1))
    assert world.wait_for_end(DEVICE, "1.0.0").phase is Phase.SUCCEEDED
    assert (staged(world, "1.0.0").detail or {})["route"] == "full"

    source = publish(world, "1.1.0", pages(2))
    assert world.wait_for_end(DEVICE, "1.1.0").phase is Phase.SUCCEEDED
    told = staged(world, "1.1.0").detail or {}
    assert (told["route"], told["from"]) == ("bundle", "1.0.0")
    assert "fell_back" not in told
    assert told["wire_bytes"] <= told["expected_bytes"] < 10_000
    assert_on_disk(world, DEVICE, source, "1.1.0", package=NAME)

    noise = {**pages(2), "noise": hashlib.shake_256(b"noise").digest(150_000)}
    source = publish(world, "1.2.0", noise)
    end = world.wait_for_end(DEVICE, "1.2.0")
    assert end.phase is Phase.REJECTED
    assert end.error is not None
    assert end.error.code == "fetch.metered"
    world.command(DEVICE, Verb.RETRY, package=NAME, any_size=True)
    world.wait(lambda: world.wait_for_end(DEVICE, "1.2.0").phase is Phase.SUCCEEDED, "what was let through")
    assert (staged(world, "1.2.0").detail or {})["wire_bytes"] > 150_000
    assert_on_disk(world, DEVICE, source, "1.2.0", package=NAME)
