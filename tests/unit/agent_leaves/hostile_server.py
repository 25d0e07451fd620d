"""A web server for files that can be told to misbehave, path by path and request by request."""

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class HostileServer(ThreadingHTTPServer):
    """Serves `files` (path to bytes) with single byte ranges; `tricks` go first.

    Attributes:
        files: what it has.
        tricks: for a path, what to do at the first, second, … request; the last is done ever after. None is
            to behave well.
        asked: path and `Range` of every request.
        released: set at the end, so that nothing stalls for ever.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.tricks: dict[str, list[Callable[[Handler], None] | None]] = {}
        self.asked: list[tuple[str, str]] = []
        self.released = threading.Event()
        self.turn = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients hang up on it all the time."""


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: HostileServer

    def do_GET(self) -> None:  # the base class calls it so
        with self.server.turn:
            self.server.asked.append((self.path, self.headers.get("Range", "")))
            tricks = self.server.tricks.get(self.path)
            trick = (tricks.pop(0) if len(tricks) > 1 else tricks[0]) if tricks else None
        if trick is not None:
            with suppress(OSError):
                trick(self)
        else:
            self.serve()

    def serve(self) -> None:
        """Behave."""
        content = self.server.files.get(self.path)
        if content is None:
            self.answer(404)
            return
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        if start >= len(content) > 0:
            self.answer(416, headers={"Content-Range": f"bytes */{len(content)}"})
        elif asked:
            self.answer(206, content[start:], {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"})
        else:
            self.answer(200, content)

    def answer(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        """A whole answer."""
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


Trick = Callable[[Handler], None]


def status(code: int, **headers: str) -> Trick:
    """Answers with a status and nothing else."""
    return lambda handler: handler.answer(code, headers=headers)


def endless(code: int) -> Trick:
    """An answer that never ends."""

    def trick(handler: Handler) -> None:
        handler.send_response(code)
        handler.end_headers()
        handler.close_connection = True
        while not handler.server.released.is_set():
            handler.wfile.write(b"x" * 65536)

    return trick


def announcing(length: int) -> Trick:
    """A whole answer's head, with a length of its own."""

    def trick(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(length))
        handler.end_headers()
        handler.close_connection = True

    return trick


def cut_after(count: int, content: bytes) -> Trick:
    """Announces the whole and hangs up after so many bytes, counted from where the client goes on."""

    def trick(handler: Handler) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        handler.send_response(206 if asked else 200)
        if asked:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        handler.wfile.write(content[start : start + count])
        handler.close_connection = True

    return trick


def stall_after(count: int, content: bytes) -> Trick:
    """Sends so many bytes and then nothing, without hanging up. A negative count: not even a status."""

    def trick(handler: Handler) -> None:
        handler.close_connection = True
        if count >= 0:
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(content)))
            handler.end_headers()
            handler.wfile.write(content[:count])
            handler.wfile.flush()
        handler.server.released.wait(60)

    return trick


def instead(content: bytes, **headers: str) -> Trick:
    """Other content, whatever range is asked for."""
    return lambda handler: handler.answer(200, content, headers)


@contextmanager
def hostile_server() -> Iterator[HostileServer]:
    """A running server."""
    with HostileServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
            thread.join(10)
