"""The service manager for machines where systemd is not init: the agent runs the commands itself."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from device_agent.clock import Clock, SystemClock
from device_agent.processes import MAX_TAIL, Tail, base_environment
from device_agent.seams import ReleaseContext
from device_agent.services.launch import Launch, full_name, joined_output, prepare
from device_agent.services.leftovers import MARK, Records
from device_agent.services.logfile import LogFile
from device_agent.services.supervised import SupervisedService
from schemas.errors import DeviceError, one_line
from schemas.manifest import Service

_Key = tuple[str, str]
LOOK_S: Final = 10.0


class Supervisor:
    """A `ServiceManager`. Used from one event loop, in the process's main thread.

    Services end with the agent, also when it is killed; the first call after that clears away what they
    may have left. Output is kept in memory for events and in `{root}/logs/PACKAGE.SERVICE.log`.
    """

    def __init__(self, root: Path, *, clock: Clock | None = None, environment: Mapping[str, str] | None = None) -> None:
        self._clock = clock or SystemClock()
        mark = str(root.resolve())
        self._environment: Final = {**(base_environment() if environment is None else environment), MARK: mark}
        self._logs = root / "logs"
        self._records = Records(root / "run", mark)
        self._running: dict[_Key, SupervisedService] = {}
        self._tails: dict[_Key, Tail] = {}
        self._log_files: dict[_Key, LogFile] = {}
        self._turn = asyncio.Lock()
        self.look_s = LOOK_S
        self._leftovers_gone = False

    async def start(self, services: Sequence[Service], context: ReleaseContext) -> None:
        """See `ServiceManager`."""
        launches = [self._launch(service, context) for service in services]
        async with self._turn:
            await self._end_leftovers()
            for launch in launches:
                await self._run(launch)

    async def stop(self, package: str, services: Sequence[Service]) -> None:
        """See `ServiceManager`."""
        async with self._turn:
            await self._end_leftovers()
            await self._end([(package, service.name) for service in services])

    async def remove(self, package: str, services: Sequence[Service]) -> None:
        """See `ServiceManager`; the logs stay, because they say why a service was removed."""
        await self.stop(package, services)

    async def failed(self, package: str, services: Sequence[Service]) -> str:
        """See `ServiceManager`."""
        for service in services:
            running = self._running.get((package, service.name))
            trouble = f"service {service.name} is not running" if running is None else running.trouble()
            if trouble:
                return trouble
        return ""

    def lost(self, package: str, services: Sequence[Service]) -> bool:
        """See `WatchedServices`."""
        return any((package, service.name) not in self._running for service in services)

    def output(self, package: str) -> str:
        """See `ServiceManager`."""
        tails = {service: tail.text() for (owner, service), tail in self._tails.items() if owner == package}
        return joined_output(tails, MAX_TAIL)

    async def close(self) -> None:
        """See `ServiceManager`."""
        async with self._turn:
            await self._end(list(self._running))

    def _launch(self, service: Service, context: ReleaseContext) -> Launch:
        if service.unit is not None:
            raise DeviceError(
                "service.unit",
                f"service {service.name} of {context.package} {context.version} is the unit {service.unit}, "
                "but this agent does not manage systemd's units here",
            )
        return prepare(service, context, self._environment, code="service.start")

    async def _run(self, launch: Launch) -> None:
        key = (launch.package, launch.service)
        before = self._running.get(key)
        if before is not None and before.launch == launch and not before.trouble():
            return
        await self._end([key])
        tail = self._tails[key] = Tail()
        log = self._log_files.setdefault(key, LogFile(self._logs / f"{full_name(*key)}.log"))
        log.reopen()

        def sink(data: bytes) -> None:
            tail.add(data)
            log.write(data)

        service = SupervisedService(
            launch, clock=self._clock, sink=sink, record=lambda pid: self._records.write(full_name(*key), pid)
        )
        try:
            await service.begin()
        except (OSError, ValueError) as error:
            log.close()
            raise DeviceError(
                "service.start",
                f"service {launch.service} of {launch.package} {launch.version} cannot be started: {one_line(error)}",
            ) from error
        self._running[key] = service

    async def _end(self, keys: Sequence[_Key]) -> None:
        ending = {key: self._running[key] for key in keys if key in self._running}
        async with asyncio.TaskGroup() as group:
            for key, service in ending.items():
                group.create_task(service.end(), name=f"stop {full_name(*key)}")
        for key in ending:
            del self._running[key]
            self._log_files[key].close()
            self._records.write(full_name(*key), None)

    async def _end_leftovers(self) -> None:
        if not self._leftovers_gone:
            await self._records.end_leftovers()
            self._leftovers_gone = True
