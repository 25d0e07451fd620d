"""The demo's machinery: a broker, a controller and agents, each a process of its own in one folder."""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from broker_config.process import MosquittoProcess
from controller.client import ControllerClient, save_atomically
from controller.demo.processes import Processes, free_ports, program
from controller.fleet.views import Device
from controller.http.views import ControllerView, Page
from schemas.errors import NetworkError, OperatorError

CHANNEL: Final = "demo"
PACKAGE: Final = "tacho"
START_SECONDS: Final = 30.0
POLL_SECONDS: Final = 0.2


class DemoFleet:
    """Everything that runs; a context manager. Ends what it started, whatever happens.

    Args:
        folder: an empty folder for all that is made.
        agents: how many devices.
    """

    def __init__(self, folder: Path, agents: int) -> None:
        self.folder = folder
        self.devices = [f"pi-{number}" for number in range(1, agents + 1)]
        http, *gauges = free_ports(1 + agents)
        self.gauges = dict(zip(self.devices, gauges, strict=True))
        self.client = ControllerClient(f"http://127.0.0.1:{http}")
        self.data = folder / "controller"
        self._broker = MosquittoProcess(folder / "broker", name="development.conf")
        self._processes = Processes(folder / "logs")
        self._http = http

    @property
    def broker(self) -> MosquittoProcess:
        """The broker, for its address."""
        return self._broker

    def __enter__(self) -> "DemoFleet":
        self._stack = ExitStack()
        with self._stack:
            self._stack.enter_context(self._broker)
            self._stack.enter_context(self._processes)
            self._start_controller()
            self._start_agents()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def pid_of(self, name: str) -> int:
        """The process id of the controller or of a device's agent."""
        return self._processes.pid_of(name)

    def check(self) -> None:
        """Raise `OperatorError` where a process has ended."""
        self._processes.check()

    def wait(self, condition: Callable[[], bool], what: str, seconds: float) -> None:
        """Wait until `condition` holds; raises `OperatorError` after `seconds`, or when a process ends."""
        deadline = time.monotonic() + seconds
        while not condition():
            self.check()
            if time.monotonic() > deadline:
                raise OperatorError(
                    "input.bad", f"{what} did not happen within {seconds:.0f} s; logs: {self.folder}/logs"
                )
            time.sleep(POLL_SECONDS)

    def all_online(self) -> bool:
        """Whether every device is connected."""
        page = self.client.get(Page[Device], "devices", query={"limit": len(self.devices)})
        return {device.id for device in page.items if device.online} >= set(self.devices)

    def _start_controller(self) -> None:
        address = f"127.0.0.1:{self._http}"
        command = [program("flotilla"), "serve", "--data", str(self.data), "--http", address]
        self._processes.start("controller", [*command, "--broker", self._broker.url])
        self.wait(self._controller_answers, "the controller's start", START_SECONDS)
        save_atomically(self.client.download("root"), self.folder / "root.json")

    def _controller_answers(self) -> bool:
        try:
            return self.client.get(ControllerView, "controller").connected
        except NetworkError:
            return False

    def _start_agents(self) -> None:
        for device in self.devices:
            config = self.folder / "devices" / f"{device}.toml"
            config.parent.mkdir(exist_ok=True)
            config.write_text(self._agent_toml(device))
            self._processes.start(device, [program("flotilla-agent"), "run", "--config", str(config)])

    def _agent_toml(self, device: str) -> str:
        values: Sequence[tuple[str, object]] = (
            ("id", device),
            ("root", str(self.folder / "devices" / device)),
            ("broker", self._broker.url),
            ("channel", CHANNEL),
            ("packages", [PACKAGE]),
            ("trusted_root", str(self.folder / "root.json")),
        )
        # strings and lists of strings are spelt the same in JSON and TOML
        head = "\n".join(f"{key} = {json.dumps(value)}" for key, value in values)
        # systemd, where it is init, can serve one agent a machine, and here are several
        policy = '[policy]\nservices = "supervisor"\n'
        return f"{head}\n\n{policy}\n[settings.{PACKAGE}]\nport = {self.gauges[device]}\n"
