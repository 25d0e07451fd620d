"""Runs the processes of a simulated fleet and adds up what they say."""

import asyncio
import contextlib
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

import msgspec

from device_agent.simulator.fleet import GOODBYE_S, allow_connections
from device_agent.simulator.tally import Tally
from device_agent.simulator.worker import Orders, Word
from schemas.errors import DeviceError, NetworkError, OperatorError, one_line
from transport import SettingsError, TransportError, connect

LOOK_EVERY_S: Final = 0.25
SETTLED_S: Final = 3.0
"""For so long nothing new must have come about before a fleet counts as settled: reports follow the last words."""
_STOP_S: Final = GOODBYE_S + 15.0
_MAX_LINE: Final = 1024 * 1024


class Fleet:
    """The processes, while they run."""

    def __init__(self, processes: Sequence[asyncio.subprocess.Process]) -> None:
        self._processes = processes
        self._words: dict[int, Word] = {}
        self._reading = [
            asyncio.create_task(self._read(number, process), name=f"simulator {number}")
            for number, process in enumerate(processes)
        ]

    def tally(self) -> Tally:
        """All that the processes have said they did."""
        total = Tally()
        for word in self._words.values():
            total.add(word.tally)
        return total

    def check(self) -> None:
        """Raise `DeviceError` (`internal.error`) where a process has ended that was not asked to."""
        for number, process in enumerate(self._processes):
            if process.returncode is not None:
                raise DeviceError(
                    "internal.error", f"process {number + 1} of the simulator ended with status {process.returncode}"
                )

    async def stop(self) -> Tally:
        """Have every device say goodbye; gives the last word of all."""
        for process in self._processes:
            if process.stdin is not None:
                process.stdin.close()
        try:
            async with asyncio.timeout(_STOP_S):
                await asyncio.gather(*self._reading)
                await asyncio.gather(*(process.wait() for process in self._processes))
        except TimeoutError:
            pass  # who is late is ended with the block
        return self.tally()

    def end(self) -> None:
        """Listen to them no more."""
        for task in self._reading:
            task.cancel()

    async def _read(self, number: int, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None  # noqa: S101  # it was asked for
        async for line in process.stdout:
            self._words[number] = msgspec.json.decode(line, type=Word)


async def simulate(
    parts: Sequence[Orders],
    stop: asyncio.Event,
    *,
    for_s: float | None,
    until_settled: bool,
    tell: Callable[[Tally], None],
) -> Tally:
    """Run a fleet until `stop`, until its time is over or until it has settled; gives what it did.

    Args:
        parts: what each process is to be.
        for_s: seconds after which it ends.
        until_settled: end it when every update has had its last word, and the broker has been told.
        tell: told how it goes, a few times a second.

    Raises:
        NetworkError: `broker.*`: there is no broker to connect to.
        OperatorError: `config.bad`: the system does not allow so many connections, or the settings cannot be used.
        DeviceError: `internal.error`: a process ended by itself.
    """
    largest = -(-parts[0].devices // len(parts)) * 2  # all may have twins
    if not allow_connections(largest):
        raise OperatorError(
            "config.bad",
            f"this system allows fewer than {largest} open connections to a process; raise it (ulimit -n), "
            "or use more --processes",
        )
    await _try_broker(parts[0])
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + for_s if for_s is not None else None
    quiet_since, before = loop.time(), Tally()
    async with _processes(parts) as fleet:
        while not stop.is_set() and (ends_at is None or loop.time() < ends_at):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await stop.wait()
            fleet.check()
            tally = fleet.tally()
            tell(tally)
            if (tally.written, tally.messages) != (before.written, before.messages) or not tally.settled:
                quiet_since, before = loop.time(), tally
            elif until_settled and loop.time() - quiet_since >= SETTLED_S:
                break
        return await fleet.stop()


@asynccontextmanager
async def _processes(parts: Sequence[Orders]) -> AsyncIterator[Fleet]:
    processes: list[asyncio.subprocess.Process] = []
    fleet: Fleet | None = None
    try:
        for orders in parts:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "device_agent.simulator.worker",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=_MAX_LINE,
                start_new_session=True,  # Ctrl-C is for whoever lets them say goodbye
            )
            processes.append(process)
            assert process.stdin is not None  # noqa: S101  # it was asked for
            process.stdin.write(msgspec.json.encode(orders) + b"\n")
        fleet = Fleet(processes)
        yield fleet
    finally:
        if fleet is not None:
            fleet.end()
        for process in processes:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
        await asyncio.gather(*(process.wait() for process in processes))


async def _try_broker(orders: Orders) -> None:
    """One connection, so that whoever mistypes an address is told so and is not kept waiting."""
    probe = orders.link_settings(f"{orders.prefix}-{uuid.uuid4().hex[:8]}")
    settings = replace(probe, session_expiry_s=0, clean_start=True)
    try:
        async with connect(settings):
            pass
    except SettingsError as error:
        raise OperatorError("config.bad", str(error)) from error
    except TransportError as error:
        raise NetworkError(error.code, one_line(error)) from error
