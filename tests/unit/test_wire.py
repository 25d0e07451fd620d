"""When a connection's socket is read. A real socket and a client that only counts; with brokers it is in
`tests/contract/test_link.py`."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from tests.support.links import until
from transport import wire
from transport.quick import QuickClient
from transport.wire import Wire

TURNS = 20
FAR_S = 60.0


class Counting:
    """Takes each byte for a message, and notes how many came with each read."""

    on_hold = False
    may_read = False
    holds_more = False
    reads_all = True
    messages_read = 0

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.reads: list[int] = []
        self.looks = 0
        self.on_socket_open: Any = None

    def look_again(self) -> None:
        self.looks += 1
        self.messages_read = 0

    def loop_read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self.messages_read = len(self._sock.recv(1000))
            self.reads.append(self.messages_read)

    def loop_write(self) -> None:
        pass

    def want_write(self) -> bool:
        return False

    def loop_misc(self) -> None:
        pass

    def connect(self) -> None:
        self.on_socket_open(None, None, self._sock)


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Wire, Counting, socket.socket]]:
    """What reads, what counts, and the broker's end."""
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, socket.create_connection(listener.getsockname()) as ours:
        theirs, _ = listener.accept()
        with theirs:
            ours.setblocking(False)
            client = Counting(ours)
            broken: list[str] = []
            reading = Wire(cast("QuickClient", client), on_broken=broken.append)
            await reading.open(client.connect, keepalive_s=60)
            yield reading, client, theirs
            reading.close()
            assert broken == []


async def turns() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def _rests_till_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "_REST_S", FAR_S)


async def test_after_several_messages_at_once_the_next_are_read_together() -> None:
    async with connected() as (reading, client, broker):
        broker.sendall(b"ab")
        await until(lambda: client.reads == [2])
        for _ in range(3):
            broker.sendall(b"c")
            await turns()
        assert client.reads == [2]
        reading._rested()
        await until(lambda: client.reads == [2, 3])


async def test_where_a_read_brings_only_some_of_what_has_come_the_next_one_follows_at_once() -> None:
    async with connected() as (_, client, broker):
        client.reads_all = False
        for number in range(1, 4):
            broker.sendall(b"ab")
            await until(lambda number=number: client.reads == [2] * number)


async def test_after_a_single_message_the_next_one_is_read_at_once() -> None:
    async with connected() as (_, client, broker):
        for number in range(1, 4):
            broker.sendall(b"a")
            await until(lambda number=number: client.reads == [1] * number)


async def test_whoever_holds_back_reading_while_it_rests_has_it_go_on_when_they_say_so() -> None:
    async with connected() as (reading, client, broker):
        broker.sendall(b"ab")
        await until(lambda: client.reads == [2])
        reading.pause_reading()
        broker.sendall(b"c")
        reading._rested()
        looks = client.looks
        await turns()
        assert (client.reads, client.looks) == ([2], looks)
        reading.resume_reading()
        await until(lambda: client.reads == [2, 1])


async def test_a_connection_may_end_while_its_reading_rests() -> None:
    async with connected() as (reading, client, broker):
        broker.sendall(b"ab")
        await until(lambda: client.reads == [2])
        assert reading._rest is not None
        reading.close()
        assert reading._rest is None
