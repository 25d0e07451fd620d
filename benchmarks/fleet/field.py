"""A broker, a controller and a simulated fleet as processes, and what they say."""

import http.client
import json
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self

from broker_config import MosquittoProcess
from controller.cli.uploading import push_file
from controller.client import ControllerClient
from controller.demo.processes import Processes, free_ports, program
from controller.demo.sample import sample_folder
from controller.packaging.package_creator import PackageCreator
from device_agent.simulator.fleet import allow_connections
from schemas.errors import FlotillaError

PACKAGE = "tacho"
QUIET_S = 8
"""A device that found a release to be there already says so some seconds later."""
SAVE_EVERY_S = 60
"""What broker_config recommends for fleets of thousands."""


class Field:
    """Everything that runs for one fleet; a context manager that ends it all.

    Attributes:
        devices: how many there are.
        versions: of the package, in the repository from the start.
        told: what the fleet said of itself last.
    """

    def __init__(self, folder: Path, devices: int, versions: Sequence[str]) -> None:
        allow_connections(devices + 1000)  # the broker's
        (http,) = free_ports(1)
        self.broker = MosquittoProcess(folder / "broker", save_every_s=SAVE_EVERY_S)
        self.client = ControllerClient(f"http://127.0.0.1:{http}")
        self.devices = devices
        self.versions = versions
        self._folder = folder
        self._http = http
        self._processes = Processes(folder / "logs")
        self._fleet: subprocess.Popen[str] | None = None
        self._lines = 0
        self._watching: sqlite3.Connection | None = None
        self._counted_at: tuple[str, int] | None = None
        self._counted = 0
        self.told: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        with self._stack:
            self._stack.enter_context(self.broker)
            self._stack.enter_context(self._processes)
            self.start_controller()
            build = self._folder / "build"
            build.mkdir()
            creator = PackageCreator(sample_folder(None) / "app")
            for version in self.versions:
                push_file(self.client, creator.build(version=version, platform=None, out=build).path)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *caught: object) -> None:
        self.stop_fleet()
        self._stack.close()

    def start_controller(self) -> None:
        """Start it, and wait until it answers."""
        data = str(self._folder / "controller")
        command = [program("flotilla"), "serve", "--data", data, "--http", f"127.0.0.1:{self._http}"]
        self._processes.start("controller", [*command, "--broker", self.broker.url, "--bundles", "0"])
        self.wait(self._connected, "the controller's start", 60)

    def kill_controller(self) -> None:
        """SIGKILL, and start another one."""
        self._processes.kill("controller")
        self.start_controller()

    def kill_broker(self) -> None:
        """SIGKILL, and start another one with what this one had saved."""
        self.broker.kill()
        self.broker.start()

    @property
    def controller(self) -> int:
        """Its process id."""
        return self._processes.pid_of("controller")

    def start_fleet(self, *arguments: str) -> None:
        """Start the devices, and wait until all are connected and the controller knows them."""
        command = [program("flotilla"), "simulate", "--devices", str(self.devices), "--broker", self.broker.url]
        command += ["--json", "--connect-rate", "500", *arguments]
        self._fleet = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self._listen, args=(self._fleet,), daemon=True).start()
        self.wait(lambda: self.told.get("connected") == self.devices, "connecting the fleet", 600)
        self.wait(lambda: self._known() == self.devices, "the controller's knowing the fleet", 600)

    def stop_fleet(self) -> None:
        """Have all devices say goodbye; harmless where there are none."""
        if self._fleet is not None:
            self._fleet.terminate()
            self._fleet.wait(60)
            self._fleet = None

    def release(self, version: str, *, channel: str = "stable") -> str:
        """Announce it to everybody at once; gives the rollout."""
        wish = {"package": PACKAGE, "version": version, "channel": channel, "plan": "all-at-once"}
        made: dict[str, Any] = self.client.send("POST", dict[str, Any], "releases", body=wish)
        return str(made["id"])

    def succeeded(self, rollout: str) -> int:
        """How many devices have that verdict; out of the database, so that looking costs the controller nothing.

        May be asked every millisecond: it only counts when something was written since the last time.
        """
        if self._watching is None:
            self._watching = self._stack.enter_context(closing(self._database()))
        state = (rollout, self._watching.execute("PRAGMA data_version").fetchone()[0])
        if state != self._counted_at:
            question = "SELECT COUNT(*) FROM rollout_devices WHERE rollout = ? AND verdict = 'succeeded'"
            self._counted_at, self._counted = state, self._watching.execute(question, (rollout,)).fetchone()[0]
        return self._counted

    def all_succeeded(self, rollout: str) -> bool:
        """Whether every device has that verdict."""
        return self.succeeded(rollout) == self.devices

    def page(self, rollout: str) -> float:
        """Ask for the rollout's page; gives the seconds till its last byte."""
        connection = http.client.HTTPConnection("127.0.0.1", self._http, timeout=60)
        begun = time.perf_counter()
        try:
            connection.request("GET", f"/rollouts/{rollout}", headers={"Accept": "text/html"})
            answer = connection.getresponse()
            answer.read()
        finally:
            connection.close()
        if answer.status != HTTPStatus.OK:
            raise RuntimeError(f"the rollout's page answered {answer.status}")
        return time.perf_counter() - begun

    def stored(self) -> tuple[int, int]:
        """Events in the database, and how many different ones."""
        all_of_them, different = self._ask("SELECT COUNT(*), COUNT(DISTINCT device || '/' || seq) FROM events")
        return all_of_them, different

    def catch_up(self) -> None:
        """Wait until the fleet has said what it has done up to now: it does so now and then, and not at every event."""
        enough = self._lines + 3  # one may be on its way, and one be made of what its processes said before
        self.wait(lambda: self._lines >= enough, "a word of the fleet", 30)

    def rest(self) -> None:
        """Wait until the fleet has nothing more to say, and all it said is stored."""

        def quiet() -> bool:
            before = self.told["messages"]
            time.sleep(QUIET_S)
            self.catch_up()
            return bool(self.told["messages"] == before)

        self.wait(quiet, "the fleet's last word", 300)
        self.wait(lambda: self.stored()[0] >= self.sent, "storing every event", 120)

    @property
    def sent(self) -> int:
        """Events that devices have written."""
        return sum(self.told.get("events", {}).values())

    def wait(self, condition: Callable[[], bool], what: str, seconds: float, *, every_s: float = 0.1) -> None:
        """Wait until a condition holds.

        Raises:
            TimeoutError: it does not.
        """
        give_up = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > give_up:
                raise TimeoutError(f"{what} took more than {seconds:.0f} s; the fleet said last: {self.told}")
            time.sleep(every_s)

    def _connected(self) -> bool:
        try:
            found: dict[str, Any] = self.client.get(dict[str, Any], "controller")
        except FlotillaError:
            return False
        return bool(found["connected"])

    def _known(self) -> int:
        return self._ask("SELECT COUNT(*) FROM devices WHERE online AND channel IS NOT NULL")[0]

    def _ask(self, question: str, *values: str) -> tuple[int, ...]:
        """One row of numbers."""
        with closing(self._database()) as database:
            row: tuple[int, ...] = database.execute(question, values).fetchone()
        return row

    def _database(self) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{self._folder}/controller/flotilla.db?mode=ro", uri=True, timeout=60)

    def _listen(self, fleet: "subprocess.Popen[str]") -> None:
        assert fleet.stdout is not None
        for line in fleet.stdout:
            self.told = json.loads(line)
            self._lines += 1
