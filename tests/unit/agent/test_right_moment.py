"""The right moment: hold, windows, the device's own health, and an application that says 'not now'."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from device_agent.conditions import Conditions
from device_agent.gate import Limits, Readings
from device_agent.readiness import Rules
from device_agent.seams import HookResult, ReleaseContext
from device_agent.updates import Cancelled, Origin, Update
from schemas.errors import DeviceError
from schemas.manifest import Hook, Hooks, ReadyHook
from schemas.messages import Phase, UpdateEvent, Window
from tests.unit.agent.conftest import MakeDevice
from tests.unit.agent.device import Device, rollout, until
from tests.unit.agent.fakes import FakeHooks
from tests.unit.agent.releases import Built, build

WELL = ["accepted", "fetching", "staged", "switched", "probation", "succeeded"]
ASKS = Hooks(ready=ReadyHook(command=["bin/run", "ready"], interval_s=60, longest_postponement_s=3600))
ONE, TWO, THREE = (build(version=version) for version in ("1.0.0", "1.1.0", "1.2.0"))
NIGHT = Window(start="22:00", end="23:00")  # the tests' clocks begin at 12:00


def asking() -> Built:
    """A release whose application is asked before it is replaced."""
    return Built(manifest=msgspec.structs.replace(ONE.manifest, hooks=ASKS), contents=ONE.contents)


class Application(FakeHooks):
    """Hooks of which `ready` says no, with a line, until a time or until it is told otherwise."""

    def __init__(self, device: Device) -> None:
        super().__init__(device.power)
        self._clock = device.clock
        self.busy_until: datetime | None = None
        self.asked_at: list[datetime] = []
        self.line = "the robot moves"

    async def run(self, name: str, hook: Hook, context: ReleaseContext) -> HookResult:
        if name == "ready":
            self.asked_at.append(self._clock.now())
            if self.busy_until is None or self._clock.now() < self.busy_until:
                raise DeviceError("hook.failed", "ready ended with 1", log_tail=f"looking\n{self.line}\n\n")
        return await super().run(name, hook, context)


class Weather:
    """Readings that a test may change, and that may change by themselves with time."""

    def __init__(self) -> None:
        self.now = Readings()
        self.of: Callable[[], Readings] = lambda: self.now

    def __call__(self) -> Readings:
        return self.of()


async def with_application(make_device: MakeDevice, **rules: Any) -> tuple[Device, Application]:
    device = make_device(conditions=Conditions(rules=Rules(**rules)))
    application = Application(device)
    device.hooks = application
    await device.start()
    await device.update_to(asking(), 1)
    return device, application


def deferred(device: Device, update: str | None = None) -> list[UpdateEvent]:
    return [e for e in device.events() if e.phase is Phase.DEFERRED and update in (None, e.update)]


def last_deferral(device: Device) -> dict[str, Any]:
    return deferred(device)[-1].detail or {}


async def waits(device: Device) -> Update:
    """The update that is deferred, once nothing is being done any more."""
    await until(lambda: device.manager.current_update() is None and bool(deferred(device)))
    (update,) = device.journal.unfinished()
    assert update.phase is Phase.DEFERRED
    return update


def at(device: Device, hours: float) -> datetime:
    return device.clock.now() + timedelta(hours=hours)


async def test_an_update_that_waits_for_a_hold_says_so(device: Device) -> None:
    device.manager.hold(True)
    submitted = await device.submit(ONE, 1)
    assert submitted.update is not None
    update = await waits(device)
    assert update.waiting is not None
    assert update.waiting.reason == "hold"
    assert last_deferral(device) == {"reason": "hold"}
    assert device.shelf.fetched == []
    device.manager.hold(False)
    await device.end_of(submitted.update)
    assert device.story(submitted.update) == ["accepted", "deferred", *WELL]
    device.assert_runs(ONE)


async def test_a_hold_goes_before_the_time_that_was_waited_for(device: Device) -> None:
    device.manager.hold(True)
    await device.submit(ONE, 1, not_before=at(device, 1), reason="window")
    await until(lambda: len(deferred(device)) == 2)
    assert [(e.detail or {})["reason"] for e in deferred(device)] == ["window", "hold"]
    assert (await waits(device)).waiting is not None
    device.manager.hold(False)
    await device.rest()
    device.assert_runs(ONE)


async def test_what_is_fetched_when_a_hold_comes_is_staged_and_waits(device: Device) -> None:
    device.shelf.block = asyncio.Event()
    submitted = await device.submit(ONE, 1)
    await device.shelf.blocked.wait()
    device.manager.hold(True)
    device.shelf.block.set()
    assert (await waits(device)).staged
    assert device.services.running == {}
    device.manager.hold(False)
    assert submitted.update is not None
    await device.end_of(submitted.update)
    way = ["accepted", "fetching", "staged", "deferred", "staged", "switched", "probation", "succeeded"]
    assert device.story(submitted.update) == way


async def test_going_back_is_not_held(device: Device) -> None:
    await device.update_to(ONE, 1)
    await device.update_to(TWO, 2)
    device.manager.hold(True)
    await device.end_of(await device.manager.rollback("tacho"))
    device.assert_runs(ONE)


async def test_nothing_starts_outside_the_owners_windows(make_device: MakeDevice) -> None:
    device = await make_device(conditions=Conditions(rules=Rules(windows=(NIGHT,)))).start()
    update = await device.update_to(ONE, 1)
    assert device.story(update.id) == ["accepted", "deferred", *WELL]
    assert last_deferral(device) == {
        "reason": "window",
        "not_before": "2026-03-01T22:00:00Z",
        "until": "2026-03-01T22:00:00Z",
    }
    fetching = next(e for e in device.events() if e.phase is Phase.FETCHING)
    assert fetching.at >= datetime(2026, 3, 1, 22, tzinfo=UTC)


async def test_a_fetch_that_outlasts_the_window_is_staged_and_waits_for_the_next_one(make_device: MakeDevice) -> None:
    device = make_device(conditions=Conditions(rules=Rules(windows=(Window(start="12:00", end="13:00"),))))
    await device.start()

    async def slowly() -> None:
        device.clock.elapsed += 1800

    device.shelf.pace = slowly
    submitted = await device.submit(ONE, 1)
    await until(lambda: bool(deferred(device)))
    device.shelf.pace = None
    assert submitted.update is not None
    fetched = list(device.shelf.fetched)
    await device.end_of(submitted.update)
    way = ["accepted", "fetching", "staged", "deferred", "staged", "switched", "probation", "succeeded"]
    assert device.story(submitted.update) == way
    assert last_deferral(device)["until"] == "2026-03-02T12:00:00Z"
    assert device.shelf.fetched == fetched
    device.assert_runs(ONE)


async def test_fetching_may_be_allowed_at_any_time(make_device: MakeDevice) -> None:
    rules = Rules(windows=(NIGHT,), fetch_outside_windows=True)
    device = await make_device(conditions=Conditions(rules=rules)).start()
    update = await device.update_to(ONE, 1)
    way = ["accepted", "fetching", "staged", "deferred", "staged", "switched", "probation", "succeeded"]
    assert device.story(update.id) == way
    times = {e.phase: e.at for e in device.events()}
    assert times[Phase.FETCHING] < datetime(2026, 3, 1, 13, tzinfo=UTC)
    assert times[Phase.SWITCHED] >= datetime(2026, 3, 1, 22, tzinfo=UTC)


async def test_the_rollouts_window_is_asked_again_at_a_retry_and_before_the_switch(device: Device) -> None:
    device.shelf.resolve_errors += [DeviceError("interrupted.fetch", "too little memory")]
    device.clock.elapsed = 3599
    update = await device.update_to(ONE, 1, window=Window(start="12:00", end="13:00"))
    reasons = [(e.detail or {})["reason"] for e in deferred(device)]
    assert reasons[0] == "retry"
    assert reasons[1:] == ["window"]
    assert (update.phase, update.attempt) == (Phase.SUCCEEDED, 2)
    starts = [e.at for e in device.events() if e.phase is Phase.FETCHING]
    assert min(starts) >= datetime(2026, 3, 2, 12, tzinfo=UTC)


async def test_by_hand_no_window_is_waited_for(make_device: MakeDevice) -> None:
    device = await make_device(conditions=Conditions(rules=Rules(windows=(NIGHT,)))).start()
    update = await device.update_to(ONE, 0, origin=Origin.FILE)
    assert device.story(update.id) == WELL


async def test_an_operator_lifts_the_rollouts_window_and_not_the_owners(make_device: MakeDevice) -> None:
    owners = Window(start="14:00", end="23:00")
    device = await make_device(conditions=Conditions(rules=Rules(windows=(owners,)))).start()
    device.clock.running.clear()
    await device.submit(ONE, 1, not_before=at(device, 10), window=NIGHT, reason="window")
    retried = await device.manager.retry("tacho")
    await until(lambda: len(deferred(device)) == 2)
    assert last_deferral(device)["until"] == "2026-03-01T14:00:00Z"
    device.clock.running.set()
    assert retried is not None
    assert retried.update is not None
    await device.end_of(retried.update)
    assert device.clock.now() < datetime(2026, 3, 1, 15, tzinfo=UTC)


async def test_an_application_that_says_not_now_is_asked_again_until_it_agrees(make_device: MakeDevice) -> None:
    device, application = await with_application(make_device)
    began = device.clock.now()
    application.busy_until = began + timedelta(minutes=10)
    update = await device.update_to(TWO, 2)
    way = ["accepted", "fetching", "staged", "deferred", "staged", "switched", "probation", "succeeded"]
    assert device.story(update.id) == way
    (told,) = deferred(device, update.id)
    detail = told.detail or {}
    assert (detail["reason"], detail["because"]) == ("not ready", "the robot moves")
    assert datetime.fromisoformat(detail["until"]) == application.asked_at[0] + timedelta(hours=1)
    pauses = {later - sooner for sooner, later in zip(application.asked_at, application.asked_at[1:], strict=False)}
    assert pauses == {timedelta(minutes=1)}
    # it was the running release that was asked, where it runs
    assert application.contexts["ready"].version == "1.0.0"
    device.assert_runs(TWO, previous={"tacho": asking()})


async def test_after_the_longest_postponement_it_goes_on_and_says_so(make_device: MakeDevice) -> None:
    device, application = await with_application(make_device)
    update = await device.update_to(TWO, 2)
    assert update.phase is Phase.SUCCEEDED
    switched = next(e for e in device.events() if e.phase is Phase.SWITCHED and e.update == update.id)
    assert switched.detail == {"not_ready": "the robot moves", "postponed_s": 3600.0}
    assert application.asked_at[-1] - application.asked_at[0] == timedelta(hours=1)


async def test_the_owner_has_the_last_word_on_the_longest_postponement(make_device: MakeDevice) -> None:
    device, application = await with_application(make_device, longest_postponement_s=120)
    await device.update_to(TWO, 2)
    assert application.asked_at[-1] - application.asked_at[0] == timedelta(minutes=2)


async def test_what_is_staged_outlives_restarts_and_the_postponement_goes_on(make_device: MakeDevice) -> None:
    device, application = await with_application(make_device)
    device.clock.running.clear()
    submitted = await device.submit(TWO, 2)
    await waits(device)
    fetched = list(device.shelf.fetched)
    calls = device.power.calls.count("resolve tacho 1.1.0 linux-aarch64")
    for _ in range(8):  # more than a loop of restarts would be
        await device.restart()
        device.clock.elapsed += 300
    device.clock.running.set()
    assert submitted.update is not None
    ended = await device.end_of(submitted.update)
    assert ended.phase is Phase.SUCCEEDED
    assert device.shelf.fetched == fetched
    assert device.power.calls.count("resolve tacho 1.1.0 linux-aarch64") == calls
    assert application.asked_at[-1] - application.asked_at[0] == timedelta(hours=1)
    assert len(deferred(device, submitted.update)) == 1
    device.assert_runs(TWO, previous={"tacho": asking()})


async def test_other_packages_are_updated_while_one_waits(make_device: MakeDevice) -> None:
    device, application = await with_application(make_device)
    submitted = await device.submit(TWO, 2)
    await until(lambda: bool(deferred(device)))
    other = build(package="camera", version="2.0.0")
    camera = await device.submit(other, 3)
    assert camera.update is not None
    ended = await device.manager.wait(camera.update, 20)
    assert ended is not None
    assert ended.phase is Phase.SUCCEEDED
    unfinished = [u.id for u in device.journal.unfinished()]
    assert unfinished == [submitted.update] or device.clock.now() > application.asked_at[0] + timedelta(hours=1)


async def test_an_update_that_waits_is_cancelled_and_what_was_staged_goes_away(make_device: MakeDevice) -> None:
    device, _ = await with_application(make_device)
    device.clock.running.clear()
    await device.submit(TWO, 2)
    await waits(device)
    assert await device.manager.cancel("tacho") is Cancelled.CANCELLED
    staged = device.folders.package("tacho").release("1.1.0", TWO.sha256)
    await until(lambda: not staged.exists() and not list(device.folders.trash.glob("*")))
    device.clock.running.set()
    await device.rest()
    device.assert_runs(asking(), spare_objects=True)


async def test_a_newer_release_takes_the_place_of_one_that_waits(make_device: MakeDevice) -> None:
    device, application = await with_application(make_device)
    device.clock.running.clear()
    await device.submit(TWO, 2)
    await waits(device)
    application.busy_until = device.clock.now()
    newer = await device.submit(THREE, 3)
    device.clock.running.set()
    assert newer.update is not None
    await device.end_of(newer.update)
    device.assert_runs(THREE, previous={"tacho": asking()})


async def test_what_was_installed_meanwhile_has_it_looked_at_anew(make_device: MakeDevice) -> None:
    device, application = await with_application(make_device)
    device.clock.running.clear()
    submitted = await device.submit(TWO, 2)
    update = await waits(device)
    # as after a revert of another rollout
    assert update.before is not None
    another = msgspec.structs.replace(update.before, previous=update.before.current)
    device.journal.change(update.id, before=another)
    application.busy_until = device.clock.now()
    device.clock.running.set()
    assert submitted.update is not None
    await device.end_of(submitted.update)
    assert device.story(submitted.update)[3:5] == ["deferred", "accepted"]
    device.assert_runs(TWO, previous={"tacho": asking()})


HOT = Readings(temperature_c=91.0)
LIMITS = Limits(temperature_c=85, interval_s=60, longest_s=1800)


async def test_a_device_that_is_too_hot_is_waited_for(make_device: MakeDevice) -> None:
    weather = Weather()
    device = await make_device(conditions=Conditions(rules=Rules(limits=LIMITS), readings=weather)).start()
    began = device.clock.now()
    weather.of = lambda: HOT if device.clock.now() < began + timedelta(minutes=20) else Readings(temperature_c=60)
    update = await device.update_to(ONE, 1)
    assert device.story(update.id) == ["accepted", "deferred", *WELL]
    detail = last_deferral(device)
    assert (detail["reason"], detail["because"]) == ("temperature", "91.0 °C, over 85 °C")
    assert datetime.fromisoformat(detail["until"]) == began + timedelta(seconds=1800)


async def test_a_device_that_stays_too_hot_fails_the_update(make_device: MakeDevice) -> None:
    weather = Weather()
    weather.now = HOT
    device = await make_device(conditions=Conditions(rules=Rules(limits=LIMITS), readings=weather)).start()
    update = await device.update_to(ONE, 1)
    assert device.story(update.id) == ["accepted", "deferred", "failed"]
    assert update.error is not None
    assert update.error.code == "health.device"
    assert "91.0 °C" in update.error.message
    assert device.shelf.fetched == []
    # it is not the release that is to blame
    assert device.journal.failed_before("tacho", ONE.sha256) is None


async def test_the_device_is_looked_at_right_before_the_switch_too(make_device: MakeDevice) -> None:
    weather = Weather()
    device = await make_device(conditions=Conditions(rules=Rules(limits=LIMITS), readings=weather)).start()
    weather.of = lambda: HOT if len(device.shelf.fetched) > 0 and len(deferred(device)) == 0 else Readings()
    update = await device.update_to(ONE, 1)
    assert device.story(update.id)[:5] == ["accepted", "fetching", "staged", "deferred", "staged"]
    assert update.phase is Phase.SUCCEEDED


async def test_a_device_that_is_not_well_with_a_release_goes_back(make_device: MakeDevice) -> None:
    weather = Weather()
    device = await make_device(conditions=Conditions(rules=Rules(limits=LIMITS), readings=weather)).start()
    await device.update_to(ONE, 1)
    weather.of = lambda: HOT if device.services.running.get("tacho") == {"web": "1.1.0"} else Readings()
    update = await device.update_to(TWO, 2)
    assert update.phase is Phase.ROLLED_BACK
    assert update.error is not None
    assert update.error.code == "health.device"
    assert "temperature: 91.0 °C" in update.error.message
    device.assert_runs(ONE)


async def test_going_back_does_not_depend_on_the_devices_health(make_device: MakeDevice) -> None:
    weather = Weather()
    device = await make_device(conditions=Conditions(rules=Rules(limits=LIMITS), readings=weather)).start()
    await device.update_to(ONE, 1)
    await device.update_to(TWO, 2)
    weather.now = HOT
    back = await device.end_of(await device.manager.rollback("tacho"))
    assert back.phase is Phase.ROLLED_BACK
    device.assert_runs(ONE)


@pytest.mark.parametrize("reason", ["hold", "window"])
async def test_hearing_of_the_rollout_again_does_not_end_the_wait(make_device: MakeDevice, reason: str) -> None:
    device = make_device(conditions=Conditions(rules=Rules(windows=(NIGHT,) if reason == "window" else ())))
    await device.start()
    device.clock.running.clear()
    device.manager.hold(reason == "hold")
    await device.submit(ONE, 1)
    await waits(device)
    await device.submit(ONE, 1)
    await device.submit(ONE, 1, not_before=at(device, 1), reason="jitter")
    await waits(device)
    assert [(e.detail or {})["reason"] for e in deferred(device)] == [reason]
    device.manager.hold(False)
    device.clock.running.set()
    await device.rest()
    device.assert_runs(ONE)


async def test_a_wait_is_told_once_though_time_goes_on_between_all_that_is_asked(make_device: MakeDevice) -> None:
    device, application = await with_application(make_device, limits=LIMITS)
    real = device.clock.now

    def ticking() -> datetime:
        device.clock.elapsed += 0.0137
        return real()

    device.clock.now = ticking  # type: ignore[method-assign]  # as clocks are: never the same twice
    application.busy_until = real() + timedelta(minutes=20)
    update = await device.update_to(TWO, 2)
    assert len(application.asked_at) > 10
    assert len(deferred(device, update.id)) == 1


@pytest.mark.parametrize("busy", [True, False])
async def test_a_clock_that_was_ahead_puts_nothing_off_for_long(make_device: MakeDevice, busy: bool) -> None:
    windows = () if busy else (NIGHT,)
    device, application = await with_application(make_device)
    await device.stop()
    device = make_device(conditions=Conditions(rules=Rules(windows=windows)))
    device.hooks, device.shelf, device.services = application, device.shelf, device.services
    device.clock = application._clock
    device.clock.jumped = timedelta(days=900)
    device.clock.running.clear()
    await device.start()
    await device.submit(TWO, 2)
    await waits(device)
    application.busy_until = datetime(2026, 3, 1, 12, tzinfo=UTC)
    device.clock.jumped = timedelta(0)
    device.clock.running.set()
    await device.rest()
    assert device.journal.installs()["tacho"].current.version == "1.1.0"
    assert device.clock.now() < datetime(2026, 3, 3, tzinfo=UTC)


async def test_a_paused_rollout_leaves_what_is_staged_and_a_halted_one_does_not(make_device: MakeDevice) -> None:
    device, _ = await with_application(make_device)
    device.clock.running.clear()
    submitted = await device.submit(TWO, 2)
    await waits(device)
    await device.manager.pause(rollout(2))
    assert (await waits(device)).id == submitted.update
    await device.manager.halt(rollout(2), "the rollout was halted")
    assert device.journal.unfinished() == []
    assert device.story(submitted.update)[-1] == "cancelled"


async def test_a_question_that_is_not_answered_does_not_keep_an_update_from_being_cancelled(
    make_device: MakeDevice,
) -> None:
    device, application = await with_application(make_device)
    application.busy_until = device.clock.now()
    application.block = ("ready", "1.0.0")
    submitted = await device.submit(TWO, 2)
    await application.blocked.wait()
    assert await device.manager.cancel("tacho") is Cancelled.CANCELLED
    await device.rest()
    assert device.story(submitted.update) == ["accepted", "fetching", "staged", "cancelled"]
    device.assert_runs(asking(), spare_objects=True)


async def test_a_retry_of_what_is_staged_asks_the_application_at_once_and_no_more(make_device: MakeDevice) -> None:
    device, application = await with_application(make_device)
    device.clock.running.clear()
    submitted = await device.submit(TWO, 2)
    await waits(device)
    asked, fetched = len(application.asked_at), list(device.shelf.fetched)
    await device.manager.retry("tacho")
    await until(lambda: len(application.asked_at) > asked)
    assert (await waits(device)).staged
    application.busy_until = device.clock.now()
    await device.manager.retry("tacho")
    device.clock.running.set()
    assert submitted.update is not None
    await device.end_of(submitted.update)
    assert device.shelf.fetched == fetched
    assert len(application.asked_at) == asked + 2
