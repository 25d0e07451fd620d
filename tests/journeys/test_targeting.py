"""Whom a release is for, on real agents: tags, facts, channels, ids, exclusions, holds, late comers; two at once."""

import pytest

from controller.rollouts.plan import RolloutState, Verdict
from controller.rollouts.views import Rollout
from schemas.messages import BUCKETS, Phase, Targets
from tests.support.fleet import NO_PROBATION
from tests.support.front import Front
from tests.support.packages import build, make_source
from tests.support.world import CHANNEL, World

pytestmark = [pytest.mark.journey, pytest.mark.broker]


def publish(world: World, name: str, channel: str = CHANNEL, **targets: object) -> Rollout:
    """Announce 1.0.0 of a small package."""
    source = make_source(world.folder / "sources" / name, name, "1.0.0", {"name": name}, health=NO_PROBATION)
    wanted = Targets(**{"upto": BUCKETS, **targets})  # type: ignore[arg-type]  # fields of the struct, by name
    return world.publish(build(source, world.folder / "built"), channel, targets=wanted)


def has(world: World, device: str, *packages: str) -> bool:
    return set(packages) <= world.device(device).packages.keys()


def test_a_release_reaches_whom_it_is_for_and_nobody_else(world: World) -> None:
    world.start_controller()
    world.add_agent("pi-1", tags={"site": "bern"})
    world.add_agent("pi-2", facts={"camera": True})
    world.add_agent("pi-3", channel="beta")
    world.add_agent("pi-4")
    for device in ("pi-1", "pi-2", "pi-3"):
        world.start_agent(device)
    publish(world, "by-tag", where={"site": ["bern", "basel"]})
    publish(world, "by-fact", where={"camera": "true"})
    publish(world, "by-channel", "beta")
    publish(world, "by-id", upto=0, devices=["pi-2", "pi-3"])
    excluding = publish(world, "all-but", exclude=["pi-1"])
    publish(world, "all")
    wanted = {
        "pi-1": {"by-tag", "all"},
        "pi-2": {"by-fact", "by-id", "all-but", "all"},
        "pi-3": {"by-channel"},
        "pi-4": {"all-but", "all"},
    }
    world.start_agent("pi-4")  # it was never there before, and gets what its channel has
    for device, packages in wanted.items():
        world.wait(lambda device=device, packages=packages: has(world, device, *packages), f"{packages} on {device}")
    assert {device: set(world.device(device).packages) for device in wanted} == wanted
    excluded = world.rollout(excluding)
    assert {one.device: one.verdict for one in excluded.devices.items}["pi-1"] is Verdict.NOT_MEANT
    assert "pi-1 " in (said := world.flotilla("rollout", excluding.id).stdout)
    assert "1 device is left out by the release" in said

    # one that is held shows as held, and goes on when it is let go; the others do not wait for it
    world.desire("pi-1", hold=True)
    world.wait(lambda: '"hold": true' in world.agent("status", "pi-1", "--json").stdout, "pi-1 to be on hold")
    held = publish(world, "later")
    world.wait(lambda: has(world, "pi-2", "later") and has(world, "pi-4", "later"), "the others to have it")
    world.wait(lambda: world.rollout(held).rollout.state is RolloutState.COMPLETE, "nobody to be waited for")
    assert {one.device: one.verdict for one in world.rollout(held).devices.items}["pi-1"] is Verdict.HELD
    world.stop_agent("pi-1")  # and it has come back when it is let go
    world.start_agent("pi-1")
    world.desire("pi-1", hold=False)
    world.wait(lambda: has(world, "pi-1", "later"), "pi-1 to go on")


def test_of_two_rollouts_at_once_a_device_takes_one_after_the_other(world: World, repository: Front) -> None:
    world.add_agent("pi-1")
    world.start_agent("pi-1")
    with repository.holding("/objects/") as hold:
        first = publish(world, "first")
        world.wait(hold.reached.is_set, "the device to fetch")
        second = publish(world, "second")
        world.wait(lambda: any(e.package == "second" for e in world.events("pi-1")), "the device to hear of the second")
    for rollout in (first, second):
        world.wait(
            lambda rollout=rollout: world.rollout(rollout).rollout.verdicts == {Verdict.SUCCEEDED: 1}, "both to succeed"
        )
    told = [(event.package, event.phase) for event in world.events("pi-1")]
    assert told.index(("second", Phase.FETCHING)) > told.index(("first", Phase.SUCCEEDED))
    assert [package for package, phase in told if phase is Phase.SUCCEEDED] == ["first", "second"]


def test_one_device_is_cancelled_and_tried_again_by_the_command_line(world: World, repository: Front) -> None:
    for device in ("pi-1", "pi-2"):
        world.add_agent(device)
        world.start_agent(device)
    world.stop_agent("pi-2")
    with repository.holding("/objects/") as hold:
        rollout = publish(world, "tacho")
        world.wait(hold.reached.is_set, "pi-1 to fetch")
        assert "cancel of tacho 1.0.0" in world.flotilla("cancel", rollout.id, "--device", "pi-1").stdout
        end = world.wait_for_end("pi-1", "1.0.0")
    assert end.phase is Phase.CANCELLED
    # one that is away has said nothing, and says so when it is back
    assert world.flotilla("cancel", rollout.id, "--device", "pi-2").returncode == 0
    assert "held (cancel asked)" in world.flotilla("rollout", rollout.id).stdout
    world.start_agent("pi-2")
    assert world.wait_for_end("pi-2", "1.0.0").phase is Phase.CANCELLED
    assert world.phases("pi-2", "1.0.0") == [Phase.CANCELLED]
    world.wait(lambda: world.rollout(rollout).unanswered == 0, "both to have answered")

    assert world.flotilla("retry", rollout.id).returncode == 0
    world.wait(lambda: has(world, "pi-1", "tacho") and has(world, "pi-2", "tacho"), "both to have it after all")
    world.wait(lambda: world.rollout(rollout).rollout.verdicts == {Verdict.SUCCEEDED: 2}, "both to count as successes")
    assert world.rollout(rollout).unanswered == 0
