"""What operators do while devices update: newer releases, pausing, halting, reverting, pins, holds, retries."""

import pytest

from controller.rollouts.plan import RolloutState
from controller.rollouts.views import WaveState
from controller.rollouts.waves import OnFailure, RolloutPlan, Wave
from schemas.messages import Phase, Verb
from tests.support.fleet import Fleet
from tests.support.front import Front
from tests.support.gauge import NAME, UNDONE, UPDATED, running_version
from tests.support.world import World

pytestmark = [pytest.mark.journey, pytest.mark.broker]

DEVICE = "pi-1"
GONE_BACK = [Phase.ACCEPTED, Phase.ROLLING_BACK, Phase.ROLLED_BACK]


def test_a_newer_release_takes_the_place_of_one_that_has_not_switched(world: World, repository: Front) -> None:
    fleet = Fleet(world, DEVICE)
    fleet.install("1.0.0")
    with repository.holding("/objects/") as hold:
        older = fleet.publish("1.1.0")
        world.wait(hold.reached.is_set, "the device to fetch 1.1.0")
        fleet.publish("1.2.0")
        end = world.wait_for_end(DEVICE, "1.1.0")
    assert (end.phase, end.error and end.error.code) == (Phase.CANCELLED, "conflict.superseded")
    fleet.wait_for("1.2.0", Phase.SUCCEEDED)
    assert world.phases(DEVICE, "1.1.0") == [Phase.ACCEPTED, Phase.FETCHING, Phase.CANCELLED]
    assert world.phases(DEVICE, "1.2.0") == UPDATED
    assert world.rollout(older).rollout.state is RolloutState.SUPERSEDED
    fleet.assert_runs("1.2.0")


def test_a_newer_release_waits_for_one_that_has_switched(world: World) -> None:
    world.start_controller()
    fleet, cure = Fleet(world, DEVICE), world.folder / "cured"
    fleet.install("1.0.0")
    fleet.publish("1.1.0", waits_for=cure)
    world.wait_for_phase(DEVICE, Phase.SWITCHED, "1.1.0")
    fleet.publish("1.2.0")
    world.wait_for_phase(DEVICE, Phase.ACCEPTED, "1.2.0")
    assert world.phases(DEVICE, "1.2.0") == [Phase.ACCEPTED]
    cure.touch()
    fleet.wait_for("1.2.0", Phase.SUCCEEDED)
    assert world.phases(DEVICE, "1.1.0") == UPDATED
    assert world.phases(DEVICE, "1.2.0") == UPDATED
    proven = world.wait_for_end(DEVICE, "1.1.0").seq
    assert world.wait_for_phase(DEVICE, Phase.FETCHING, "1.2.0").seq > proven
    assert world.journal(DEVICE).installs[NAME].previous is not None
    fleet.assert_runs("1.2.0")


def test_the_same_announcement_again_changes_nothing(world: World) -> None:
    world.start_controller()
    fleet = Fleet(world, DEVICE)
    fleet.install("1.0.0")
    # retained: the device hears it with every connection; and the controller says it again with every start
    world.stop_agent(DEVICE)
    world.start_agent(DEVICE)
    world.kill_controller()
    world.restart_controller()
    fleet.settle(DEVICE)
    assert world.phases(DEVICE, "1.0.0") == UPDATED
    pids = fleet.services(DEVICE)

    # another rollout of the same release is news, but nothing to be done
    fleet.publish("1.0.0")
    world.wait(lambda: len([e for e in world.last_words(DEVICE) if e.version == "1.0.0"]) == 2, "the second rollout")
    assert world.phases(DEVICE, "1.0.0") == [*UPDATED, Phase.ACCEPTED, Phase.SUCCEEDED]
    assert fleet.services(DEVICE) == pids
    fleet.assert_runs("1.0.0")


def test_a_paused_rollout_starts_nobody_until_it_goes_on(world: World) -> None:
    world.start_controller()
    fleet = Fleet(world, DEVICE)
    fleet.install("1.0.0")
    world.stop_agent(DEVICE)
    rollout = fleet.publish("1.1.0")
    assert world.set_state(rollout, RolloutState.PAUSED).state is RolloutState.PAUSED
    world.start_agent(DEVICE)
    fleet.settle(DEVICE)
    assert world.phases(DEVICE, "1.1.0") == []
    world.set_state(rollout, RolloutState.ACTIVE)
    fleet.wait_for("1.1.0", Phase.SUCCEEDED)
    world.wait(lambda: world.rollout(rollout).rollout.state is RolloutState.COMPLETE, "the rollout to be complete")
    fleet.assert_runs("1.1.0")


def test_a_halted_rollout_stops_who_has_not_switched_and_nobody_else(world: World, repository: Front) -> None:
    fleet, cure = Fleet(world, DEVICE, "pi-2"), world.folder / "cured"
    fleet.install("1.0.0")
    world.stop_agent("pi-2")
    rollout = fleet.publish("1.1.0", waits_for=cure)
    world.wait_for_phase(DEVICE, Phase.SWITCHED, "1.1.0")
    with repository.holding("/objects/") as hold:
        world.start_agent("pi-2")
        world.wait(hold.reached.is_set, "pi-2 to fetch")
        world.set_state(rollout, RolloutState.HALTED)
        end = world.wait_for_end("pi-2", "1.1.0")
    assert (end.phase, end.error and end.error.code) == (Phase.CANCELLED, "conflict.halted")
    assert running_version(fleet.ports["pi-2"]) == "1.0.0"
    cure.touch()
    assert world.wait_for_end(DEVICE, "1.1.0").phase is Phase.SUCCEEDED

    world.set_state(rollout, RolloutState.ACTIVE)
    world.wait(lambda: world.wait_for_end("pi-2", "1.1.0").phase is Phase.SUCCEEDED, "pi-2 to take it after all")
    assert world.phases("pi-2", "1.1.0") == [Phase.ACCEPTED, Phase.FETCHING, Phase.CANCELLED, *UPDATED]
    fleet.assert_runs("1.1.0")


def test_a_reverted_rollout_takes_everybody_back_in_whatever_phase(world: World) -> None:
    world.start_controller()
    fleet, cure = Fleet(world, DEVICE, "pi-2", "pi-3"), world.folder / "cured"
    fleet.install("1.0.0")
    world.stop_agent("pi-3")
    world.stop_agent("pi-2")
    rollout = fleet.publish("1.1.0", waits_for=cure)
    cure.touch()
    assert world.wait_for_end(DEVICE, "1.1.0").phase is Phase.SUCCEEDED
    cure.unlink()
    world.start_agent("pi-2")
    world.wait_for_phase("pi-2", Phase.SWITCHED, "1.1.0")

    world.set_state(rollout, RolloutState.REVERTED)
    for device in (DEVICE, "pi-2"):
        world.wait_for_phase(device, Phase.ROLLED_BACK, "1.1.0")
    world.start_agent("pi-3")
    fleet.settle("pi-3")
    assert world.phases(DEVICE, "1.1.0") == [*UPDATED, *GONE_BACK]
    assert world.phases("pi-2", "1.1.0") == UNDONE
    assert world.phases("pi-3", "1.1.0") == []
    assert {e.error.code for e in world.events(DEVICE) if e.phase is Phase.ROLLED_BACK and e.error} == {
        "conflict.reverted"
    }
    fleet.assert_runs("1.0.0")


def test_a_pin_goes_before_the_channel_and_a_hold_before_both(world: World) -> None:
    world.start_controller()
    fleet = Fleet(world, DEVICE)
    fleet.install("1.0.0")
    fleet.publish("1.1.0")
    fleet.wait_for("1.1.0", Phase.SUCCEEDED)

    world.desire(DEVICE, pins={NAME: "1.0.0"})
    world.wait(lambda: running_version(fleet.ports[DEVICE]) == "1.0.0", "the pinned version to run")
    world.wait(lambda: world.last_words(DEVICE)[-1].version == "1.0.0", "the pinned version's last word")
    fleet.publish("1.2.0")
    fleet.settle(DEVICE)
    assert world.phases(DEVICE, "1.2.0") == []
    fleet.assert_runs("1.0.0")

    world.desire(DEVICE)
    fleet.wait_for("1.2.0", Phase.SUCCEEDED)

    world.desire(DEVICE, hold=True)
    world.wait(lambda: '"hold": true' in world.agent("status", DEVICE, "--json").stdout, "the device to be on hold")
    fleet.publish("1.3.0")
    world.wait_for_phase(DEVICE, Phase.DEFERRED, "1.3.0")
    assert world.events(DEVICE)[-1].detail == {"reason": "hold"}
    before = world.device(DEVICE).reported_at
    world.command(DEVICE, Verb.REPORT)
    world.wait(lambda: world.device(DEVICE).reported_at != before, "a report")
    assert world.phases(DEVICE, "1.3.0") == [Phase.ACCEPTED, Phase.DEFERRED]
    world.desire(DEVICE, hold=False)
    fleet.wait_for("1.3.0", Phase.SUCCEEDED)
    fleet.assert_runs("1.3.0")


def test_what_failed_is_tried_again_when_asked_for_and_not_before(world: World) -> None:
    world.start_controller()
    fleet, cure = Fleet(world, DEVICE), world.folder / "cured"
    fleet.install("1.0.0")
    rollout = fleet.publish("1.1.0", waits_for=cure, health={"start_period_s": 3})
    (end,) = fleet.wait_for("1.1.0", Phase.ROLLED_BACK)
    assert end.error is not None
    assert end.error.code == "health.http"
    assert [failure.code for failure in world.rollout(rollout).failures] == ["health.http"]
    assert running_version(fleet.ports[DEVICE]) == "1.0.0"

    cure.touch()
    world.stop_agent(DEVICE)
    world.start_agent(DEVICE)
    fleet.settle(DEVICE)
    assert world.phases(DEVICE, "1.1.0") == UNDONE
    world.command(DEVICE, Verb.RETRY, package=NAME)
    world.wait_for_phase(DEVICE, Phase.SUCCEEDED, "1.1.0")
    assert world.phases(DEVICE, "1.1.0") == [*UNDONE, *UPDATED]
    fleet.assert_runs("1.1.0")

    world.command(DEVICE, Verb.ROLLBACK, package=NAME)
    world.wait(lambda: world.phases(DEVICE, "1.1.0")[-3:] == GONE_BACK, "the rollback that was asked for")
    fleet.assert_runs("1.0.0")


def test_a_fetch_is_cancelled_at_once_and_goes_on_when_asked_for(world: World, repository: Front) -> None:
    fleet = Fleet(world, DEVICE)
    fleet.install("1.0.0")
    with repository.holding("/objects/") as hold:
        fleet.publish("1.1.0")
        world.wait(hold.reached.is_set, "the device to fetch")
        world.command(DEVICE, Verb.CANCEL, package=NAME)
        end = world.wait_for_end(DEVICE, "1.1.0", seconds=5)
    assert (end.phase, end.error and end.error.code) == (Phase.CANCELLED, "conflict.cancelled")
    fleet.assert_runs("1.0.0")
    world.command(DEVICE, Verb.RETRY, package=NAME)
    world.wait_for_phase(DEVICE, Phase.SUCCEEDED, "1.1.0")
    fleet.assert_runs("1.1.0")


@pytest.mark.long(37)
def test_a_canary_that_is_not_healthy_goes_back_and_takes_the_rollout_with_it(world: World) -> None:
    world.start_controller()
    fleet = Fleet(world, DEVICE, "pi-2", "pi-3")
    fleet.install("1.0.0")
    plan = RolloutPlan(waves=[Wave(devices=1, max_failures=0), Wave(upto=100)], on_failure=OnFailure.REVERT)
    rollout = fleet.publish("1.1.0", sick=True, plan=plan)
    (canary,) = rollout.targets.devices
    assert world.wait_for_end(canary, "1.1.0").phase is Phase.ROLLED_BACK
    world.wait(lambda: world.rollout(rollout).rollout.state is RolloutState.REVERTED, "the rollout to be taken back")
    detail = world.rollout(rollout)
    assert [wave.state for wave in detail.rollout.waves] == [WaveState.FAILED, WaveState.ENDED]
    assert detail.rollout.because.startswith("wave 1 of 2 (1 device): 1 rolled back")
    assert [(failure.code, failure.devices) for failure in detail.failures] == [("health.http", [canary])]
    others = set(fleet.ports) - {canary}
    for device in others:
        fleet.settle(device)
        assert world.phases(device, "1.1.0") == []
    fleet.assert_runs("1.0.0")

    # the next one is well: each wave is proven by devices that report it, and the last one is everybody
    mended = fleet.publish("1.2.0", plan=plan)
    fleet.wait_for("1.2.0", Phase.SUCCEEDED)
    world.wait(lambda: world.rollout(mended).rollout.state is RolloutState.COMPLETE, "the rollout to be complete")
    began = [wave.started_at for wave in world.rollout(mended).rollout.waves]
    proven = [wave.proven_at for wave in world.rollout(mended).rollout.waves]
    assert None not in began + proven
    fleet.assert_runs("1.2.0")
