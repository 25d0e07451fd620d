"""The service manager for machines where systemd is init: services live on when the agent restarts."""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from device_agent.clock import Clock, SystemClock
from device_agent.durability import write_file
from device_agent.processes import base_environment
from device_agent.seams import ReleaseContext
from device_agent.services.launch import SHORT_RUNS, full_name, prepare
from device_agent.services.systemctl import CALL_TIMEOUT_S, how_it_ended, journal, show, systemctl
from device_agent.services.unit_file import ROOT_KEY, unit_name, unit_text
from schemas.errors import DeviceError, one_line
from schemas.manifest import Service

UNIT_FOLDER: Final = Path("/etc/systemd/system")
LOOK_S: Final = 60.0
"""Each look starts a process for each unit."""
_WINDOW_S: Final = 60.0
"""Over which restarts are counted: with a second between two, so many as are one too many fit in easily."""

# What systemd itself sets for every service; a value from the agent's own environment would be wrong there.
_LEFT_TO_SYSTEMD: Final = frozenset({"HOME", "USER", "LOGNAME", "TMPDIR", "LC_ALL", "TZ"})


class SystemdServices:
    """A `ServiceManager` over `systemctl`. Used from one event loop.

    Which release a unit was started with is noted in `{root}/run/PACKAGE.SERVICE.release`, before which
    nothing counts as started: so `start` can be repeated after a power cut without a needless restart.

    Args:
        unit_folder: where units are written.
    """

    def __init__(self, root: Path, *, clock: Clock | None = None, unit_folder: Path = UNIT_FOLDER) -> None:
        self._root = root.resolve()
        self._clock = clock or SystemClock()
        self._units = unit_folder
        self._notes = self._root / "run"
        self._restarts: dict[str, deque[tuple[float, int]]] = {}
        self._known: dict[str, dict[str, str]] = {}
        self._turn = asyncio.Lock()
        self.look_s = LOOK_S

    async def start(self, services: Sequence[Service], context: ReleaseContext) -> None:
        """See `ServiceManager`."""
        texts = {service.name: self._text(service, context) for service in services if service.unit is None}
        async with self._turn:
            for name, text in texts.items():
                self._write(context.package, name, text)
            # Asked of what was started rather than of what was written: an agent that was killed in
            # between may have written a unit that systemd has not read.
            release = str(context.folder.resolve())
            if any(_read(self._note(context.package, s)) != release for s in services if s.unit is None):
                await systemctl("daemon-reload", what="take in the units")
            for service in services:
                await self._run(service, context)

    async def stop(self, package: str, services: Sequence[Service]) -> None:
        """See `ServiceManager`."""
        async with self._turn:
            for service in services:
                self._note(package, service).unlink(missing_ok=True)
                unit = unit_name(package, service.name)
                if service.unit is None and self._is_ours(unit):
                    await systemctl(
                        "stop", "--", unit, what=f"stop {unit}", timeout_s=service.stop_timeout_s + CALL_TIMEOUT_S
                    )

    async def remove(self, package: str, services: Sequence[Service]) -> None:
        """See `ServiceManager`."""
        await self.stop(package, services)
        async with self._turn:
            for service in services:
                unit = unit_name(package, service.name)
                path = self._units / unit
                if service.unit is None and self._is_ours(unit):
                    await systemctl("disable", "--", unit, what=f"disable {unit}")
                    path.unlink(missing_ok=True)
                    with suppress(DeviceError):  # only units that had failed have anything to reset
                        await systemctl("reset-failed", "--", unit, what=f"forget {unit}")
            await systemctl("daemon-reload", what="forget the units")
            self._known.pop(package, None)

    async def failed(self, package: str, services: Sequence[Service]) -> str:
        """See `ServiceManager`."""
        for service in services:
            unit = self._unit(package, service)
            self._known.setdefault(package, {})[service.name] = unit
            trouble = self._trouble(service, unit, await show(unit))
            if trouble:
                return trouble
        return ""

    def lost(self, package: str, services: Sequence[Service]) -> bool:
        """See `WatchedServices`. What was started once, systemd starts again."""
        return any(not self._note(package, service).exists() for service in services)

    def output(self, package: str) -> str:
        """See `ServiceManager`. Asks the journal, for at most three seconds."""
        units = set(self._known.get(package, {}).values())
        units |= {path.name for path in self._units.glob(unit_name(package, "*"))}
        if not units:
            return ""
        return journal(sorted(units))

    async def close(self) -> None:
        """See `ServiceManager`: units live on."""

    def _unit(self, package: str, service: Service) -> str:
        return service.unit if service.unit is not None else unit_name(package, service.name)

    def _note(self, package: str, service: Service) -> Path:
        return self._notes / f"{full_name(package, service.name)}.release"

    def _text(self, service: Service, context: ReleaseContext) -> str:
        base = {name: value for name, value in base_environment().items() if name not in _LEFT_TO_SYSTEMD}
        launch = prepare(service, context, base, code="service.unit")
        try:
            return unit_text(launch, launch.environment, str(self._root))
        except ValueError as error:
            raise DeviceError("service.unit", f"service {service.name} of {context.package}: {error}") from error

    def _is_ours(self, unit: str) -> bool:
        return _owner(_read(self._units / unit)) == str(self._root)

    def _write(self, package: str, service: str, text: str) -> None:
        """Make the unit's file hold `text`."""
        path = self._units / unit_name(package, service)
        try:
            old = path.read_text(errors="replace") if path.exists() else ""
            if old == text:
                return
            owner = _owner(old)
            if old and owner != str(self._root):
                raise DeviceError(
                    "service.unit",
                    f"{path} belongs to {'another agent, in ' + one_line(owner) if owner else 'somebody else'}; "
                    "run one agent a machine, or let the agent supervise services itself",
                )
            self._notes.mkdir(mode=0o750, parents=True, exist_ok=True)
            (self._notes / f"{full_name(package, service)}.release").unlink(missing_ok=True)
            write_file(path, text.encode())
        except OSError as error:
            raise DeviceError("service.unit", f"cannot write {path}: {one_line(error.strerror)}") from error

    async def _run(self, service: Service, context: ReleaseContext) -> None:
        unit = self._unit(context.package, service)
        self._known.setdefault(context.package, {})[service.name] = unit
        release = str(context.folder.resolve())
        note = self._note(context.package, service)
        if _read(note) == release and (await show(unit)).get("ActiveState") == "active":
            return
        note.unlink(missing_ok=True)
        what = f"start service {service.name} of {context.package} {context.version} ({unit})"
        if service.unit is None:
            await systemctl("enable", "--", unit, what=f"enable {unit}")
        await systemctl(
            "restart",
            "--",
            unit,
            what=what,
            code="service.start",
            timeout_s=service.stop_timeout_s + CALL_TIMEOUT_S,
        )
        self._restarts.pop(unit, None)
        try:
            self._notes.mkdir(mode=0o750, parents=True, exist_ok=True)
            write_file(note, release.encode())
        except OSError as error:
            raise DeviceError("disk.io", f"cannot write {note}: {one_line(error.strerror)}") from error

    def _trouble(self, service: Service, unit: str, state: Mapping[str, str]) -> str:
        name = f"service {service.name} ({unit})"
        if state.get("LoadState") == "not-found":
            return f"{name} is not known to systemd"
        restarts = self._recent_restarts(unit, state.get("NRestarts", "0"))
        how = how_it_ended(state)
        if restarts >= SHORT_RUNS:
            return f"{name} keeps ending: {restarts} times within {_WINDOW_S:g} s, last it {how}"
        active = state.get("ActiveState", "unknown")
        if active in ("active", "reloading"):
            return ""
        if active == "inactive" and state.get("Result") == "success":
            done = service.restart != "always" if service.unit is None else state.get("Type") == "oneshot"
            if done:
                return ""
        return f"{name} is down: {active}, {state.get('SubState', 'unknown')}; it {how}"

    def _recent_restarts(self, unit: str, count: str) -> int:
        now, total = self._clock.monotonic(), int(count) if count.isdecimal() else 0
        seen = self._restarts.setdefault(unit, deque())
        if seen and total < seen[-1][1]:
            seen.clear()  # started anew by somebody
        seen.append((now, total))
        while len(seen) > 1 and seen[0][0] < now - _WINDOW_S:
            seen.popleft()
        return total - seen[0][1]


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _owner(text: str) -> str | None:
    return next((line[len(ROOT_KEY) :] for line in text.splitlines() if line.startswith(ROOT_KEY)), None)
