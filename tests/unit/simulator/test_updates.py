"""How the steps of a simulated update follow each other."""

import asyncio
import os
from datetime import UTC, datetime, timedelta

from device_agent.simulator.course import FAILURES, Course
from device_agent.simulator.memory import MemoryJournal
from device_agent.simulator.updates import SimulatedUpdates
from device_agent.updates import UpdateRequest
from schemas.messages import Phase, ReleaseSet, UpdateEvent
from tests.support.links import until
from tests.unit.fleet.builders import an_id

WELL = [Phase.ACCEPTED, Phase.FETCHING, Phase.STAGED, Phase.SWITCHED, Phase.PROBATION, Phase.SUCCEEDED]


class Bench:
    """Updates that go as `course` says, and the phases of what they told."""

    def __init__(self, course: Course) -> None:
        self.told: list[Phase] = []
        self.journal = journal = MemoryJournal(
            device="pi-1", boot_id="boot-1", on_begun=lambda: None, on_event=self._told, on_confirmed=lambda *_: None
        )
        self.updates = SimulatedUpdates(
            journal,
            course=lambda _package, _version: course,
            now=lambda: datetime.now(UTC),
            random_bytes=os.urandom,
            fall_silent=lambda: None,
        )

    def _told(self, event: UpdateEvent) -> None:
        self.told.append(event.phase)


async def test_steps_without_a_pause_follow_each_other_at_once_but_behind_whoever_asked() -> None:
    bench = Bench(Course(size=1))
    await bench.updates.submit(UpdateRequest(package="tacho", version="1.0.0"))
    assert bench.told == WELL[:1]
    await asyncio.sleep(0)
    assert bench.told == WELL


async def test_a_step_that_takes_its_time_is_waited_for() -> None:
    bench = Bench(Course(size=1, switch_s=0.2))
    await bench.updates.submit(UpdateRequest(package="tacho", version="1.0.0"))
    await asyncio.sleep(0)
    assert bench.told == WELL[:3]
    await until(lambda: bench.told == WELL)


async def test_what_only_a_pin_asked_for_stops_with_it_and_nothing_else_does() -> None:
    bench = Bench(Course(size=1, fetch_s=60.0))
    await bench.updates.submit(UpdateRequest(package="tacho", version="1.0.0"))
    await asyncio.sleep(0)
    await bench.updates.unpin("radio")
    assert bench.told[-1] is Phase.FETCHING
    await bench.updates.unpin("tacho")
    assert bench.told[-1] is Phase.CANCELLED
    await bench.updates.submit(UpdateRequest(package="tacho", version="1.1.0", rollout=an_id(1)))
    await bench.updates.unpin("tacho")
    assert bench.told[-1] is Phase.ACCEPTED
    bench.updates.end()


async def test_what_is_put_off_begins_in_time_and_nothing_begins_after_the_end() -> None:
    bench = Bench(Course(size=1))
    soon = datetime.now(UTC) + timedelta(seconds=0.05)
    await bench.updates.submit(UpdateRequest(package="tacho", version="1.0.0", not_before=soon))
    assert bench.told == [Phase.DEFERRED]
    await until(lambda: bench.told == [Phase.DEFERRED, *WELL])
    await bench.updates.submit(UpdateRequest(package="tacho", version="1.1.0"))
    bench.updates.end()
    await asyncio.sleep(0.05)  # what must not happen has no condition to wait for
    assert bench.told[-1] is Phase.ACCEPTED


async def test_where_one_of_a_set_goes_back_all_of_it_does_and_nothing_stands_still() -> None:
    told: list[tuple[str, Phase]] = []
    courses = {"engine": Course(size=1), "tacho": Course(size=1, failure=FAILURES[0])}
    updates = SimulatedUpdates(
        MemoryJournal(
            device="pi-1",
            boot_id="boot-1",
            on_begun=lambda: None,
            on_event=lambda event: told.append((event.package, event.phase)),
            on_confirmed=lambda *_: None,
        ),
        course=lambda package, _version: courses[package],
        now=lambda: datetime.now(UTC),
        random_bytes=os.urandom,
        fall_silent=lambda: None,
    )
    group = ReleaseSet(id=an_id(1), packages=dict.fromkeys(courses, "1.0.0"))
    for number, package in enumerate(courses, 2):
        await updates.submit(UpdateRequest(package=package, version="1.0.0", rollout=an_id(number), group=group))
    await until(lambda: {told_last(told, package) for package in courses} == {Phase.ROLLED_BACK})
    assert Phase.SUCCEEDED not in {phase for _, phase in told}
    assert Phase.PROBATION in {phase for _, phase in told}


def told_last(told: list[tuple[str, Phase]], package: str) -> Phase | None:
    return next((phase for name, phase in reversed(told) if name == package), None)


async def test_whoever_waits_for_events_finds_all_that_were_written_in_the_same_moment() -> None:
    bench = Bench(Course(size=1))
    waiting = asyncio.create_task(bench.journal.wait_for_events(0, 10))
    await asyncio.sleep(0)
    await bench.updates.submit(UpdateRequest(package="tacho", version="1.0.0"))
    assert await waiting
    assert len(bench.journal.unsent()) == len(WELL)
    assert await bench.journal.wait_for_events(len(WELL) - 1, 10)


async def test_a_wait_for_events_has_an_end_and_the_next_one_hears_of_them_again() -> None:
    bench = Bench(Course(size=1))
    assert not await bench.journal.wait_for_events(0, 0.01)
    given_up = asyncio.create_task(bench.journal.wait_for_events(0, 10))
    await asyncio.sleep(0)
    given_up.cancel()
    waiting = asyncio.create_task(bench.journal.wait_for_events(0, 10))
    await asyncio.sleep(0)
    await bench.updates.submit(UpdateRequest(package="tacho", version="1.0.0"))
    assert await waiting
