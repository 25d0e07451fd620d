"""Hands work over from a command to the agent that runs on the same root folder, through a socket in it.

Only the agent's own account can open the socket. One request a connection, one JSON object a line:

    → {"verb": "install", "subject": "/media/usb/tacho-1.1.0.flotilla"}
    → {"verb": "rollback", "subject": "tacho"}
    → {"verb": "hold", "subject": "on"}           or "off"
    ← {"note": "installing tacho 1.1.0"}
    ← {"event": {…}}                              as on the broker, until the update's last word
    ← {"error": {"code": "…", "message": "…"}}    instead, where it could not be begun

The work goes on when the command is interrupted.
"""

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Literal

import msgspec

from device_agent.local_work import Begun, LocalWork
from device_agent.logs import line, logger
from device_agent.reports import defect
from schemas.errors import CODES, DeviceError, FlotillaError, OperatorError, one_line
from schemas.messages import LAST_WORDS, UpdateEvent
from schemas.names import PACKAGE_PATTERN, matches

SOCKET: Final = "agent.sock"
MAX_LINE: Final = 512 * 1024
REQUEST_S: Final = 5.0
SAY_S: Final = 30.0
MAX_CLIENTS: Final = 8
_LONGEST_ADDRESS: Final = 100
"""Bytes that fit `sun_path` everywhere (104 on macOS, 108 on Linux)."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What a command asks for; `subject` is a file's absolute path, a package, or `on` or `off`; `to` a version."""

    verb: Literal["install", "rollback", "hold"]
    subject: str
    to: str | None = None


class Reply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the answer: the note (with the update it is about, if any), an event, or an error."""

    note: str | None = None
    update: str | None = None
    event: UpdateEvent | None = None
    error: dict[str, str] | None = None


class ControlServer:
    """The agent's end. A problem with the socket costs the hand-over, never the agent."""

    def __init__(self, root: Path, work: LocalWork) -> None:
        self._root = root
        self._work = work
        self._clients: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Answer until cancelled."""
        path = self._root / SOCKET
        try:
            with _bound(path) as listening:
                await asyncio.start_unix_server(self._connected, sock=listening, limit=MAX_LINE)
                await asyncio.Event().wait()
        except OSError as error:
            why = one_line(error.strerror or error)
            logger().warning(line("control", f"{path}: {why}; stop the agent to install or roll back by hand"))
        finally:
            for client in self._clients:
                client.cancel()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = asyncio.create_task(self._answer(reader, writer), name="control client")
        self._clients.add(client)
        client.add_done_callback(self._clients.discard)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self._admit()
            async with asyncio.timeout(REQUEST_S):
                request = msgspec.json.decode(await reader.readuntil(b"\n"), type=Request)
            await self._carry_out(request, writer)
        except FlotillaError as error:
            await _say(writer, Reply(error={"code": error.code, "message": str(error)}))
        except (msgspec.DecodeError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
            await _say(writer, Reply(error={"code": "input.bad", "message": "the request is not understood"}))
        except Exception as error:  # noqa: BLE001  # whoever asked is told of a defect as of any other failure
            why = defect(error)
            logger().error(line("control", why, code=why.code))
            await _say(writer, Reply(error={"code": why.code, "message": str(why)}))
        finally:
            # not `close`, which waits until somebody has read what is left
            writer.transport.abort() if writer.transport.get_write_buffer_size() else writer.close()

    def _admit(self) -> None:
        if len(self._clients) > MAX_CLIENTS:
            raise DeviceError("conflict.busy", "too many commands at once")

    async def _carry_out(self, request: Request, writer: asyncio.StreamWriter) -> None:
        subject = one_line(request.subject)
        logger().info(line("control", verb=request.verb, subject=subject))
        if request.verb == "install":
            if "\0" in request.subject or not request.subject.startswith("/"):
                raise OperatorError("input.bad", f"{subject!r} is not the absolute path of a file")
            begun = await self._work.install(Path(request.subject))
        elif request.verb == "hold":
            begun = await self._work.hold(request.subject == "on")
        else:
            if not matches(PACKAGE_PATTERN, request.subject):
                raise OperatorError("input.bad", f"{subject!r} is not a package name")
            begun = await self._work.rollback(request.subject, request.to)
        if await _say(writer, Reply(note=begun.note, update=begun.update)):
            async for event in self._work.follow(begun):
                if not await _say(writer, Reply(event=event)):
                    break  # the command was interrupted, or does not read; its work goes on


class HandOver:
    """The command's end: looks like `LocalWork`, but another process does it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def install(self, file: Path) -> Begun:
        """As `LocalWork.install`."""
        return await self._begin(Request(verb="install", subject=str(file)))

    async def rollback(self, package: str, to: str | None = None) -> Begun:
        """As `LocalWork.rollback`."""
        return await self._begin(Request(verb="rollback", subject=package, to=to))

    async def hold(self, on: bool) -> Begun:
        """As `LocalWork.hold`."""
        return await self._begin(Request(verb="hold", subject="on" if on else "off"))

    async def follow(self, begun: Begun) -> AsyncIterator[UpdateEvent]:
        """As `LocalWork.follow`.

        Raises:
            DeviceError: `conflict.busy`: the agent ended meanwhile; the work goes on when it starts again.
        """
        last = None
        while (reply := await self._read()) is not None:
            if reply.event is not None:
                last = reply.event
                yield last
        if begun.update is not None and (last is None or last.phase not in LAST_WORDS):
            raise DeviceError("conflict.busy", "the agent ended; it goes on with the work when it starts again")

    async def _begin(self, request: Request) -> Begun:
        self._writer.write(msgspec.json.encode(request) + b"\n")
        reply = await self._read()
        if reply is None or reply.note is None:
            raise DeviceError("conflict.busy", "the agent did not answer; is it ending?")
        return Begun(update=reply.update, after_seq=0, note=reply.note)

    async def _read(self) -> Reply | None:
        try:
            text = await self._reader.readline()
            reply = msgspec.json.decode(text, type=Reply) if text else None
        except (OSError, ValueError) as error:
            raise DeviceError("internal.error", f"the agent's answer is not understood: {one_line(error)}") from error
        if reply is not None and reply.error is not None:
            code = reply.error.get("code", "")
            raise OperatorError(code if code in CODES else "internal.error", reply.error.get("message", ""))
        return reply


@asynccontextmanager
async def hand_over_to(root: Path) -> AsyncIterator[HandOver | None]:
    """The way to the agent that runs on `root`; None where there is none."""
    try:
        with _short(root / SOCKET) as address:
            reader, writer = await asyncio.open_unix_connection(address, limit=MAX_LINE)
    except (FileNotFoundError, ConnectionRefusedError):
        yield None
        return
    except PermissionError as error:
        # an agent's own account only, see above
        raise OperatorError("data.bad", f"{root / SOCKET} may not be used by this account; use sudo") from error
    except OSError as error:
        raise DeviceError("conflict.busy", f"{root / SOCKET}: {one_line(error.strerror or error)}") from error
    try:
        yield HandOver(reader, writer)
    finally:
        writer.close()


def is_listening(root: Path) -> bool:
    """Whether an agent runs on `root`; a socket that a killed one left behind does not count."""
    try:
        with _short(root / SOCKET) as address, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            asking.settimeout(REQUEST_S)
            asking.connect(address)
    except PermissionError:
        return True  # somebody else's, as far as this account may know
    except OSError:
        return False
    return True


async def _say(writer: asyncio.StreamWriter, reply: Reply) -> bool:
    """Whether the command has taken it, or may yet: what it has not read within `SAY_S` it never will."""
    try:
        async with asyncio.timeout(SAY_S):
            writer.write(msgspec.json.encode(reply) + b"\n")
            await writer.drain()
    except (ConnectionError, TimeoutError):
        return False
    return True


@contextlib.contextmanager
def _bound(path: Path) -> Iterator[socket.socket]:
    """A socket that only this account can open.

    Whoever holds the root folder's lock may remove a stale one, and whatever else holds nothing.
    """
    with contextlib.suppress(FileNotFoundError):
        if stat.S_IFMT(path.lstat().st_mode) in (stat.S_IFREG, stat.S_IFDIR):
            raise FileExistsError(None, "a file or folder of somebody else's is in the way")
        path.unlink()
    with _short(path) as address, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        mask = os.umask(0o177)
        try:
            listening.bind(address)
        finally:
            os.umask(mask)
        try:
            yield listening
        finally:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """An address for `path` that fits a socket's name, whatever the length of the folder's."""
    text = str(path)
    if len(os.fsencode(text)) <= _LONGEST_ADDRESS or not Path("/proc/self/fd").is_dir():
        yield text
        return
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        yield text[:_LONGEST_ADDRESS]
        return
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
