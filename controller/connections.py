"""How long a connection may say nothing, and how many one address has: nobody keeps all of the few that there are."""

import asyncio
import fcntl
import logging
import struct
import sys
import termios
from collections.abc import Callable
from typing import Any, Final

from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import get_remote_addr

from controller.crowding import Crowd, Network

HEAD_S: Final = 10.0
"""In which the whole head of a request has to be there: from when the connection was opened, or from its first byte."""
STILL_S: Final = 60.0
"""An answer of which the client's machine takes nothing for so long is ended, a live view too."""
_LOOKS: Final = 6
"""Of an answer in `STILL_S`."""

# it warns of each request that is none, so that whoever likes could fill the log
logging.getLogger("uvicorn.error").setLevel(logging.ERROR)


class Connection(HttpToolsProtocol):
    """A connection of the server, which itself has limits only for what comes between two requests.

    How long a body may take is for whoever reads it, and how long an answer takes is for whoever makes it.

    Args:
        config: the server's, and so are the others.
        crowd: knows how many connections an address may have; None for any number.
    """

    _site: Network | None = None
    _turned_away = False
    _between = True
    """Whether what comes next begins a request."""
    _head_timer: asyncio.TimerHandle | None = None
    _look_timer: asyncio.TimerHandle | None = None
    _written = 0
    _taken = 0
    _looks = 0

    def __init__(self, config: Config, *others: Any, crowd: Crowd | None = None, **more: Any) -> None:
        super().__init__(config, *others, **more)
        self._crowd = crowd

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in the base
        """A client has come."""
        if self._crowd is not None:
            client = get_remote_addr(transport)
            self._site = self._crowd.site_of(client[0] if client else None)
            if not self._crowd.enter(self._site, self.loop.time()):
                self._turned_away = True
                transport.abort()
                return
        super().connection_made(_Counted(transport, self._wrote))  # type: ignore[arg-type]  # as good as one
        self._expect_head()
        self._look_later()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has gone."""
        if self._turned_away:
            return
        if self._crowd is not None:
            self._crowd.leave(self._site)
        for timer in (self._head_timer, self._look_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Something came."""
        if self._between:
            # empty lines too, which are no beginning to the parser
            self._expect_head()
        super().data_received(data)
        if not self._answers() and self._head_timer is None and self.timeout_keep_alive_task is None:
            # what was left of a body after its answer has ended the wait for the next request
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_message_begin(self) -> None:
        """A head's first byte, in one piece with the request before it too."""
        self._expect_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._between = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The body is there too."""
        self._between = True
        super().on_message_complete()

    def _answers(self) -> bool:
        """Whether an answer is under way."""
        cycle: Any = self.cycle  # None before the first request, whatever its type says
        return cycle is not None and not cycle.response_complete

    def _expect_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_S, self._no_head)

    def _no_head(self) -> None:
        self._head_timer = None
        if self._answers():
            # of the next request; the answer to this one is not to suffer from it
            self._expect_head()
        else:
            self.transport.abort()

    def _wrote(self, number: int) -> None:
        self._written += number

    def _look_later(self) -> None:
        self._look_timer = self.loop.call_later(STILL_S / _LOOKS, self._look)

    def _look(self) -> None:
        left = self.transport.get_write_buffer_size() + _on_the_way(self.transport)
        # not by what is left, which grows where a live view goes on sending that it is still there
        taken = self._written - left
        self._looks = self._looks + 1 if left and taken == self._taken else 0
        self._taken = taken
        if self._looks >= _LOOKS:
            # what makes the answer hears that the client has gone
            self.transport.abort()
        else:
            self._look_later()


class _Counted:
    """A transport that tells how many bytes are written to it."""

    def __init__(self, transport: asyncio.Transport, wrote: Callable[[int], None]) -> None:
        self._transport = transport
        self._wrote = wrote

    def write(self, data: bytes) -> None:
        """As the transport's."""
        self._wrote(len(data))
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        """All else is the transport's."""
        return getattr(self._transport, name)


def _on_the_way(transport: Any) -> int:
    """Bytes that the system has still to send, or the other side to confirm; 0 where the system does not say."""
    connection = transport.get_extra_info("socket")
    if sys.platform != "linux" or connection is None:
        return 0
    try:
        found: int = struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, b"\0" * 4))[0]
    except OSError:
        return 0
    return found
