"""Runs other programs, bounded: own session, time limit, the last of their output, gone when the agent goes."""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from schemas.errors import DeviceError, one_line

MAX_TAIL: Final = 16 * 1024
"""How much of a program's output is kept, in bytes; `log_tail` in events holds no more."""

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_INHERITED: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "USER", "LOGNAME")
_LAUNCHER: Final = Path(__file__).with_name("launcher.py")
_POLL_S: Final = 0.02
_AFTER_KILL_S: Final = 2.0
"""How long to wait for what SIGKILL was sent to; only a process stuck in the kernel takes longer."""


class Tail:
    """Keeps the last bytes of a stream."""

    def __init__(self, limit: int = MAX_TAIL) -> None:
        self._limit = limit
        self._kept = bytearray()
        self._cut = False

    def add(self, data: bytes) -> None:
        """Append; what is older than the limit is forgotten."""
        self._kept += data[-self._limit :]
        self._cut = self._cut or len(data) > self._limit
        if len(self._kept) > 2 * self._limit:
            del self._kept[: -self._limit]
            self._cut = True

    def text(self, limit: int | None = None) -> str:
        """The last whole lines, printable, at most the limit in characters."""
        limit = self._limit if limit is None else min(limit, self._limit)
        if limit <= 0:
            return ""
        kept = bytes(self._kept[-limit:])
        if self._cut or len(self._kept) > limit:
            _, newline, whole = kept.partition(b"\n")
            kept = whole if newline and whole else kept
        text = kept.decode(errors="replace").replace("\r\n", "\n")
        return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """How a program ended.

    Attributes:
        code: exit status, negative for the signal that ended it; None when its time ran out.
        output: the last of what it printed to both streams.
        seconds: how long it ran.
    """

    code: int | None
    output: str
    seconds: float


class Child:
    """A program that leads its own session and process group. `start` makes one; `end` leaves nothing of the group."""

    def __init__(self, process: asyncio.subprocess.Process, output: asyncio.ReadTransport, closed: asyncio.Event):
        self._process = process
        self._output = output
        self._output_closed = closed
        self.pid: Final = process.pid

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        *,
        folder: Path,
        environment: Mapping[str, str],
        sink: Callable[[bytes], None],
        user: str | None = None,
    ) -> "Child":
        """Start `command` (first argument: a resolved path) in `folder`; both output streams go to `sink`.

        Must run in the thread that lives as long as the agent: on Linux the child dies with it.

        Raises:
            OSError: it cannot be started.
            ValueError: an argument holds a NUL character.
        """
        if any("\0" in text for text in (*command, *environment.keys(), *environment.values())):
            raise ValueError("an argument or variable holds a NUL character")
        loop = asyncio.get_running_loop()
        closed = asyncio.Event()
        reading, writing = os.pipe()
        try:
            transport, _ = await loop.connect_read_pipe(
                lambda: _OutputProtocol(sink, closed), os.fdopen(reading, "rb", buffering=0)
            )
            try:
                process = await asyncio.create_subprocess_exec(
                    *_guarded(command, user),
                    cwd=folder,
                    env=dict(environment),
                    stdin=asyncio.subprocess.DEVNULL,
                    # A pipe of our own rather than asyncio's: its `wait` would last until every
                    # descendant that inherited the pipe has closed it.
                    stdout=writing,
                    stderr=asyncio.subprocess.STDOUT,
                    start_new_session=True,
                )
            except BaseException:
                transport.close()
                raise
        finally:
            os.close(writing)
        return cls(process, transport, closed)

    async def wait(self) -> int:
        """The exit status of the program itself; others of its group may still run."""
        return await self._process.wait()

    async def end(self, grace_s: float) -> None:
        """SIGTERM to the group, SIGKILL after `grace_s` to what is left of it; then take in the last output."""
        try:
            if signal_group(self.pid, signal.SIGTERM):
                await self._gone(grace_s)
        finally:
            signal_group(self.pid, signal.SIGKILL)
            await self._gone(_AFTER_KILL_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.2):  # a descendant in another session may hold the pipe for ever
                    await self._output_closed.wait()
            self._output.close()

    async def _gone(self, limit_s: float) -> bool:
        deadline = time.monotonic() + limit_s
        try:
            async with asyncio.timeout(limit_s):
                await self._process.wait()
        except TimeoutError:
            return False
        while group_alive(self.pid):
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(_POLL_S)
        return True


class _OutputProtocol(asyncio.Protocol):
    def __init__(self, sink: Callable[[bytes], None], closed: asyncio.Event) -> None:
        self._sink = sink
        self._closed = closed

    def data_received(self, data: bytes) -> None:
        self._sink(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # the signature is asyncio's
        self._closed.set()


async def run(
    command: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    timeout_s: float,
    grace_s: float = 2.0,
) -> Finished:
    """Run `command` to its end or its time limit; its whole process group is gone on return, also when cancelled.

    Raises:
        OSError, ValueError: as `Child.start`.
    """
    tail = Tail()
    begun = time.monotonic()
    child = await Child.start(command, folder=folder, environment=environment, sink=tail.add)
    code: int | None = None
    patience = 0.0  # for what a program that ended, or was cancelled, left behind
    try:
        async with asyncio.timeout(timeout_s):
            code = await child.wait()
    except TimeoutError:
        patience = grace_s
    finally:
        await child.end(patience)
    return Finished(code=code, output=tail.text(), seconds=time.monotonic() - begun)


def base_environment() -> dict[str, str]:
    """What every child gets of the agent's own environment: enough to find programs, and no secrets."""
    kept = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {"PATH": DEFAULT_PATH, "LANG": "C.UTF-8", **kept}


def resolve_command(
    command: Sequence[str], *, folder: Path, state_folder: Path, path: str, code: str, where: str
) -> list[str]:
    """`command` with its first argument made a full path.

    A bare name is looked up on `path`, an absolute path is taken as it is, and a relative one with a slash
    is looked up in the release, out of which no link may lead (but into its own state).

    Raises:
        DeviceError: `code`, where there is no such program.
    """
    first = command[0]
    if "\0" in first:
        raise DeviceError(code, f"{where}: the command holds a NUL character")
    if "/" not in first:
        found = shutil.which(first, path=path)
        if found is None:
            raise DeviceError(code, f"{where}: {one_line(first)!r} is not a program on this device (PATH is {path})")
        return [found, *command[1:]]
    program = folder / first
    if not first.startswith("/"):
        real = program.resolve()
        if not any(real.is_relative_to(inside.resolve()) for inside in (folder, state_folder)):
            raise DeviceError(code, f"{where}: {one_line(first)!r} leads outside the release")
    if not program.is_file():
        raise DeviceError(code, f"{where}: {one_line(first)!r} does not exist")
    if not os.access(program, os.X_OK):
        raise DeviceError(code, f"{where}: {one_line(first)!r} is not executable; set its mode in the package")
    return [str(program), *command[1:]]


def describe_exit(code: int | None) -> str:
    """An exit status in words, e.g. `ended with status 3` or `was ended by SIGSEGV`."""
    if code is None:
        return "ran out of time"
    if code >= 0:
        return f"ended with status {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def signal_group(group: int, number: signal.Signals) -> bool:
    """Send a signal to a process group; whether there was anybody to get it."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        return sys.platform != "darwin"  # macOS says so for a group that holds only zombies
    return True


def group_alive(group: int) -> bool:
    """Whether any process of the group still runs; zombies that nobody reaps do not count."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return sys.platform != "darwin"
    proc = Path("/proc")
    if not (proc / "self/stat").exists():
        return True
    return any(
        fields is not None and fields[2] == str(group) and fields[0] not in "ZX"
        for fields in (process_fields(int(entry.name)) for entry in proc.iterdir() if entry.name.isdigit())
    )


def process_fields(pid: int) -> list[str] | None:
    """The fields of Linux' `/proc/PID/stat` from the state on (proc(5) counts it as the third); None if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()  # the name before it may hold anything


def _guarded(command: Sequence[str], user: str | None) -> list[str]:
    account = "" if user is None else _account(user)
    return [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid()), account, *command]


def _account(user: str) -> str:
    """The account that the launcher changes to; empty where it is the agent's own."""
    import pwd  # noqa: PLC0415  # only where an account is named

    try:
        entry = pwd.getpwnam(user)
    except KeyError as error:
        raise OSError(None, f"there is no account {user!r} on this device") from error
    if entry.pw_uid == os.geteuid():
        return ""
    if os.geteuid() != 0:
        raise OSError(None, f"only root can start a program as {user!r}")
    return user
