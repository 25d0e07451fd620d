"""A whole small world for tests: one broker, a controller and agents as processes, each killed or restarted by name.

with World(tmp_path, broker) as world:
    world.start_controller()
    world.add_agent("pi-1", settings={"tacho": {"port": 8500}})
    world.start_agent("pi-1")
    world.publish(build(source, tmp_path))
    world.wait(lambda: world.last_words("pi-1"), "the first release")
    assert world.current_tree("pi-1", "tacho") == source_tree(source)

Where the block raises, a report of what every process printed, told and journaled goes to the test's output.
A fixture sees nothing of a failed test: `tests/journeys/conftest.py` says when to print the report.
"""

import contextlib
import json
import os
import sqlite3
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from broker_config import free_port
from controller.cli.releases import announce
from controller.cli.uploading import push_file
from controller.client import ControllerClient, save_atomically
from controller.demo.processes import Processes, program
from controller.fleet.views import Device, TakenEvent
from controller.http.views import CommandWish, ControllerView, DesiredWish, Page, RolloutDetail, StateWish
from controller.rollouts.plan import RolloutState
from controller.rollouts.views import Rollout
from controller.rollouts.waves import RolloutPlan
from device_agent.journal import Journal
from device_agent.updates import Install, Update
from schemas.codec import decode
from schemas.errors import FlotillaError, NetworkError
from schemas.messages import LAST_WORDS, Phase, RolloutPolicy, Targets, UpdateEvent, Verb
from tests.support.broker import Broker
from tests.support.packages import to_toml

T = TypeVar("T")

CHANNEL: Final = "stable"
WAIT_S: Final = 30.0
_FIRST_POLL_S: Final = 0.02
_LONGEST_POLL_S: Final = 0.15
_LOG_TAIL_LINES: Final = 40
_PAGE: Final = 500


@dataclass(frozen=True, kw_only=True)
class JournalView:
    """What one agent's agent.db holds; `seqs` are the events that it still keeps, `last_seq` the last it gave."""

    updates: list[Update]
    installs: dict[str, Install]
    last_seq: int
    seqs: list[int]
    unsent: list[int]


class World:
    """See the module. A context manager: at its end every process is gone.

    Args:
        folder: an empty one, for everything.
        broker: runs already; belongs to whoever made it.
    """

    def __init__(self, folder: Path, broker: Broker) -> None:
        self.folder = folder
        self.broker = broker
        self.processes = Processes(folder / "logs")
        self.data = folder / "controller"
        self._http = free_port()
        self._client = ControllerClient(self.url)
        self._flags: dict[str, str] = {}
        self._configs: dict[str, Path] = {}

    def __enter__(self) -> "World":
        self.folder.mkdir(parents=True, exist_ok=True)
        self.processes.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is not None:
                print(self.report())  # pytest shows it with the failure
        finally:
            self.processes.stop()

    # -- processes

    def start_controller(self, **flags: str) -> None:
        """Start `flotilla serve` and wait until it is connected; `public_url="…"` becomes `--public-url …`."""
        self._flags = flags
        self.restart_controller()
        save_atomically(self.client.download("root"), self.trusted_root)

    def kill_controller(self) -> None:
        """SIGKILL."""
        self.processes.kill("controller")

    def stop_controller(self) -> int:
        """SIGTERM; the exit status."""
        return self.processes.end("controller")

    def restart_controller(self) -> None:
        """Start it, after `kill_controller` or `stop_controller`, at the same address with the same data."""
        command = [program("flotilla"), "serve", "--data", str(self.data), "--http", f"127.0.0.1:{self._http}"]
        command += ["--broker", self.broker.url, "--bundles", "0"]
        command += [part for key, value in self._flags.items() for part in (f"--{key.replace('_', '-')}", value)]
        self.processes.start("controller", command)
        self.wait(lambda: self.client.get(ControllerView, "controller").connected, "the controller's start")

    def add_agent(self, device: str, **toml: Any) -> Path:
        """Write an agent's `agent.toml`; gives its root folder. `toml`: keys besides those that every agent needs."""
        root = self.root(device)
        values: dict[str, Any] = {
            "id": device,
            "root": str(root),
            "broker": self.broker.url,
            "channel": CHANNEL,
            "trusted_root": str(self.trusted_root),
            **toml,
        }
        tables = {key: value for key, value in values.items() if isinstance(value, Mapping)}
        # plain values and lists of them are spelt the same in JSON and TOML
        head = "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items() if key not in tables)
        config = self.folder / "devices" / f"{device}.toml"
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(f"{head}\n{to_toml(tables)}")
        self._configs[device] = config
        return root

    def start_agent(self, device: str, *, name: str | None = None, ready: bool = True) -> None:
        """Start an agent, and wait until the controller has it online and knows what it reports, such as its channel.

        Args:
            name: of the process, where it is not the device's.
            ready: whether to wait.
        """
        before = self._session(device) if ready else 0
        self.processes.start(name or device, self.agent_command("run", device))
        if ready:
            self.wait(lambda: self._is_back(device, before), f"{device} to be online and to have reported")

    def kill_agent(self, device: str) -> None:
        """SIGKILL for the agent alone: what it started is left to the system."""
        self.processes.kill(device)

    def stop_agent(self, device: str) -> int:
        """SIGTERM; the exit status."""
        return self.processes.end(device)

    def agent_command(self, verb: str, device: str, *arguments: str) -> list[str]:
        """The command line of `flotilla-agent VERB` for a device."""
        return [program("flotilla-agent"), verb, "--config", str(self._configs[device]), *arguments]

    def run(self, command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end, with `FLOTILLA_URL` saying where the controller is."""
        environment = {**os.environ, "FLOTILLA_URL": self.url}
        return subprocess.run(
            command, env=environment, cwd=self.folder, capture_output=True, text=True, timeout=60, check=False
        )

    def flotilla(self, *arguments: object) -> "subprocess.CompletedProcess[str]":
        """Run `flotilla` with these arguments."""
        return self.run([program("flotilla"), *map(str, arguments)])

    def agent(self, verb: str, device: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
        """Run `flotilla-agent VERB` on a device."""
        return self.run(self.agent_command(verb, device, *map(str, arguments)))

    # -- asking and telling

    @property
    def url(self) -> str:
        """The controller's address."""
        return f"http://127.0.0.1:{self._http}"

    @property
    def client(self) -> ControllerClient:
        """Of the controller's API."""
        return self._client

    @property
    def trusted_root(self) -> Path:
        """The file that agents trust."""
        return self.folder / "root.json"

    def push(self, package_file: Path) -> None:
        """Store a package."""
        push_file(self.client, package_file)

    def publish(
        self,
        package_file: Path,
        channel: str = CHANNEL,
        *,
        targets: Targets | None = None,
        policy: RolloutPolicy | None = None,
        plan: RolloutPlan | None = None,
    ) -> Rollout:
        """Store a package and announce it."""
        pushed = push_file(self.client, package_file).release
        return announce(
            self.client,
            name=pushed.package,
            version=pushed.version,
            channel=channel,
            targets=targets,
            policy=policy,
            plan=plan,
        )

    def set_state(self, rollout: Rollout, state: RolloutState) -> Rollout:
        """Pause, resume, halt or revert a rollout."""
        return self.client.send("POST", Rollout, "rollouts", rollout.id, "state", body=StateWish(state=state))

    def rollout(self, rollout: Rollout) -> RolloutDetail:
        """A rollout as it is now."""
        return self.client.get(RolloutDetail, "rollouts", rollout.id)

    def command(self, device: str, verb: Verb, **args: Any) -> None:
        """Ask a device for something."""
        self.client.send("POST", dict, "devices", device, "commands", body=CommandWish(verb=verb, args=args))

    def desire(self, device: str, **fields: Any) -> None:
        """Tell a device its channel, tags, pins or hold."""
        self.client.send("PUT", dict, "devices", device, "desired", body=DesiredWish(**fields))

    def device(self, device: str) -> Device:
        """A device as the controller knows it."""
        return self.client.get(Device, "devices", device)

    def wait(self, condition: Callable[[], T], what: str, seconds: float = WAIT_S) -> T:
        """Wait until a condition holds; gives what it gave.

        While it raises `FlotillaError` (nobody answers, there is no such device yet) it does not hold.

        Raises:
            AssertionError: not within `seconds`.
            OperatorError: a process has ended meanwhile.
        """
        deadline, pause_s, last = time.monotonic() + seconds, _FIRST_POLL_S, ""
        while True:
            try:
                if found := condition():
                    return found
                last = f"; the last answer was {found!r}"
            except FlotillaError as error:
                last = f"; last: {error}"
            self.processes.check()
            assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s{last}"
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.2, _LONGEST_POLL_S)

    def wait_for_phase(self, device: str, phase: Phase, version: str, seconds: float = WAIT_S) -> UpdateEvent:
        """Wait until the controller has an event of this phase about this version; gives the first."""

        def found() -> UpdateEvent | None:
            events = self.events(device)
            return next((one for one in events if one.phase is phase and one.version == version), None)

        event = self.wait(found, f"{device} to say {phase} of {version}", seconds)
        assert event is not None
        return event

    def wait_for_end(self, device: str, version: str, seconds: float = WAIT_S) -> UpdateEvent:
        """Wait for a last word about this version; gives the last of them."""

        def ended() -> list[UpdateEvent]:
            return [one for one in self.last_words(device) if one.version == version]

        return self.wait(ended, f"{device} to end its update to {version}", seconds)[-1]

    # -- what is true

    def root(self, device: str) -> Path:
        """An agent's root folder."""
        return self.folder / "devices" / device

    def events(self, device: str) -> list[UpdateEvent]:
        """All that the controller has of a device, by `seq`; one that it had twice would be here twice."""
        found: list[TakenEvent] = []
        after = "0"
        while True:
            page = self.client.get(
                Page[TakenEvent], "devices", device, "events", query={"after": after, "limit": _PAGE}
            )
            found += page.items
            if page.next is None:
                return [one.event for one in sorted(found, key=lambda one: (one.life, one.event.seq))]
            after = page.next

    def phases(self, device: str, version: str | None = None) -> list[Phase]:
        """The phases the controller heard of, without repeats for progress."""
        said = [event.phase for event in self.events(device) if version in (None, event.version)]
        return [phase for i, phase in enumerate(said) if i == 0 or said[i - 1] is not phase]

    def last_words(self, device: str) -> list[UpdateEvent]:
        """The events that end an update, by `seq`."""
        return [event for event in self.events(device) if event.phase in LAST_WORDS]

    def database_rows(self, device: str) -> list[tuple[int, UpdateEvent]]:
        """The rows of the controller's database: `seq` and the event in each, in the order of intake."""
        address = f"{(self.data / 'flotilla.db').as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(address, uri=True, timeout=10)) as database:
            rows = database.execute("SELECT seq, payload FROM events WHERE device = ? ORDER BY id", (device,))
            return [(int(seq), decode(payload.encode(), UpdateEvent)) for seq, payload in rows]

    def journal(self, device: str) -> JournalView:
        """What the agent has written down, updates oldest first; it may be running or not."""
        with Journal(self.root(device), read_only=True) as journal:
            return JournalView(
                updates=journal.history(limit=_PAGE)[::-1],
                installs=journal.installs(),
                last_seq=journal.last_seq(),
                seqs=[event.seq for event in journal.events_after(0, limit=100_000)],
                unsent=[event.seq for event in journal.unsent(limit=100_000)],
            )

    def current_tree(self, device: str, package: str) -> dict[str, bytes]:
        """Path to content below the package's `current` link; of a link where it leads to. Empty without one."""
        current = self.root(device) / "packages" / package / "current"
        return tree_of(current.resolve(strict=True)) if current.is_symlink() else {}

    # -- for people

    def report(self) -> str:
        """Everything that a person needs to see why: logs, events, journals."""
        parts = []
        for log in sorted((self.folder / "logs").glob("*.log")):
            lines = log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
            parts += [f"=== log of {log.stem}, last lines", *lines]
        parts += ["=== log of the broker, last lines", *self.broker.log_text().splitlines()[-_LOG_TAIL_LINES // 4 :]]
        for device in self._configs:
            parts += [f"=== events of {device} at the controller", *_lines(self._event_lines, device)]
            parts += [f"=== journal of {device}", *_lines(self._journal_lines, device)]
        return "\n".join(parts)

    def _event_lines(self, device: str) -> list[str]:
        return [
            f"{event.seq:4} {event.at:%H:%M:%S.%f} {event.package} {event.version} {event.phase}"
            f" attempt {event.attempt} {event.error.code + ': ' + event.error.message if event.error else ''}"
            f" {event.detail or ''}"
            for event in self.events(device)
        ]

    def _journal_lines(self, device: str) -> list[str]:
        journal = self.journal(device)
        lines = [
            f"{update.id} {update.package} {update.version} {update.phase} restarts {update.restarts}"
            f" {update.error.code if update.error else ''}"
            for update in journal.updates
        ]
        lines += [f"installed {one.package} {one.current.version}" for one in journal.installs.values()]
        return [*lines, f"last seq {journal.last_seq}, kept {journal.seqs}, unsent {journal.unsent}"]

    def _is_back(self, device: str, before: int) -> bool:
        seen = self.device(device)
        return seen.online and seen.session > before and seen.reported_at is not None

    def _session(self, device: str) -> int:
        try:
            return self.device(device).session
        except NetworkError:
            raise
        except FlotillaError:
            return 0  # never heard of


def tree_of(folder: Path) -> dict[str, bytes]:
    """Path to content of every file below a folder, and of every link where it leads to."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[os.fspath(path.relative_to(folder))] = b"-> " + os.fsencode(path.readlink())
        elif path.is_file():
            found[os.fspath(path.relative_to(folder))] = path.read_bytes()
    return found


def source_tree(source: Path) -> dict[str, bytes]:
    """The same for a source folder without templates and state: what a device is to have of it."""
    return {path: content for path, content in tree_of(source).items() if path != "flotilla.toml"}


def _lines(make: Callable[[str], list[str]], device: str) -> list[str]:
    try:
        return make(device) or ["none"]
    except (FlotillaError, OSError, sqlite3.Error) as error:
        return [f"cannot be read: {error}"]
