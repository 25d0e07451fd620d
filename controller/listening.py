"""Where the controller listens, and that only one does with the same data."""

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import uvicorn

from controller.connections import Connection
from controller.crowding import LOOPBACK, Crowd, most_of_one
from controller.settings import HttpAddress
from schemas.errors import OperatorError, one_line

log = logging.getLogger("flotilla.http")

TELL_EVERY_S: Final = 60.0
"""That nobody can connect."""
_NO_ACCEPT: Final = "socket.accept() out of system resource"
GRACE_S: Final = 5
"""Seconds that answers under way get to end when the controller stops."""


class Server(uvicorn.Server):
    """One part of a process that others share."""

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve, and say in one line where no more can come in."""
        asyncio.get_running_loop().set_exception_handler(_Refused())
        await super().serve(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone: they stop all parts, not only this one."""
        yield


class _Refused:
    """The event loop's handler of what nobody else handles.

    Where the process may open no more files, the loop tells so for each place in the queue of those who come, every
    second: some megabytes of log.
    """

    def __init__(self) -> None:
        self._again_at = 0.0

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Told of something."""
        if context.get("message") != _NO_ACCEPT:
            loop.default_exception_handler(context)
        elif loop.time() >= self._again_at:
            self._again_at = loop.time() + TELL_EVERY_S
            log.error("nobody can connect for now: %s; see LimitNOFILE= of its service", one_line(context["exception"]))


def server_config(api: object, proxies: Sequence[str], crowd: Crowd | None = None) -> uvicorn.Config:
    """How the application is served.

    Args:
        api: the application.
        proxies: are believed what they say of their clients.
        crowd: bounds the connections of one address; by default those of all but this machine and proxies.
    """
    crowd = crowd or Crowd(most_of_one(), (*LOOPBACK, *proxies))
    return uvicorn.Config(
        api,  # type: ignore[arg-type]  # an ASGI application, typed by another library
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=True,
        forwarded_allow_ips=["127.0.0.1", "::1", *proxies],
        timeout_graceful_shutdown=GRACE_S,
        http=partial(Connection, crowd=crowd),  # type: ignore[arg-type]  # makes one
        # there is none here, and a connection that became one, as some library is installed, is counted for ever
        ws="none",
        lifespan="on",
    )


@contextlib.contextmanager
def listening(address: HttpAddress) -> Iterator[list[socket.socket]]:
    """Listen at every address that a host stands for; raises `OperatorError` (`input.bad`) where that cannot be."""
    with contextlib.ExitStack() as stack:
        try:
            found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            ends = {(family, where) for family, _type, _protocol, _name, where in found}
            listeners = [stack.enter_context(one) for one in map(_listener, ends) if one is not None]
        except OSError as error:
            reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
            raise OperatorError("input.bad", f"cannot listen on --http {address}: {reason}") from error
        if not listeners:
            raise OperatorError("input.bad", f"cannot listen on --http {address}: this machine has no such address")
        yield listeners


def _listener(end: tuple[int, Any]) -> socket.socket | None:
    """A listening socket; None for an address that this machine does not have, as ::1 where there is no IPv6."""
    family, where = end
    try:
        return socket.create_server(where, family=family, backlog=1024)
    except OSError as error:
        if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            return None
        raise


@contextlib.contextmanager
def only_one(data: Path) -> Iterator[None]:
    """Hold the data folder, which is made for its owner alone where it is not there.

    Raises:
        OperatorError: `data.bad` where it cannot be used or another controller does.
    """
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(data / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise OperatorError(
            "data.bad", f"--data {data}: {error.strerror}; name a folder that can be written"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OperatorError(
                "data.bad", f"--data {data} is in use by another controller; stop that one first"
            ) from error
        yield
    finally:
        os.close(descriptor)
