"""Packages announced together are switched together or not at all, whatever fails, whenever the power does."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from device_agent.lifecycle import MAX_RESTARTS
from device_agent.service_watch import installs_at_rest
from device_agent.set_runner import SetRunner
from device_agent.sets import WAIT_S
from device_agent.updates import Cancelled
from schemas.errors import DeviceError, NetworkError
from schemas.manifest import Health, Requires
from schemas.messages import Phase, ReleaseSet
from tests.unit.agent.conftest import MakeDevice
from tests.unit.agent.device import LIMIT_S, Device, rollout, until
from tests.unit.agent.releases import Built, build

SET = ReleaseSet(id=rollout(77), packages={"engine": "2.0.0", "tacho": "2.0.0"})
HOOKS = ("pre_switch", "post_switch")
ENGINE = build("engine", "1.0.0")
TACHO = build("tacho", "1.0.0", requires=Requires(packages={"engine": "^1"}))
ENGINE_2 = build("engine", "2.0.0", hooks=HOOKS)
TACHO_2 = build("tacho", "2.0.0", hooks=HOOKS, requires=Requires(packages={"engine": "^2"}))
BEFORE, AFTER = (ENGINE, TACHO), (ENGINE_2, TACHO_2)
PREVIOUS = {"engine": ENGINE, "tacho": TACHO}


async def install_first(device: Device) -> Device:
    await device.update_to(ENGINE, 1)
    await device.update_to(TACHO, 2)
    device.power.calls.clear()
    device.power.points.clear()
    return device


@pytest.fixture
async def installed(device: Device) -> Device:
    """Runs engine 1.0.0 and tacho 1.0.0, which needs it."""
    return await install_first(device)


async def announce(device: Device, *built: Built, group: ReleaseSet = SET) -> list[str]:
    """The members' announcements come, the one that needs the other first; ids of the updates that they begin."""
    begun = []
    for one in built or (TACHO_2, ENGINE_2):
        number = {"engine": 11, "tacho": 12}[one.package]
        device.shelf.put(ENGINE_2, TACHO_2)
        submitted = await device.submit(one, number, group=group)
        begun += [submitted.update] if submitted.update else []
    return begun


async def at_rest(device: Device) -> None:
    await until(lambda: not device.journal.unfinished(), device._serving)
    await device.rest()
    await device.manager.clear_up(LIMIT_S)


def ends(device: Device, number: int = 2) -> dict[str, tuple[str, str]]:
    """How the newest updates ended: package to phase and error code."""
    newest = device.journal.history(limit=number)
    return {u.package: (str(u.phase), u.error.code if u.error else "") for u in newest}


async def test_all_members_are_switched_in_one_go(installed: Device) -> None:
    await announce(installed)
    await at_rest(installed)
    installed.assert_runs(*AFTER, previous=PREVIOUS)
    calls = [
        call for call in installed.power.calls if call.split()[0] in ("pre_switch", "stop", "post_switch", "start")
    ]
    # who is needed goes first, and stops last
    assert calls[:8] == [
        "pre_switch engine 2.0.0",
        "pre_switch tacho 2.0.0",
        "stop tacho",
        "stop engine",
        "post_switch engine 2.0.0",
        "post_switch tacho 2.0.0",
        "start engine 2.0.0",
        "start tacho 2.0.0",
    ]
    story = [line for line in installed.story() if " 2.0.0 " in line]
    both = ["switched", "probation", "succeeded"]
    assert {"engine 2.0.0 staged", "tacho 2.0.0 staged"} <= set(story[:-6])
    assert story[-6:] == [f"{name} 2.0.0 {phase}" for phase in both for name in ("engine", "tacho")]


async def test_members_have_succeeded_only_when_the_longest_probation_is_over(device: Device) -> None:
    long = Health(start_period_s=4, interval_s=1, retries=3, probation_s=300)
    engine, tacho = build("engine", "2.0.0"), build("tacho", "2.0.0", health=long)
    device.shelf.put(engine, tacho)
    for number, one in enumerate((engine, tacho)):
        await device.submit(one, 11 + number, group=SET)
    await at_rest(device)
    device.assert_runs(engine, tacho)
    assert {u.package: u.probation_done_s >= 300 for u in device.journal.history()} == {"engine": True, "tacho": True}


Failing = Callable[[Device], Any]
FAILURES: dict[str, tuple[Failing, str, str, str]] = {
    # what breaks, who is to blame, how it ends for that one, with which code
    "fetch": (
        lambda d: d.shelf.fetch_errors.append(NetworkError("fetch.not_found", "404")),
        "tacho",
        "failed",
        "fetch.not_found",
    ),
    "pre_switch": (lambda d: d.hooks.failing.add(("pre_switch", "2.0.0")), "engine", "failed", "hook.failed"),
    "post_switch": (lambda d: d.hooks.failing.add(("post_switch", "2.0.0")), "engine", "rolled_back", "hook.failed"),
    "start": (lambda d: d.services.unstartable.add(("tacho", "2.0.0")), "tacho", "rolled_back", "service.start"),
    "health": (lambda d: d.services.broken.add(("tacho", "2.0.0")), "tacho", "rolled_back", "service.crashed"),
    "probation": (
        lambda d: d.probe.results.__setitem__("2.0.0", [True] * 6 + [False] * 50),
        "",
        "rolled_back",
        "health.http",
    ),
}


@pytest.mark.parametrize("where", FAILURES)
async def test_where_one_fails_none_is_taken(installed: Device, where: str) -> None:
    breaks, culprit, phase, code = FAILURES[where]
    breaks(installed)
    await announce(installed)
    await at_rest(installed)
    installed.assert_runs(*BEFORE, spare_objects=True)
    ended = ends(installed)
    assert {end[0] for end in ended.values()} == {phase}
    blamed = culprit or next(name for name, end in ended.items() if end[1] == code)
    other = "engine" if blamed == "tacho" else "tacho"
    assert ended[blamed][1] == code
    assert ended[other][1] == "conflict.set"
    said = next(u.error for u in installed.journal.history(limit=2) if u.package == other)
    assert said is not None
    assert f"{blamed} 2.0.0" in said.message
    if phase == "failed":
        assert not [call for call in installed.power.calls if call.startswith("stop")]


async def test_a_device_that_lacks_what_one_needs_takes_none(installed: Device) -> None:
    installed.shelf.put(build("tacho", "2.0.0", requires=Requires(hardware=["Pi 5"])))
    installed.shelf.put(ENGINE_2)
    for name, number in (("engine", 11), ("tacho", 12)):
        built = installed.shelf.releases[name, "2.0.0"]
        await installed.submit(built, number, group=SET)
    await at_rest(installed)
    installed.assert_runs(*BEFORE, spare_objects=True)
    assert ends(installed) == {"tacho": ("rejected", "requires.hardware"), "engine": ("rejected", "conflict.set")}


async def test_requirements_are_checked_against_what_the_set_brings(installed: Device) -> None:
    only = ReleaseSet(id=rollout(78), packages={"engine": "1.5.0", "tacho": "2.0.0"})
    engine = build("engine", "1.5.0")
    installed.shelf.put(engine)
    await announce(installed, TACHO_2, engine, group=only)
    await at_rest(installed)
    installed.assert_runs(*BEFORE, spare_objects=True)
    assert ends(installed)["tacho"] == ("rejected", "requires.packages")


async def test_a_member_that_is_never_announced_here_is_waited_for_within_bounds(installed: Device) -> None:
    await announce(installed, ENGINE_2)
    await at_rest(installed)
    assert installed.clock.elapsed >= WAIT_S
    assert ends(installed, 1) == {"engine": ("rejected", "conflict.set")}
    error = installed.journal.history(limit=1)[0].error
    assert error is not None
    assert "tacho 2.0.0" in error.message
    installed.assert_runs(*BEFORE, spare_objects=True)


async def test_a_member_that_runs_already_is_no_obstacle(device: Device) -> None:
    await device.update_to(ENGINE_2, 1)
    await announce(device)
    await at_rest(device)
    device.assert_runs(ENGINE_2, TACHO_2)


async def test_cancelling_one_cancels_all(installed: Device) -> None:
    installed.clock.running.clear()  # nobody waits to the end for the other member
    await announce(installed, ENGINE_2)
    await until(lambda: installed.journal.unfinished()[0].phase is Phase.STAGED, installed._serving)
    installed.shelf.block = asyncio.Event()
    tacho = build("tacho", "2.0.0", files={"bin/run": (b"new", 0o755), "more": (b"more", 0o644)})
    installed.shelf.put(tacho)
    await installed.submit(tacho, 12, group=SET)
    await asyncio.wait_for(installed.shelf.blocked.wait(), LIMIT_S)
    await installed.manager.cancel("engine")
    installed.clock.running.set()
    await at_rest(installed)
    installed.assert_runs(*BEFORE, spare_objects=True)
    assert ends(installed) == {"engine": ("cancelled", "conflict.cancelled"), "tacho": ("cancelled", "conflict.set")}


async def test_a_cancellation_in_the_moment_in_which_one_begins_to_wait_counts(
    installed: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = SetRunner._attempt

    async def attempt(self: SetRunner) -> bool:
        installed.manager.hold(True)
        goes_on = await real(self)
        assert self.request_cancel(DeviceError("conflict.cancelled", "somebody wants that"))
        return goes_on

    monkeypatch.setattr(SetRunner, "_attempt", attempt)
    await announce(installed)
    await at_rest(installed)
    installed.assert_runs(*BEFORE, spare_objects=True)
    assert {end[0] for end in ends(installed).values()} == {"cancelled"}


async def test_going_back_on_request_is_for_all(installed: Device) -> None:
    reached = asyncio.Event()
    installed.probe.on_check = lambda _, rounds: reached.set() if rounds > 4 else None
    await announce(installed)
    await asyncio.wait_for(reached.wait(), LIMIT_S)
    await installed.manager.rollback("engine")
    await at_rest(installed)
    installed.assert_runs(*BEFORE)
    assert {end[0] for end in ends(installed).values()} == {"rolled_back"}


async def test_restarts_while_a_staged_member_waits_for_another_are_held_against_nobody(installed: Device) -> None:
    installed.clock.running.clear()
    await announce(installed, ENGINE_2)
    for _ in range(2 * MAX_RESTARTS):
        await until(lambda: installed.journal.unfinished()[0].phase is Phase.STAGED, installed._serving)
        await installed.restart()
    installed.clock.running.set()
    await announce(installed)
    await at_rest(installed)
    installed.assert_runs(*AFTER, previous=PREVIOUS)


async def test_services_of_members_are_the_sets_business_until_all_are_back(installed: Device) -> None:
    busy, watched = list[set[str]](), list[set[str]]()

    def look(version: str, _: int) -> None:
        if version == "2.0.0":
            busy.append({name for name in ("engine", "tacho", "other") if installed.manager.is_busy_with(name)})

    installed.probe.on_check = look
    installed.services.broken.add(("tacho", "2.0.0"))
    await announce(installed)
    while installed.journal.unfinished():
        if any(update.phase is Phase.ROLLING_BACK for update in installed.journal.unfinished()):
            # in this order: the journal is written to meanwhile, and what has ended in between is not both
            resting = installs_at_rest(installed.journal).keys()
            left = {update.package for update in installed.journal.unfinished()}
            watched.append(left & resting)
        await asyncio.sleep(0)
    await at_rest(installed)
    assert busy
    assert all(names == {"engine", "tacho"} for names in busy)
    assert watched
    assert not any(watched)
    assert installs_at_rest(installed.journal).keys() == {"engine", "tacho"}


async def test_a_retry_tries_the_whole_set(installed: Device) -> None:
    installed.hooks.failing.add(("post_switch", "2.0.0"))
    await announce(installed)
    await at_rest(installed)
    installed.hooks.failing.clear()
    assert await announce(installed) == []  # hearing of it again is no news
    await installed.manager.retry("tacho")
    await at_rest(installed)
    installed.assert_runs(*AFTER, previous=PREVIOUS)


async def test_a_set_that_failed_and_was_cancelled_is_still_tried_as_a_whole(installed: Device) -> None:
    installed.hooks.failing.add(("post_switch", "2.0.0"))
    await announce(installed)
    await at_rest(installed)
    failed = {one.package: one.id for one in installed.journal.history(limit=2)}
    for package, number in (("engine", 11), ("tacho", 12)):
        made = installed.manager.cancel(package, rollout=rollout(number), version="2.0.0", ended=failed[package])
        assert await made is Cancelled.CANCELLED
    assert {end[0] for end in ends(installed).values()} == {"cancelled"}
    installed.hooks.failing.clear()
    await installed.manager.retry("tacho", rollout=rollout(12))
    await at_rest(installed)
    installed.assert_runs(*AFTER, previous=PREVIOUS)


async def test_a_newer_wish_for_one_takes_the_set_apart(installed: Device) -> None:
    installed.clock.running.clear()
    await announce(installed, ENGINE_2)
    await until(lambda: installed.journal.unfinished()[0].phase is Phase.STAGED, installed._serving)
    newer = build("engine", "1.9.0")
    submitted = await installed.submit(newer, 20)
    installed.clock.running.set()
    assert submitted.update is not None
    await installed.end_of(submitted.update)
    await announce(installed, TACHO_2)
    await at_rest(installed)
    installed.assert_runs(newer, TACHO, previous={"engine": ENGINE}, spare_objects=True)


async def test_a_power_cut_between_the_moves_of_two_members_moves_neither(installed: Device) -> None:
    def between(point: str) -> bool:
        phases = [update.phase for update in installed.journal.unfinished()]
        return point == "after advance by done" and Phase.SWITCHED in phases

    installed.power.cut_when = between
    await cut(installed, announce)
    await installed.start(serve=False)
    assert {update.phase for update in installed.journal.unfinished()} == {Phase.STAGED}


@pytest.mark.parametrize("kind", ["healthy", "sick"])
@pytest.mark.timeout(300)
async def test_a_power_cut_anywhere_leaves_all_or_none(make_device: MakeDevice, kind: str) -> None:
    """Cuts spread over all points from the first announcement on; after the restart it is heard again."""

    async def prepared(name: str) -> Device:
        device = await install_first(await make_device(name).start())
        if kind == "sick":
            device.services.broken.add(("tacho", "2.0.0"))
        return device

    device = await prepared("undisturbed")
    await announce(device)
    await at_rest(device)
    points = list(enumerate(filter(steady, device.power.points), 1))
    assert len(points) > 50
    # between the moves of one and the other, where nothing but the transaction holds them together, and here and there
    moves = ("advance by done", "advance by go back")
    for number in sorted(
        {n for n, point in points if point.endswith(moves)} | {n for n, _ in points[:: 6 if kind == "healthy" else 12]}
    ):
        device = await prepared(f"cut-{number}")
        device.power.cut_when = at_steady_point(number)
        where = await cut(device, announce)
        await device.start()
        await announce(device)
        await at_rest(device)
        versions = {name: install.current.version for name, install in device.journal.installs().items()}
        if kind == "sick":
            assert versions == {"engine": "1.0.0", "tacho": "1.0.0"}, where
            device.assert_runs(*BEFORE, spare_objects=True)
        else:
            assert versions == {"engine": "2.0.0", "tacho": "2.0.0"}, where
            device.assert_runs(*AFTER, previous=PREVIOUS)
        await device.stop()


def steady(point: str) -> bool:
    """Whether a point comes the same number of times in every run; how often two are watched side by side varies."""
    return not any(word in point for word in ("check", "failed", "change"))


def at_steady_point(number: int) -> Callable[[str], bool]:
    """True at the so many-th steady point."""
    passed = itertools.count(1)
    return lambda point: steady(point) and next(passed) == number


async def cut(device: Device, act: Callable[[Device], Awaitable[Any]]) -> str:
    """Act until the power fails; gives the point."""
    try:
        await act(device)
    except BaseException as error:
        if type(error).__name__ != "PowerCutError":
            raise
        await device.stop()
        device.services.running.clear()
        device.power.back()
        return str(error)
    return await device.lose_power()
