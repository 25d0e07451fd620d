"""Agents, the controller and the broker are killed in the middle of things: nothing is half done, nothing is lost."""

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from schemas.messages import LAST_WORDS, Phase
from schemas.topics import DEFAULT_ROOT
from tests.support.at_broker import retained, say
from tests.support.fleet import Fleet
from tests.support.front import Front
from tests.support.gauge import NAME, UNDONE, UPDATED, Gate, running_version
from tests.support.wholeness import assert_on_disk
from tests.support.world import CHANNEL, World, source_tree

pytestmark = [pytest.mark.journey, pytest.mark.broker]

DEVICE = "pi-1"


def phase_in_journal(world: World, device: str) -> Phase | None:
    """Of the newest update."""
    return world.journal(device).updates[-1].phase


def kill_in(world: World, phase: Phase) -> None:
    """SIGKILL for the agent; its journal must say that it was in `phase`, and its service must be gone with it."""
    world.kill_agent(DEVICE)
    assert phase_in_journal(world, DEVICE) is phase


@dataclass(frozen=True, kw_only=True)
class Kill:
    """Where an update is held so that it can be killed there.

    Attributes:
        phase: that the journal is in.
        holds: part of the path of requests that are not answered, if it is one of those that waits.
        old_hook, new_hook: hook of the old or new release that waits.
        sick: whether the new release is never healthy.
        waits: whether the new release is not healthy before it is told.
        health: of the new release.
        runs: which release the link leads to while the agent is dead.
    """

    phase: Phase
    holds: str | None = None
    old_hook: str | None = None
    new_hook: str | None = None
    sick: bool = False
    waits: bool = False
    health: dict[str, Any]
    runs: str


QUICK: dict[str, Any] = {}
SOON_SICK: dict[str, Any] = {"start_period_s": 0.5}

KILLS = {
    "accepted": Kill(phase=Phase.ACCEPTED, holds="/timestamp.json", health=QUICK, runs="1.0.0"),
    "fetching": Kill(phase=Phase.FETCHING, holds="/objects/", health=QUICK, runs="1.0.0"),
    "staged": Kill(phase=Phase.STAGED, new_hook="pre_switch", health=QUICK, runs="1.0.0"),
    "half switched": Kill(phase=Phase.STAGED, new_hook="post_switch", health=QUICK, runs="1.1.0"),
    "switched": Kill(phase=Phase.SWITCHED, waits=True, health=QUICK, runs="1.1.0"),
    "probation": Kill(phase=Phase.PROBATION, health={"probation_s": 2.0}, runs="1.1.0"),
    "rolling back": Kill(phase=Phase.ROLLING_BACK, new_hook="pre_rollback", sick=True, health=SOON_SICK, runs="1.1.0"),
    "half rolled back": Kill(
        phase=Phase.ROLLING_BACK, old_hook="post_rollback", sick=True, health=SOON_SICK, runs="1.0.0"
    ),
}


@pytest.mark.long(33)
@pytest.mark.parametrize("kill", [pytest.param(kill, id=name) for name, kill in KILLS.items()])
def test_an_agent_killed_in_any_phase_ends_on_a_whole_release(world: World, repository: Front, kill: Kill) -> None:
    gate, cure = Gate(world.folder / "gate"), world.folder / "cured"
    fleet = Fleet(world, DEVICE)
    fleet.install("1.0.0", hooks={kill.old_hook: gate} if kill.old_hook else None)
    fleet.make(
        "1.1.0",
        sick=kill.sick,
        waits_for=cure if kill.waits else None,
        hooks={kill.new_hook: gate} if kill.new_hook else None,
        health=kill.health,
    )

    with ExitStack() as held:
        hold = held.enter_context(repository.holding(kill.holds)) if kill.holds else None
        fleet.publish("1.1.0")
        world.wait(lambda: world.journal(DEVICE).updates[-1].version == "1.1.0", "the update to begin")
        world.wait(lambda: phase_in_journal(world, DEVICE) is kill.phase, f"the update to be {kill.phase}")
        if hold:
            world.wait(hold.reached.is_set, "the agent to ask for it")
        if kill.old_hook or kill.new_hook:
            world.wait(lambda: gate.reached(DEVICE), "the hook to be reached")
        kill_in(world, kill.phase)

    assert world.current_tree(DEVICE, NAME) == source_tree(fleet.sources[kill.runs])
    world.wait(lambda: running_version(fleet.ports[DEVICE]) == "", "the service to be gone with the agent")
    gate.open()
    cure.touch()
    world.start_agent(DEVICE)

    ends = Phase.ROLLED_BACK if kill.sick else Phase.SUCCEEDED
    assert world.wait_for_end(DEVICE, "1.1.0").phase is ends
    assert world.phases(DEVICE, "1.1.0") == (UNDONE if kill.sick else UPDATED)
    fleet.assert_runs("1.0.0" if kill.sick else "1.1.0")


def test_an_agent_killed_twice_between_the_switch_and_the_services_start(world: World, repository: Front) -> None:
    gate = Gate(world.folder / "gate")
    fleet = Fleet(world, DEVICE)
    fleet.install("1.0.0")
    fleet.publish("1.1.0", hooks={"post_switch": gate})

    for _ in range(2):
        world.wait(lambda: gate.reached(DEVICE), "the hook to be reached")
        kill_in(world, Phase.STAGED)
        assert world.current_tree(DEVICE, NAME) == source_tree(fleet.sources["1.1.0"])
        assert running_version(fleet.ports[DEVICE]) == ""
        gate.forget(DEVICE)
        world.start_agent(DEVICE)
    world.wait(lambda: gate.reached(DEVICE), "the hook to be reached")
    assert world.journal(DEVICE).updates[-1].restarts == 2
    gate.open()

    assert world.wait_for_end(DEVICE, "1.1.0").phase is Phase.SUCCEEDED
    assert world.phases(DEVICE, "1.1.0") == UPDATED
    fleet.assert_runs("1.1.0")


def test_an_agent_killed_in_its_first_installation_ends_on_it(world: World, repository: Front) -> None:
    gate = Gate(world.folder / "gate")
    fleet = Fleet(world, DEVICE)
    world.start_agent(DEVICE)
    fleet.publish("1.0.0", hooks={"post_switch": gate})
    world.wait(lambda: gate.reached(DEVICE), "the hook to be reached")
    kill_in(world, Phase.STAGED)
    gate.open()
    world.start_agent(DEVICE)
    assert world.wait_for_end(DEVICE, "1.0.0").phase is Phase.SUCCEEDED
    fleet.assert_runs("1.0.0")
    # what all of this rests on: one byte that differs is seen
    (fleet.sources["1.0.0"] / "share" / "needle.bin").write_bytes(b"other")
    with pytest.raises(AssertionError):
        assert_on_disk(world, DEVICE, fleet.sources["1.0.0"], "1.0.0")


def test_a_controller_killed_while_events_come_in_has_every_event_once(world: World) -> None:
    world.start_controller()
    gate = Gate(world.folder / "gate")
    fleet = Fleet(world, "pi-1", "pi-2", "pi-3")
    fleet.install("1.0.0")

    rollout = fleet.publish("1.1.0", hooks={"pre_switch": gate})
    for device in fleet.ports:
        world.wait(partial(gate.reached, device), f"{device} to reach the hook")
    gate.open()
    world.wait(lambda: any(Phase.SWITCHED in phases_taken(world, device) for device in fleet.ports), "a first switch")
    world.kill_controller()
    untold = [device for device in fleet.ports if not LAST_WORDS.intersection(phases_taken(world, device))]
    assert untold, "there was nothing left to come in"
    for device in fleet.ports:
        world.wait(partial(ended, world, device, "1.1.0"), f"{device} to end without a controller")
    world.restart_controller()

    fleet.wait_for("1.1.0", Phase.SUCCEEDED)
    assert all(world.phases(device, "1.1.0") == UPDATED for device in fleet.ports)
    fleet.assert_runs("1.1.0")
    world.wait(lambda: world.rollout(rollout).rollout.state == "complete", "the rollout to be complete")


def test_a_broker_killed_in_mid_rollout_loses_nothing(world: World) -> None:
    world.start_controller()
    gate = Gate(world.folder / "gate")
    fleet = Fleet(world, "pi-1", "pi-2", "pi-3")
    fleet.install("1.0.0")

    rollout = fleet.publish("1.1.0", hooks={"pre_switch": gate})
    for device in fleet.ports:
        world.wait(partial(gate.reached, device), f"{device} to reach the hook")
    world.broker.kill()
    # whoever was connected right before the switch must reach the broker after it
    for device in fleet.ports:
        log = world.processes.log(device)
        world.wait(lambda log=log: "action=disconnected" in log.read_text(), f"{device} to miss the broker")
    gate.open()
    for device in fleet.ports:
        world.wait(partial(ended, world, device, "1.1.0"), f"{device} to end without a broker")
    assert not any(LAST_WORDS.intersection(phases_taken(world, device, "1.1.0")) for device in fleet.ports)
    world.broker.start()

    fleet.wait_for("1.1.0", Phase.SUCCEEDED)
    assert all(world.phases(device, "1.1.0") == UPDATED for device in fleet.ports)
    fleet.assert_runs("1.1.0")
    world.wait(lambda: world.rollout(rollout).rollout.state == "complete", "the rollout to be complete")
    # a broker may lose more than what was under way: the controller says again what is announced
    world.stop_controller()
    topic = f"{DEFAULT_ROOT}/release/{CHANNEL}/{NAME}"
    say(world.broker.url, topic, b"")
    assert topic not in retained(world.broker.url, topic)
    world.restart_controller()
    world.wait(lambda: topic in retained(world.broker.url, topic), "the announcement to be there again")
    late = Fleet(world, "pi-4")
    late.sources.update(fleet.sources)
    world.start_agent("pi-4")
    assert world.wait_for_end("pi-4", "1.1.0").phase is Phase.SUCCEEDED
    late.assert_runs("1.1.0")


def phases_taken(world: World, device: str, version: str = "1.1.0") -> set[Phase]:
    """What the controller's database holds of an update, whether the controller runs or not."""
    return {event.phase for _, event in world.database_rows(device) if event.version == version}


def ended(world: World, device: str, version: str) -> bool:
    """Whether the device itself has ended its update."""
    update = world.journal(device).updates[-1]
    return update.version == version and update.phase in LAST_WORDS
