"""What `flotilla release … --dry-run` foresees is what then happens on the devices."""

import json

import pytest

from controller.cli.bundles import wait_for_bundles
from controller.cli.releases import announce
from controller.cli.uploading import push_file
from schemas.messages import Phase
from tests.support.bundles import pages
from tests.support.fleet import NO_PROBATION
from tests.support.packages import build, make_source
from tests.support.world import CHANNEL, World

pytestmark = [pytest.mark.journey, pytest.mark.broker]

NAME = "book"
BUNDLES_S = 60.0
SIGNATURES = 8_000
"""Bytes of metadata that come besides what the preflight counts, at most."""


def push(world: World, version: str, number: int) -> None:
    source = make_source(world.folder / "sources" / version, NAME, version, pages(number), health=NO_PROBATION)
    push_file(world.client, build(source, world.folder / "built"))
    wait_for_bundles(world.client, NAME, version, BUNDLES_S)


def test_the_way_and_the_bytes_of_each_device_are_foreseen(world: World) -> None:
    world.start_controller(bundles="1")
    for device in ("pi-1", "pi-2", "pi-3"):
        world.add_agent(device)
    for device in ("pi-1", "pi-3"):
        world.start_agent(device)
    push(world, "1.0.0", 1)
    announce(world.client, name=NAME, version="1.0.0", channel=CHANNEL)
    for device in ("pi-1", "pi-3"):
        assert world.wait_for_end(device, "1.0.0").phase is Phase.SUCCEEDED
    world.wait(lambda: NAME in world.device("pi-1").packages and NAME in world.device("pi-3").packages, "the reports")
    world.stop_agent("pi-3")
    world.start_agent("pi-2")
    assert world.wait_for_end("pi-2", "1.0.0").phase is Phase.SUCCEEDED
    world.wait(lambda: NAME in world.device("pi-2").packages, "the report of pi-2")
    world.wait(lambda: not world.device("pi-3").online, "pi-3 to be away")
    push(world, "1.1.0", 2)

    wish = ("release", NAME, "1.1.0", "--channel", CHANNEL, "--exclude", "pi-2")
    said = world.flotilla(*wish, "--dry-run")
    assert said.returncode == 0, said.stderr
    for words in (f"{NAME} 1.1.0 on channel {CHANNEL}: 1 of 2", "bundle from 1.0.0", "offline", "nothing was changed"):
        assert words in said.stdout, said.stdout
    seen = json.loads(world.flotilla(*wish, "--dry-run", "--json").stdout)
    foreseen = {one["device"]: one for one in seen["devices"]}
    assert list(foreseen) == ["pi-1", "pi-3"]
    assert seen["estimate"]["seconds"] > 0
    assert world.phases("pi-1", "1.1.0") == []

    assert world.flotilla(*wish).returncode == 0
    assert world.wait_for_end("pi-1", "1.1.0").phase is Phase.SUCCEEDED
    (staged,) = [e for e in world.events("pi-1") if e.version == "1.1.0" and e.phase is Phase.STAGED]
    told = staged.detail or {}
    assert (told["route"], told["from"]) == (foreseen["pi-1"]["route"], foreseen["pi-1"]["from_version"])
    assert abs(told["wire_bytes"] - foreseen["pi-1"]["bytes"]) < SIGNATURES
    assert world.phases("pi-2", "1.1.0") == []
