"""Connections that stand still are ended, and those that have a reason to wait are not."""

import asyncio
import contextlib
import resource
import socket
import sys
import types
from collections.abc import AsyncIterator
from typing import Any

import pytest

from controller import connections, listening
from controller.connections import Connection
from controller.crowding import Crowd
from controller.listening import Server, server_config
from controller.logs import set_up_logging

HEAD = b"GET / HTTP/1.1\r\nHost: here\r\n"
MIB = 1024 * 1024
WAIT_S = 10.0

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Application:
    """Answers `/` at once, `/body` with what it got, `/slow` when it is told to, `/much` with more than fits, and
    `/live` with something and then a little again and again."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.left = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for told in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{told}.complete"})
            return
        body = b""
        if scope["path"] == "/body":
            more = True
            while more:
                message = await receive()
                body += message["body"]
                more = message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == "/slow":
            await send({"type": "http.response.body", "body": b"begun;", "more_body": True})
            await self.go_on.wait()
        if scope["path"] in ("/much", "/live"):
            first, then, pause_s = (MIB, MIB, 0.0) if scope["path"] == "/much" else (32 * 1024, 1, 0.01)
            with contextlib.suppress(asyncio.CancelledError):
                await self._send_until_gone(receive, send, first, then, pause_s)
            self.left.set()
            return
        await send({"type": "http.response.body", "body": body + b"end", "more_body": False})

    async def _send_until_gone(self, receive: Any, send: Any, first: int, then: int, pause_s: float) -> None:
        async def sending() -> None:
            await send({"type": "http.response.body", "body": b"x" * first, "more_body": True})
            while True:
                await send({"type": "http.response.body", "body": b"x" * then, "more_body": True})
                await asyncio.sleep(pause_s)

        task = asyncio.create_task(sending())
        while (await receive())["type"] != "http.disconnect":
            pass
        task.cancel()


class Served:
    """A server, and clients of it."""

    def __init__(self, application: Application, address: tuple[str, int], stack: contextlib.AsyncExitStack) -> None:
        self.application = application
        self.address = address
        self._stack = stack

    async def connect(self, *sent: bytes, receives: int | None = None, come_from: str = "127.0.0.1") -> Ends:
        """`receives`: the bytes that the client's machine takes before the client reads."""
        comes = socket.socket()
        comes.bind((come_from, 0))
        if receives is not None:
            comes.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
        comes.setblocking(False)
        await asyncio.get_running_loop().sock_connect(comes, self.address)
        reader, writer = await asyncio.open_connection(sock=comes)
        self._stack.callback(writer.close)
        for one in sent:
            writer.write(one)
        return reader, writer


@contextlib.asynccontextmanager
async def served(keep_alive_s: float = WAIT_S, crowd: Crowd | None = None) -> AsyncIterator[Served]:
    application = Application()
    config = server_config(application, (), crowd)
    config.timeout_keep_alive = keep_alive_s  # type: ignore[assignment]  # any number will do
    server = Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(server.serve([listener]))
        try:
            async with contextlib.AsyncExitStack() as stack:
                yield Served(application, listener.getsockname(), stack)
        finally:
            server.should_exit = True
            await asyncio.wait_for(serving, WAIT_S)


async def until(reader: asyncio.StreamReader, end: bytes) -> bytes:
    return await asyncio.wait_for(reader.readuntil(end), WAIT_S)


async def ended(reader: asyncio.StreamReader) -> bytes:
    """What came until the server ended the connection."""
    try:
        return await asyncio.wait_for(reader.read(), WAIT_S)
    except ConnectionResetError:
        return b""


@pytest.mark.parametrize("sent", [b"", b"G", HEAD, b"\r\n", b"POST / HTTP/1.1\r\nContent-Length: 5"])
async def test_a_head_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 0.05)
    async with served() as here:
        reader, _ = await here.connect(sent)
        assert await ended(reader) == b""


@pytest.mark.parametrize("more", [b"\r\n", b"G", HEAD])
@pytest.mark.parametrize("at_once", [True, False])
async def test_nor_is_one_after_another_request(monkeypatch: pytest.MonkeyPatch, more: bytes, at_once: bool) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 0.05)
    async with served() as here:
        reader, writer = await here.connect(HEAD + b"\r\n" + (more if at_once else b""))
        await until(reader, b"0\r\n\r\n")
        if not at_once or more == b"\r\n":
            writer.write(more)
        assert await ended(reader) == b""


async def test_who_has_a_reason_to_wait_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 0.2)
    async with served() as here:
        follows, _ = await here.connect(HEAD.replace(b"/ ", b"/slow ") + b"\r\n")
        uploads, body = await here.connect(b"POST /body HTTP/1.1\r\nContent-Length: 9\r\n\r\nhalf;")
        keeps, again = await here.connect(HEAD + b"\r\n")
        pipelines, _ = await here.connect(HEAD.replace(b"/ ", b"/slow ") + b"\r\n" + HEAD)
        assert b"begun;" in await until(follows, b"begun;\r\n")
        await until(pipelines, b"begun;\r\n")
        await until(keeps, b"end\r\n0\r\n\r\n")
        # all of them have waited for longer, when this one has waited for as long as it may
        waits, _ = await here.connect(HEAD)
        assert await ended(waits) == b""
        here.application.go_on.set()
        body.write(b"rest")
        again.write(HEAD + b"\r\n")
        for reader in (follows, uploads, keeps, pipelines):
            assert b"end" in await until(reader, b"end\r\n")
        assert await ended(pipelines) == b"0\r\n\r\n"


@pytest.mark.parametrize("length", [1, 1_000_000], ids=["all of it", "some of it"])
async def test_what_is_left_of_a_body_after_its_answer_keeps_no_connection(length: int) -> None:
    async with served(keep_alive_s=0.05) as here:
        reader, writer = await here.connect(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % length)
        await until(reader, b"0\r\n\r\n")
        writer.write(b"x")
        assert await ended(reader) == b""


async def test_who_takes_nothing_of_an_answer_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "STILL_S", 0.3)
    async with served() as here:
        reader, writer = await here.connect(HEAD.replace(b"/ ", b"/much ") + b"\r\n")
        assert isinstance(writer.transport, asyncio.ReadTransport)
        await until(reader, b"\r\n\r\n")
        writer.transport.pause_reading()
        await asyncio.wait_for(here.application.left.wait(), WAIT_S)


async def test_nor_is_a_live_view_kept_by_what_it_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "STILL_S", 0.3)
    async with served() as here:
        reader, writer = await here.connect(HEAD.replace(b"/ ", b"/live ") + b"\r\n", receives=2048)
        assert isinstance(writer.transport, asyncio.ReadTransport)
        await until(reader, b"\r\n\r\n")
        writer.transport.pause_reading()
        await asyncio.wait_for(here.application.left.wait(), WAIT_S)


async def test_a_live_view_goes_on_as_long_as_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "STILL_S", 0.2)
    async with served() as here:
        reader, _ = await here.connect(HEAD.replace(b"/ ", b"/live ") + b"\r\n")
        await until(reader, b"\r\n\r\n")
        # some times longer than it may stand still
        for _ in range(60):
            assert await until(reader, b"1\r\nx\r\n")
        assert not here.application.left.is_set()


@pytest.mark.skipif(sys.platform != "linux", reason="lowers its limit and raises it again")
async def test_that_nobody_can_connect_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    async with served() as here:
        asked, writer = await here.connect(HEAD + b"\r\n")
        await until(asked, b"end\r\n0\r\n\r\n")
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with socket.socket() as comes:
            comes.setblocking(False)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            try:
                with contextlib.suppress(BlockingIOError):
                    comes.connect(here.address)
                # the server looks at who comes before, or together with, this
                writer.write(HEAD + b"\r\n")
                await until(asked, b"end\r\n0\r\n\r\n")
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        loop = asyncio.get_running_loop()
        loop.call_exception_handler({"message": "another thing"})
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "nobody can connect for now: [Errno 24] Too many open files; see LimitNOFILE= of its service",
        "another thing",
    ]


@pytest.mark.parametrize(
    "sent", [b"nonsense\r\n\r\n", HEAD + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n"], ids=["none", "upgrade"]
)
async def test_nobody_fills_the_log_with_requests_that_are_none(sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    set_up_logging()
    async with served() as here:
        reader, _ = await here.connect(sent)
        await until(reader, b"\r\n\r\n")
    assert not caplog.records


async def test_one_address_has_so_many_connections_and_others_have_theirs(caplog: pytest.LogCaptureFixture) -> None:
    async with served(crowd=Crowd(2, ())) as here:
        answered, again = await here.connect(HEAD + b"\r\n")
        follows, _ = await here.connect(HEAD.replace(b"/ ", b"/slow ") + b"\r\n")
        await until(answered, b"end\r\n0\r\n\r\n")
        await until(follows, b"begun;\r\n")
        for _ in range(3):
            one_more, _ = await here.connect(HEAD + b"\r\n")
            assert await ended(one_more) == b""
        another, _ = await here.connect(HEAD + b"\r\n", come_from="127.0.0.2")
        assert b"end" in await until(another, b"end\r\n0\r\n\r\n")
        # those that are there go on, and another comes in for one that has gone
        again.write(HEAD.replace(b"\r\nHost", b"\r\nConnection: close\r\nHost") + b"\r\n")
        assert b"end" in await ended(answered)
        instead, _ = await here.connect(HEAD + b"\r\n")
        assert b"end" in await until(instead, b"end\r\n0\r\n\r\n")
        here.application.go_on.set()
        assert b"end" in await until(follows, b"end\r\n")
    assert [record.getMessage() for record in caplog.records] == [
        "127.0.0.1 has 2 connections, more are closed at once (1 since the last such line); LimitNOFILE= allows more"
    ]


class Upgraded(asyncio.Protocol):
    """Refuses, as a library for WebSockets does where the application has none."""

    def __init__(self, **_: Any) -> None:
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, _: bytes) -> None:
        self.transport.write(b"HTTP/1.1 403 Forbidden\r\n\r\n")
        self.transport.close()


async def test_who_wants_a_websocket_is_counted_no_longer_than_others(monkeypatch: pytest.MonkeyPatch) -> None:
    # such a library may be installed besides
    library = types.ModuleType("uvicorn.protocols.websockets.auto")
    library.AutoWebSocketsProtocol = Upgraded  # type: ignore[attr-defined]  # the name that is looked for
    monkeypatch.setitem(sys.modules, library.__name__, library)
    wishes = HEAD.replace(b"\r\nHost", b"\r\nConnection: upgrade, close\r\nUpgrade: websocket\r\nHost") + b"\r\n"
    async with served(crowd=Crowd(1, ())) as here:
        for _ in range(3):
            reader, _ = await here.connect(wishes)
            assert (await ended(reader)).startswith(b"HTTP/1.1 200")


async def test_this_machine_has_as_many_as_it_likes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "most_of_one", lambda: 1)
    async with served() as here:
        readers = [(await here.connect(HEAD + b"\r\n"))[0] for _ in range(3)]
        for reader in readers:
            assert b"end" in await until(reader, b"end\r\n0\r\n\r\n")


class Transport:
    """Has so many bytes left to send, each time that it is asked."""

    def __init__(self, *left: int) -> None:
        self.left = list(left)
        self.aborted = False

    def get_write_buffer_size(self) -> int:
        return self.left.pop(0)

    def get_extra_info(self, _: str) -> None:
        return None

    def abort(self) -> None:
        self.aborted = True


@pytest.mark.parametrize(
    ("left", "written", "aborted"),
    [
        ([9] * 7, 0, True),
        ([9] * 6, 0, False),
        ([9, 9, 9, 8, 8, 8, 8], 0, False),
        ([0] * 20, 0, False),
        ([9, 8] * 9, 0, False),
        # a little is sent again and again: taken by nobody, or as quickly as it is sent
        ([9, 10, 11, 12, 13, 14, 15], 1, True),
        ([9] * 20, 1, False),
        ([9, 10, 10, 11, 12, 13, 14, 15], 1, False),
    ],
)
async def test_any_byte_counts_as_moved(left: list[int], written: int, aborted: bool) -> None:
    transport = Transport(*left)
    connection = Connection(server_config(Application(), ()), Server(server_config(Application(), ())).server_state, {})
    connection.transport = transport  # type: ignore[assignment]  # as much of one as is asked
    for _ in left:
        connection._wrote(written)
        connection._look()
        if connection._look_timer is not None:
            connection._look_timer.cancel()
    assert transport.aborted is aborted
