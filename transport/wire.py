"""One paho-mqtt client's socket, driven by the running asyncio loop instead of paho's own thread.

Measured with paho-mqtt 2.2: paho's thread waits with `select()`, which fails for file descriptors above
1023; `add_reader` doesn't. What drives it is paho's public API, as its documentation describes for external
event loops: `on_socket_*`, `loop_read`, `loop_write`, `loop_misc`, `want_write`, `socket`.
"""

import asyncio
import contextlib
import socket
import threading
import traceback
from collections.abc import Callable
from typing import Any, Final

from paho.mqtt.client import Client

from transport.quick import QuickClient

__all__ = ["Wire"]

# One turn of the loop reads at most this many times, each some packets, so that a flood can't starve the other tasks.
_READS_PER_TURN: Final = 4

_REST_S: Final = 0.005
"""After a read that brought several messages the next one waits so long: more come with it, and each read and turn of
the loop costs as much as what it does for a message or two."""


class Wire:
    """Connects a paho client without blocking the loop, then reads, writes and keeps it alive.

    Args:
        client: a client that was never connected; its message callbacks run on the loop.
        on_broken: called once with one line when reading or writing raised, which paho doesn't report.
    """

    def __init__(self, client: QuickClient, *, on_broken: Callable[[str], None]) -> None:
        self._client = client
        self._on_broken = on_broken
        self._loop = asyncio.get_running_loop()
        self._socket: Any = None  # paho's SocketLike has neither setsockopt nor pending
        self._driven = False
        self._flush_due = False
        self._writer_on = False
        self._misc: asyncio.TimerHandle | None = None
        self._rest: asyncio.TimerHandle | None = None
        client.on_socket_open = self._socket_opened
        client.on_socket_close = self._socket_closing
        client.on_socket_register_write = lambda *_: self._wants_to_write()
        client.on_to_write = self._wants_to_write

    async def open(self, connect: Callable[[], object], *, keepalive_s: int) -> None:
        """Run paho's blocking connect (name look-up, TCP, TLS) in a thread, then drive the socket.

        The thread is a daemon of its own and not one of the default executor's: a name look-up that hangs
        can't be cancelled, and must not keep the process from ending. As long as `on_socket_register_write`
        is set paho only queues CONNECT, so an attempt nobody waits for any more says nothing to the broker.

        Raises:
            OSError: the socket or TLS could not be set up (`ssl.SSLError` is one).
            ValueError: the host name can't be encoded.
        """
        outcome: asyncio.Future[None] = self._loop.create_future()

        def settle(error: Exception | None) -> None:
            if outcome.done():  # given up meanwhile
                self.close()
            elif error is not None:
                outcome.set_exception(error)
            else:
                outcome.set_result(None)

        def run() -> None:
            error: Exception | None = None
            try:
                connect()
            except Exception as caught:  # noqa: BLE001 - handed over to the waiting task, whatever it is
                error = caught
                # paho leaves the socket of a failed handshake to its frames' locals: let go of them now.
                traceback.clear_frames(caught.__traceback__)
            try:
                self._loop.call_soon_threadsafe(settle, error)
            except RuntimeError:
                pass  # the loop is closed: nobody waits
            finally:
                error = None  # its traceback leads back to this frame

        threading.Thread(target=run, name="mqtt-connect", daemon=True).start()
        await outcome
        self._drive(keepalive_s)

    def close(self) -> None:
        """Close the socket at once, whatever is unsent. Safe to call again."""
        self._stop_driving()
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()
            self._socket = None

    def pause_reading(self) -> None:
        """Leave what the broker sends in the socket, so that it fills up there and the broker has to wait."""
        if self._driven and not self._client.on_hold:
            self._client.on_hold = True
            self._loop.remove_reader(self._socket.fileno())

    def resume_reading(self) -> None:
        """Go on reading; nothing happens if it wasn't paused."""
        if self._driven and self._client.on_hold:
            self._client.on_hold = False
            self._loop.add_reader(self._socket.fileno(), self._readable)
            self._loop.call_soon(self._readable)  # the client or TLS may hold something already

    def _drive(self, keepalive_s: int) -> None:
        self._driven = True
        # paho compares clocks in loop_misc; a twelfth of the keep-alive is exact enough for its limits.
        self._misc_every_s = min(max(keepalive_s / 12, 0.2), 5.0)
        self._loop.add_reader(self._socket.fileno(), self._readable)
        self._misc = self._loop.call_later(self._misc_every_s, self._tick)
        self._flush()

    def _stop_driving(self) -> None:
        for timer in (self._misc, self._rest):
            if timer is not None:
                timer.cancel()
        self._misc = self._rest = None
        if self._driven:
            self._driven = False
            self._loop.remove_reader(self._socket.fileno())
            self._set_writer(on=False)

    def _socket_opened(self, _client: Client, _userdata: Any, sock: Any) -> None:
        # In the connecting thread. Acknowledgements are small packets and must not wait for each other.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = sock

    def _socket_closing(self, _client: Client, _userdata: Any, _sock: Any) -> None:
        self._stop_driving()
        self._socket = None

    def _wants_to_write(self) -> None:
        # Several packets made in one turn of the loop go out together, and mostly without add_writer.
        if self._driven and not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        if self._driven and self._step(self._client.loop_write):
            self._set_writer(on=self._client.want_write())

    def _set_writer(self, *, on: bool) -> None:
        if on == self._writer_on:
            return
        self._writer_on = on
        if on:
            self._loop.add_writer(self._socket.fileno(), self._flush)
        else:
            self._loop.remove_writer(self._socket.fileno())

    def _readable(self) -> None:
        client = self._client
        client.look_again()
        for _ in range(_READS_PER_TURN):
            if client.on_hold or not self._driven or not self._step(client.loop_read):
                return
            if not client.may_read:
                if client.messages_read > 1 and client.reads_all:
                    self._read_later()
                return
        if client.holds_more:
            self._loop.call_soon(self._readable)

    def _read_later(self) -> None:
        if self._rest is None:
            self._loop.remove_reader(self._socket.fileno())
            self._rest = self._loop.call_later(_REST_S, self._rested)

    def _rested(self) -> None:
        self._rest = None
        if self._driven and not self._client.on_hold:
            self._loop.add_reader(self._socket.fileno(), self._readable)

    def _tick(self) -> None:
        if self._driven:
            self._misc = self._loop.call_later(self._misc_every_s, self._tick)
            self._step(self._client.loop_misc)

    def _step(self, action: Callable[[], object]) -> bool:
        """Run one of paho's loop functions; True when the socket is still open afterwards."""
        try:
            action()
        except Exception as error:  # noqa: BLE001 - no bytes of a broker may raise into the event loop
            self.close()
            self._on_broken(f"paho-mqtt can't handle what the broker sent: {error!r}")
        return self._driven
