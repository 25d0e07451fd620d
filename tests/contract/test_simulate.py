"""`flotilla simulate` as a program: a fleet of all kinds on a real controller, wrong flags, Ctrl-C."""

import json
import re
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from controller.database import open_database, sqlite_url, utc_now
from controller.demo.processes import program
from controller.rollouts.reader import RolloutReader
from controller.rollouts.store import RolloutStore
from device_agent.simulator.course import Kind
from device_agent.simulator.fleet import members_of
from tests.support.broker import Broker
from tests.support.controller import ControllerProcess, controller_process
from tests.support.packages import build, make_source

pytestmark = pytest.mark.broker

RATES = {Kind.FAILING: 0.2, Kind.SLOW: 0.1, Kind.SILENT: 0.1, Kind.FLAPPING: 0.1, Kind.DUPLICATED: 0.03}
DEVICES = 30
BOUND_S = 90.0


class Simulator:
    """The program with `--json`; what it said last is in `told`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.told: dict[str, Any] = {}

    def until(self, condition: Callable[[Mapping[str, Any]], bool]) -> dict[str, Any]:
        """Read on until a line meets a condition."""
        assert self.process.stdout is not None
        give_up = time.monotonic() + BOUND_S
        for line in self.process.stdout:
            self.told = json.loads(line)
            if condition(self.told):
                return self.told
            assert time.monotonic() < give_up, self.told
        raise AssertionError(f"it ended, and said last: {self.told}")

    def final(self) -> dict[str, Any]:
        """Its last line."""
        told = self.until(lambda told: bool(told["final"]))
        assert self.process.wait(BOUND_S) == 0
        return told


@contextmanager
def simulator(url: str, *arguments: str) -> Iterator[Simulator]:
    command = [program("flotilla"), "simulate", "--broker", url, "--json", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Simulator(process)
        finally:
            process.terminate()


def events_of(controller: ControllerProcess) -> list[tuple[str, int, int, str, str | None]]:
    """What is in the database: device, life, seq, phase, error code, in the order of intake."""
    with sqlite3.connect(f"file:{controller.data / 'flotilla.db'}?mode=ro", uri=True) as database:
        return list(database.execute("SELECT device, life, seq, phase, error_code FROM events ORDER BY id"))


def verdicts_at(controller: ControllerProcess, rollout: str, hours: int) -> dict[str, str]:
    """Device to verdict as a controller sees it that looks again in so many hours; the one that ran has ended."""
    engine = open_database(sqlite_url(controller.data / "flotilla.db"))
    try:
        RolloutStore(engine).evaluate(rollout, utc_now() + timedelta(hours=hours))
        return {one.device: one.verdict.value for one in RolloutReader(engine).devices(rollout)}
    finally:
        engine.dispose()


def online_of(controller: ControllerProcess) -> int:
    """How many devices are there."""
    with sqlite3.connect(f"file:{controller.data / 'flotilla.db'}?mode=ro", uri=True) as database:
        (number,) = database.execute("SELECT count(*) FROM devices WHERE online").fetchone()
        return int(number)


def shares(rates: Mapping[Kind, float]) -> Sequence[str]:
    return [word for kind, rate in rates.items() for word in (f"--{kind}", str(rate))]


def test_every_event_of_a_fleet_of_all_kinds_is_stored_exactly_once(
    make_broker: Callable[[], Broker], tmp_path: Path
) -> None:
    broker = make_broker()
    members = members_of(DEVICES, RATES, prefix="sim", seed=5)
    kinds = {one.name: one.kind for one in members}
    fleet = ["--devices", str(DEVICES), "--seed", "5", "--pace", "0.5", *shares(RATES), "--until-settled"]
    with (
        controller_process(tmp_path / "data", broker.url) as controller,
        simulator(broker.url, *fleet, "--processes", "2", "--for", str(BOUND_S)) as running,
    ):
        assert controller.push(build(make_source(tmp_path / "tacho"), tmp_path)).status == 201
        running.until(lambda told: told["connected"] >= DEVICES)
        plan = {"wave": [{"upto": 100, "success": 0, "deadline": "1h"}]}
        wish = {"package": "tacho", "version": "1.0.0", "channel": "stable", "plan": plan}
        made = controller.send("POST", "/releases", wish)
        assert made.status == 201, made.body
        told = running.final()
        sent = sum(told["events"].values())
        assert told["confirmed"] == sent
        assert (told["updates"], told["silent"]) == (len(members), 3)
        controller.until(lambda: len(events_of(controller)) >= sent, BOUND_S)
        stored = events_of(controller)
        assert len(stored) == sent
        phases = {phase: sum(1 for one in stored if one[3] == phase) for phase in told["events"]}
        assert phases == told["events"]
        lives = {device: {life for name, life, *_ in stored if name == device} for device in kinds}
        twice = {device for device, numbers in lives.items() if len(numbers) > 1}
        assert twice == {device for device, kind in kinds.items() if kind is Kind.DUPLICATED}
        # each time that the other one of two is heard may look like another disk
        assert (
            set(re.findall(r"device (\S+) counts its events .* two devices have this id", controller.log_text()))
            == twice
        )
        rollout = made.json()["id"]
        # the broker tells of those that went without a word
        controller.until(lambda: online_of(controller) == 0, BOUND_S)
    for hours, of_silent in ((0, "updating"), (1, "silent")):
        verdicts = verdicts_at(controller, rollout, hours)
        assert verdicts.keys() == kinds.keys()
        for device, kind in kinds.items():
            if kind is Kind.SILENT:
                assert verdicts[device] == of_silent, (device, hours)
            elif kind is Kind.FAILING:
                assert verdicts[device] in ("rejected", "failed", "rolled_back")
            else:
                assert verdicts[device] == "succeeded"


def test_it_says_goodbye_for_everybody_on_ctrl_c(make_broker: Callable[[], Broker]) -> None:
    broker = make_broker()
    with simulator(broker.url, "--devices", "5") as running:
        running.until(lambda told: told["connected"] == 5)
        running.process.send_signal(signal.SIGINT)
        told = running.final()
    # each said twice that it is there or not: when it came and when it went
    assert told["messages"]["status"] == 10


WRONG: dict[str, tuple[tuple[str, ...], str]] = {
    "no number": ((), "the following arguments are required: --devices (see flotilla simulate --help)"),
    "no devices": (("--devices", "0"), "--devices: 0 is not between 1 and 100000"),
    "a share": (("--devices", "3", "--slow", "2"), "--slow: '2' is not a share like 0.05 or 5%"),
    "too many shares": (
        ("--devices", "3", "--slow", "60%", "--failing", "0.6"),
        "the shares of failing, slow, silent, flapping, duplicated devices are more than 1 together",
    ),
    "no such option": (
        ("--devices", "3", "--tag", "site=bern"),
        "unrecognized arguments: --tag site=bern (see flotilla simulate --help)",
    ),
    "a topic": (("--devices", "3", "--topic-root", "a/+"), "--topic-root: topic root 'a/+' is empty somewhere or has"),
    "a version": (("--devices", "3", "--bad-version", "x"), "--bad-version: 'x' is not a SemVer 2.0.0 version"),
    "a prefix": (("--devices", "3", "--prefix", "A B"), "--prefix: no device id can begin with 'A B'"),
    "a channel": (("--devices", "3", "--channel", "A B"), "--channel: 'A B' is not a channel's name"),
    "an address": (("--devices", "3", "--broker", "nope"), "--broker: broker address 'nope': write mqtt://HOST:PORT"),
    "nobody there": (("--devices", "3", "--broker", "mqtt://127.0.0.1:1"), "mqtt://127.0.0.1:1: no connection: "),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_said_in_one_line(wrong: str) -> None:
    arguments, line = WRONG[wrong]
    done = subprocess.run(
        [program("flotilla"), "simulate", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == (1 if wrong == "nobody there" else 2)
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"flotilla: {line}"), done.stderr
