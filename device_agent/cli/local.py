"""`flotilla-agent install FILE` and `rollback NAME`: by the agent that runs, or by this command itself."""

import argparse
import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from device_agent.cli.options import config_from, written_path
from device_agent.cli.status import print_json
from device_agent.config import AgentConfig
from device_agent.control import hand_over_to
from device_agent.engine import Engine, open_engine
from device_agent.heard import Heard
from device_agent.journal import Journal
from device_agent.local_work import Begun, hold_note
from device_agent.services.supervisor import Supervisor
from schemas.errors import OperatorError, one_line
from schemas.messages import Phase, UpdateEvent
from schemas.names import PACKAGE_PATTERN, matches

INTERRUPTED = 130
CLEAR_UP_S = 60.0


class Worker(Protocol):
    """Who does the work: this process, or the agent that runs."""

    async def install(self, file: Path) -> Begun:
        """Begin to install an exported file."""
        ...

    async def rollback(self, package: str, to: str | None = None) -> Begun:
        """Begin to go back."""
        ...

    def follow(self, begun: Begun) -> AsyncIterator[UpdateEvent]:
        """The events up to the last word."""
        ...


def install(arguments: argparse.Namespace) -> int:
    """Install an exported release; the exit status is 0 where it has succeeded."""
    file = written_path("FILE", arguments.file)
    if not file.is_file():
        raise OperatorError("input.bad", f"{file}: no such file")
    good = frozenset({Phase.SUCCEEDED})
    return _run(arguments, lambda worker: worker.install(file), good)


def rollback(arguments: argparse.Namespace) -> int:
    """Go back to the previous release; the exit status is 0 where that runs now."""
    package: str = arguments.package
    if not matches(PACKAGE_PATTERN, package):
        raise OperatorError("input.bad", f"{one_line(package)!r} is not a package name")
    good = frozenset({Phase.ROLLED_BACK, Phase.SUCCEEDED})
    with Journal(config_from(arguments).root, read_only=True):
        pass  # a misspelt root folder is said to be one, not made
    return _run(arguments, lambda worker: worker.rollback(package, arguments.to), good)


def hold(arguments: argparse.Namespace) -> int:
    """Start no update any more, or let them go on."""
    root, on = config_from(arguments).root, arguments.state == "on"
    with Journal(root, read_only=True):
        pass  # a misspelt root folder is said to be one, not made
    note = asyncio.run(_hold(root, on=on))
    if arguments.as_json:
        print_json({"note": note, "result": None})
    else:
        sys.stdout.write(note + "\n")
    return 0


async def _hold(root: Path, *, on: bool) -> str:
    async with hand_over_to(root) as running:
        if running is not None:
            return (await running.hold(on)).note
    # no agent runs, and none is needed to write it down
    with Journal(root) as journal:
        heard = Heard(journal)
        heard.keep_hold(on)
        return hold_note(on, held=heard.on_hold())


def _run(arguments: argparse.Namespace, begin: Callable[[Worker], Awaitable[Begun]], good: frozenset[Phase]) -> int:
    return asyncio.run(_work(config_from(arguments), begin, good, as_json=arguments.as_json))


async def _work(
    config: AgentConfig, begin: Callable[[Worker], Awaitable[Begun]], good: frozenset[Phase], *, as_json: bool
) -> int:
    interrupted = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, interrupted.set)
    async with _worker(config) as (worker, engine):
        working = asyncio.create_task(_follow(worker, begin, as_json=as_json), name="work")
        stopping = asyncio.create_task(interrupted.wait(), name="interrupt")
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not working.done():
            working.cancel()
            await asyncio.wait({working})
            where = "the next `flotilla-agent run` goes on with it" if engine else "the agent goes on with it"
            sys.stderr.write(f"flotilla-agent: interrupted; {where}\n")
            return INTERRUPTED
        last = working.result()
        if engine is not None:
            # the next agent would do it, but nobody knows when there is one, and old releases take room
            await engine.manager.clear_up(CLEAR_UP_S)
    if last is None:
        return 0
    if last.phase in good and engine is not None and isinstance(engine.services, Supervisor):
        sys.stderr.write("packages' services stop with this command; start `flotilla-agent run` to keep them running\n")
    return 0 if last.phase in good else 1


@asynccontextmanager
async def _worker(config: AgentConfig) -> AsyncIterator[tuple[Worker, Engine | None]]:
    """The agent that runs on the root folder, else an engine of our own for as long as this takes."""
    async with hand_over_to(config.root) as running:
        if running is not None:
            yield running, None
            return
    async with open_engine(config) as engine:
        serving = asyncio.create_task(engine.manager.serve(), name="updates")
        try:
            yield engine.local_work, engine
        finally:
            serving.cancel()
            await asyncio.wait({serving})


async def _follow(worker: Worker, begin: Callable[[Worker], Awaitable[Begun]], *, as_json: bool) -> UpdateEvent | None:
    begun = await begin(worker)
    if not as_json:
        sys.stdout.write(begun.note + "\n")
    last = None
    async for event in worker.follow(begun):
        last = event
        if not as_json:
            sys.stdout.write(_sentence(event) + "\n")
            sys.stdout.flush()
    if as_json:
        print_json({"note": begun.note, "result": last})
    return last


def _sentence(event: UpdateEvent) -> str:
    text = f"{event.phase.value:<12} {event.package} {event.version}"
    if event.progress is not None:
        text += f"  {event.progress.bytes_done} of {event.progress.bytes_total} bytes"
    if event.error is not None:
        text += f"  {event.error.code}: {one_line(event.error.message)}"
    if event.phase in (Phase.FAILED, Phase.ROLLED_BACK) and event.error is not None and event.error.log_tail:
        text += "\n" + "\n".join(f"    {one}" for one in event.error.log_tail.splitlines()[-10:])
    return text
