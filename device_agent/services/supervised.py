"""One service that the agent keeps running by itself."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from device_agent.clock import Clock
from device_agent.processes import Child, describe_exit
from device_agent.services.launch import SHORT_RUNS, STEADY_S, Launch
from schemas.errors import one_line

FIRST_DELAY_S: Final = 0.5
MAX_DELAY_S: Final = 30.0


def restart_delay(short_runs: int) -> float:
    """How long to wait before the next start after so many short runs in a row, seconds: doubling, bounded."""
    return min(MAX_DELAY_S, FIRST_DELAY_S * 2.0 ** min(short_runs - 1, 16)) if short_runs > 0 else FIRST_DELAY_S


class SupervisedService:
    """A running service. Made by `begin`, over after `end`; between both it is restarted as its rules say.

    Args:
        sink: gets what it prints.
        record: told the process whenever one starts, and None when it is not to be started again.
    """

    def __init__(
        self, launch: Launch, *, clock: Clock, sink: Callable[[bytes], None], record: Callable[[int | None], None]
    ) -> None:
        self.launch: Final = launch
        self._clock = clock
        self._sink = sink
        self._record = record
        self._child: Child | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._begun_at = 0.0
        self._short_runs = 0
        self._last_end = ""
        self._over = False

    async def begin(self) -> None:
        """Start it for the first time.

        Raises:
            OSError, ValueError: it cannot be started at all.
        """
        await self._start()
        self._keeping = asyncio.create_task(self._keep(), name=f"service {self.launch.package}.{self.launch.service}")

    async def end(self) -> None:
        """Stop it, within its stop timeout, and keep it stopped."""
        keeping, self._keeping = self._keeping, None
        if keeping is not None:
            keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([keeping])
        child, self._child = self._child, None
        if child is not None:
            await child.end(self.launch.stop_timeout_s)

    def trouble(self) -> str:
        """Empty while all is well, else what is wrong in one line."""
        name = f"service {self.launch.service}"
        running = self._child is not None
        if self._short_runs >= SHORT_RUNS and not (running and self._uptime() >= STEADY_S):
            return f"{name} keeps ending: {self._short_runs} times in a row, last it {self._last_end}"
        if running or (self._over and not self._last_end):
            return ""
        return f"{name} is down: it {self._last_end}" + (" and is not to be restarted" if self._over else "")

    async def _start(self) -> None:
        self._child = await Child.start(
            self.launch.command,
            folder=self.launch.folder,
            environment=self.launch.environment,
            sink=self._sink,
            user=self.launch.user,
        )
        self._begun_at = self._clock.monotonic()
        self._record(self._child.pid)

    async def _keep(self) -> None:
        while True:
            if self._child is not None:
                code = await self._child.wait()
                # What else runs of it may hold the port that the next start needs.
                await self._child.end(0)
                self._short_runs = 0 if self._uptime() >= STEADY_S else self._short_runs + 1
                self._child = None
                if self.launch.restart == "never" or (self.launch.restart == "on-failure" and code == 0):
                    self._last_end = "" if code == 0 else describe_exit(code)
                    self._over = True
                    self._record(None)
                    return
                self._last_end = describe_exit(code)
            await self._clock.sleep(restart_delay(self._short_runs))
            try:
                await self._start()
            except (OSError, ValueError) as error:
                self._short_runs += 1
                self._last_end = f"cannot be started: {one_line(error)}"

    def _uptime(self) -> float:
        return self._clock.monotonic() - self._begun_at
