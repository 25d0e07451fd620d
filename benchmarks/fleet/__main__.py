"""What a controller costs with simulated fleets, held against bars; the exit status says whether they are kept.

For each size, in one run: releases to everybody at once (no soak, devices that take no time for an update), timed from
the request to the last verdict while the rollout's page is asked for again and again, and as many of which nobody reads
the page, for the controller's processor time; then bare paho-mqtt clients that move as many messages of the same sizes
through the same broker; then another fleet while whose rollout the controller and the broker are each killed once. Of
small fleets there are several of each: the median time counts, and all the processor time. The fleet has had releases
before: what a controller does once in its life, such as reading its templates, is not what is measured. Nor is what
some virtual machines do to processes that rest, whose memory they take away and give back slowly, on those processes'
account: a rollout is timed right after another one that is not, and so are the bare clients' messages. What memory left
alone costs on this machine just now stands above the table.

An event's processor time is the controller's from the request to the last report after the rollout, without what is no
event's, each measured in the same run: what the controller takes while nothing happens, and what such a request takes
on a channel that no device follows. What it is with these two stands beside it.
"""

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.common import CONSOLE, print_table, state_idle_memory, state_machine
from benchmarks.fleet import bare
from benchmarks.fleet.field import Field
from benchmarks.fleet.processes import cpu_seconds, resident_mib

SIZES = (100, 1_000, 10_000)
TIMES_BARE = 2.0
CPU_US = 150.0
GROWTH = 1.25
"""The processor time for an event may be this much more for ten times the devices: it grows linearly."""
MEMORY_MIB = 200.0
ANSWER_MS = 200.0
POLL_S = 0.001
"""What the last verdict is seen late by: a bare client hears of its last message at once."""
MEMORY_EVERY_S = 0.02
ASK_EVERY_S = 0.25
ANSWERS = 30
REQUESTS = 10
IDLE_SAMPLES = 5
BOUND_S = 900.0


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One fleet's. Times in seconds.

    Attributes:
        bare_cpu: processor time that a bare subscriber takes for a message: what this machine is worth just now.
        seconds: of a rollout whose page is read.
        cpu: the controller's processor time for one whose page nobody reads, and `events` that one's.
        idle: what of it a controller takes in which nothing happens.
        request: what of it the release takes where there is no device.
        answers: of the rollout's page, in order of their length.
        kept: events sent, stored and different ones of the fleet with kills; None where there was none.
    """

    devices: int
    messages: int
    seconds: float
    bare_seconds: float
    bare_cpu: float
    cpu: float
    idle: float
    request: float
    events: int
    memory: float
    answers: list[float]
    sent: int
    stored: tuple[int, int]
    kept: tuple[int, int, int] | None
    load: float

    @property
    def cpu_us(self) -> float:
        """The controller's processor time for one event, in microseconds."""
        return (self.cpu - self.idle - self.request) / self.events * 1e6

    @property
    def all_us(self) -> float:
        """All of its processor time by the number of events, in microseconds."""
        return self.cpu / self.events * 1e6

    @property
    def p99_ms(self) -> float:
        """99 of 100 answers came within this, in milliseconds."""
        return self.answers[min(len(self.answers) - 1, len(self.answers) * 99 // 100)] * 1000

    @property
    def limit(self) -> float:
        """What the time may be."""
        return TIMES_BARE * self.bare_seconds


@dataclass(frozen=True, kw_only=True)
class Round:
    """One rollout. `cpu` is all that the controller took, and `elapsed` for how long it was looked at.

    `pause` is how long the one before it, which is not measured, was over.
    """

    pause: float
    seconds: float
    elapsed: float
    cpu: float
    memory: float
    answers: list[float]
    events: int
    others: int
    bytes: int


def rounds_of(devices: int) -> int:
    """How many rollouts of each kind are measured: one is over too soon where there are few devices."""
    return max(1, min(5, 2000 // devices))


def measure(devices: int, processes: int, *, kills: bool) -> Figures:
    """Rollouts, the bare clients, and a rollout with kills."""
    number = rounds_of(devices)
    versions = [f"1.0.{patch}" for patch in range(4 * number + 1)]
    with tempfile.TemporaryDirectory(prefix="flotilla-bench-") as name, Field(Path(name), devices, versions) as field:
        field.start_fleet("--pace", "0", "--processes", str(processes))
        field.rest()
        for _ in range(2):  # the second time it takes the place of another one
            first = field.release(versions[0])
            field.wait(partial(field.all_succeeded, first), "the release before", BOUND_S)
        for _ in range(ANSWERS):
            field.page(first)
        field.rest()
        idle = _idle(field)
        pairs = list(zip(versions[1::2], versions[2::2], strict=True))
        rounds = [_round(field, *pair) for pair in pairs[:number]]
        unread = [_round(field, *pair, read=False) for pair in pairs[number:]]
        request = _cost_of_a_release(field, idle)
        events, others = (sum(one.events for one in rounds), sum(one.others for one in rounds))
        each = max(1, round(sum(one.bytes for one in rounds) / (events + others)))
        count = max(1, round((events + others) / devices / number))
        host, port = "127.0.0.1", field.broker.port
        load, sent, stored = os.getloadavg()[0], field.sent, field.stored()
        field.stop_fleet()  # a broker may have too few file descriptors for both
        time.sleep(3)  # their goodbyes
        pause_s = statistics.median(one.pause for one in rounds)
        moved = partial(bare.measure, host, port, clients=devices, sizes=[each] * count, processes=processes)
        bare_rounds = [moved(pause_s=pause_s) for _ in rounds]
    return Figures(
        devices=devices,
        messages=(events + others) // number,
        seconds=statistics.median(one.seconds for one in rounds),
        bare_seconds=statistics.median(seconds for seconds, _ in bare_rounds),
        bare_cpu=statistics.median(spent for _, spent in bare_rounds),
        cpu=sum(one.cpu for one in unread) / number,
        idle=sum(idle * one.elapsed for one in unread) / number,
        request=request,
        events=sum(one.events for one in unread) // number,
        memory=max(one.memory for one in rounds + unread),
        answers=sorted(answer for one in rounds for answer in one.answers),
        sent=sent,
        stored=stored,
        kept=survive(devices, processes) if kills else None,
        load=load,
    )


def _round(field: Field, before_it: str, version: str, *, read: bool = True) -> Round:
    """Release a version to a fleet that has just had another one, and perhaps have its page read meanwhile."""
    field.rest()
    _rollout(field, before_it, read=read)
    over = time.monotonic()
    field.catch_up()
    before, cpu = field.told, cpu_seconds(field.controller)
    began = time.monotonic()
    seconds, memory, answers = _rollout(field, version, read=read)
    field.catch_up()
    field.wait(lambda: field.stored()[0] >= field.sent, "storing every event", 120)
    spent, elapsed = cpu_seconds(field.controller) - cpu, time.monotonic() - began
    after = field.told
    events = after["messages"]["events"] - before["messages"].get("events", 0)
    others = sum(after["messages"].values()) - sum(before["messages"].values()) - events
    CONSOLE.print(f"{field.devices} devices: {seconds:.2f} s, {events} events and {others} other messages")
    return Round(
        pause=began - over,
        seconds=seconds,
        elapsed=elapsed,
        cpu=spent,
        memory=memory,
        answers=answers,
        events=events,
        others=others,
        bytes=after["message_bytes"] - before["message_bytes"],
    )


def _rollout(field: Field, version: str, *, read: bool) -> tuple[float, float, list[float]]:
    """Release a version to everybody: seconds to the last verdict, MiB that the controller had, answers of the page."""
    began = time.monotonic()
    rollout = field.release(version)
    over, answers = threading.Event(), list[float]()
    reader = threading.Thread(target=_read_the_page, args=(field, rollout, over, answers))
    if read:
        reader.start()
    memory, looked = 0.0, 0.0
    try:
        while not field.all_succeeded(rollout):
            now = time.monotonic()
            if now - looked >= MEMORY_EVERY_S:
                looked, memory = now, max(memory, resident_mib(field.controller))
            if now - began > BOUND_S:
                raise TimeoutError(f"after {BOUND_S:.0f} s {field.succeeded(rollout)} have succeeded")
            time.sleep(POLL_S)
        seconds = time.monotonic() - began
    finally:
        over.set()
        if read:
            reader.join()
    return seconds, memory, answers


def _read_the_page(field: Field, rollout: str, over: threading.Event, answers: list[float]) -> None:
    """In a thread: at least once."""
    while True:
        answers.append(field.page(rollout))
        if over.wait(ASK_EVERY_S):
            return


def _idle(field: Field) -> float:
    """Processor time that the controller takes in a second in which nothing happens: in the least busy of some."""
    rates = []
    for _ in range(IDLE_SAMPLES):
        before, began = cpu_seconds(field.controller), time.monotonic()
        time.sleep(1)
        rates.append((cpu_seconds(field.controller) - before) / (time.monotonic() - began))
    return min(rates)


def _cost_of_a_release(field: Field, idle: float) -> float:
    """Processor time that a release costs the controller where no device follows the channel, to its announcement."""
    before, began = cpu_seconds(field.controller), time.monotonic()
    for number in range(REQUESTS):
        field.release(field.versions[number % 2], channel="followed-by-nobody")
    time.sleep(1)  # the last announcement
    return (cpu_seconds(field.controller) - before - idle * (time.monotonic() - began)) / REQUESTS


def survive(devices: int, processes: int) -> tuple[int, int, int]:
    """Events sent, stored, and different ones, of a fleet whose controller and broker are killed in the middle."""
    with tempfile.TemporaryDirectory(prefix="flotilla-bench-") as name, Field(Path(name), devices, ["1.0.0"]) as field:
        field.start_fleet("--pace", "10", "--processes", str(processes))
        field.release("1.0.0")
        expected = 6 * devices
        field.wait(lambda: field.sent > expected // 4, "a quarter of the events", BOUND_S)
        field.kill_controller()
        field.wait(lambda: field.sent > expected // 2, "half of the events", BOUND_S)
        field.kill_broker()
        ended = lambda: field.told["updates"] == devices == field.told["ended"]  # noqa: E731  # read as a sentence
        field.wait(ended, "the end of every update", BOUND_S)
        field.wait(lambda: field.stored()[1] >= field.sent, "storing every event", BOUND_S, every_s=1.0)
        return field.sent, *field.stored()


def main() -> int:
    """Measure, print, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="devices of each fleet")
    parser.add_argument("--no-kills", action="store_true", help="leave the fleets out whose broker is killed")
    parser.add_argument("--processes", type=int, default=2, help="of the simulator, and of the bare clients")
    given = parser.parse_args()
    state_machine()
    state_idle_memory()
    found = [measure(devices, given.processes, kills=not given.no_kills) for devices in given.sizes]
    columns = (
        "devices",
        "messages",
        "bare",
        "rollout",
        "of bare",
        "CPU/event",
        "all in",
        "a release",
        "bare CPU",
        "memory",
        "page p99",
        "kept",
    )
    rows = [
        (
            f"{one.devices}",
            f"{one.messages}",
            f"{one.bare_seconds:.2f} s",
            f"{one.seconds:.2f} s",
            f"{one.seconds / one.bare_seconds:.1f} x",
            f"{one.cpu_us:.0f} us",
            f"{one.all_us:.0f} us",
            f"{one.request * 1000:.0f} ms",
            f"{one.bare_cpu * 1e6:.0f} us",
            f"{one.memory:.0f} MiB",
            f"{one.p99_ms:.0f} ms",
            "-" if one.kept is None else f"{one.kept[1]} of {one.kept[0]}",
        )
        for one in found
    ]
    print_table("A release to everybody at once; events kept though controller and broker are killed", columns, rows)
    bars = bars_of(found)
    for held, text in bars:
        CONSOLE.print(f"{'held  ' if held else 'MISSED'}  {text}", soft_wrap=True)
    return 0 if all(held for held, _ in bars) else 1


def bars_of(found: Sequence[Figures]) -> list[tuple[bool, str]]:
    """What the fleets are held to, from the smallest on: whether it is kept, and in words."""
    bars = [bar for one in found for bar in _bars(one)]
    for small, large in itertools.pairwise(found):
        growth = large.cpu_us / small.cpu_us
        text = f"{large.devices} devices cost {growth:.2f} x as much an event as {small.devices}, at most {GROWTH}"
        bars.append((growth <= GROWTH, text))
    return bars


def _bars(one: Figures) -> list[tuple[bool, str]]:
    """What one fleet is held to: whether it is kept, and in words."""
    who = f"{one.devices} devices (load {one.load:.1f})"
    bars = [
        (one.seconds <= one.limit, f"{who}: {one.seconds:.2f} s, at most {one.limit:.2f} s"),
        (one.cpu_us <= CPU_US, f"{who}: {one.cpu_us:.0f} us of processor time an event, at most {CPU_US:.0f}"),
        (one.memory <= MEMORY_MIB, f"{who}: {one.memory:.0f} MiB, at most {MEMORY_MIB:.0f}"),
        (one.p99_ms <= ANSWER_MS, f"{who}: the rollout's page in {one.p99_ms:.0f} ms, at most {ANSWER_MS:.0f}"),
        (
            one.stored == (one.sent, one.sent),
            f"{who}: {one.sent} events sent, {one.stored[0]} stored, {one.stored[1]} different ones",
        ),
    ]
    if one.kept is not None:
        sent, stored, different = one.kept
        text = f"{who}, controller and broker killed: {sent} events sent, {stored} stored, {different} different ones"
        bars.append(((stored, different) == (sent, sent), text))
    return bars


if __name__ == "__main__":
    sys.exit(main())
