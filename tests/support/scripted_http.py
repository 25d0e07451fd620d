"""An HTTP server without any manners: each connection plays a script on a bare socket."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


class HungUpError(Exception):
    """The client has closed the connection, or the test is over."""


@dataclass
class Exchange:
    """One connection, as a script sees it. `send` what you like, `hear` a request, `rest` until the end."""

    server: "ScriptedServer"
    line: socket.socket
    number: int

    def hear(self) -> str:
        """The next request's head, noted in `server.heard`. Raises `HungUpError`."""
        head = b""
        while b"\r\n\r\n" not in head:
            try:
                more = self.line.recv(65536)
            except OSError:
                more = b""
            if not more:
                raise HungUpError
            head += more
        text = head.decode("latin-1")
        with self.server.turn:
            self.server.heard.append((self.number, text))
        return text

    def send(self, data: bytes) -> None:
        """Raw bytes. Raises `HungUpError` when nobody takes them."""
        if self.server.over.is_set():
            raise HungUpError
        try:
            self.line.sendall(data)
        except OSError as error:
            raise HungUpError from error

    def answer(self, body: bytes = b"", *, status: str = "200 OK", length: int | None = None, **headers: str) -> None:
        """A whole answer. `length` is what it claims; names of headers have `_` for `-`."""
        self.head(status, Content_Length=str(len(body) if length is None else length), **headers)
        self.send(body)

    def head(self, status: str = "200 OK", **headers: str) -> None:
        """A status line and headers."""
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.send("\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode("latin-1"))

    def drip(self, data: bytes, every_s: float) -> None:
        """One byte after the other."""
        for byte in data:
            self.send(bytes([byte]))
            self.rest(every_s)

    def rest(self, seconds: float = 60.0) -> None:
        """Do nothing, at most until the test is over."""
        if self.server.over.wait(seconds):
            raise HungUpError


Script = Callable[[Exchange], None]


@dataclass
class ScriptedServer:
    """See the module.

    Attributes:
        scripts: for the first, second, … connection; the last is played for all further ones.
        heard: (number of the connection, head of the request) in order.
        over: set at the end of the test.
        connections: how many there were.
    """

    scripts: list[Script]
    url: str = ""
    heard: list[tuple[int, str]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    turn: threading.Lock = field(default_factory=threading.Lock)
    connections: int = 0
    tls: ssl.SSLContext | None = None

    @property
    def requests(self) -> list[str]:
        """First lines of the requests."""
        return [head.partition("\r\n")[0] for _, head in self.heard]

    @property
    def ranges(self) -> list[str]:
        """The `Range` of each request, empty where it has none."""
        return [header(head, "Range") for _, head in self.heard]

    def play(self, line: socket.socket) -> None:
        """Serve one connection."""
        with self.turn:
            number = self.connections
            self.connections += 1
        script = self.scripts[min(number, len(self.scripts) - 1)]
        with contextlib.suppress(HungUpError, OSError), contextlib.ExitStack() as stack:
            stack.enter_context(line)
            line.settimeout(30)
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls is not None:
                line = stack.enter_context(self.tls.wrap_socket(line, server_side=True))
            script(Exchange(self, line, number))


@contextmanager
def scripted_server(
    *scripts: Script, cert: tuple[Path, Path] | None = None, host: str = "127.0.0.1"
) -> Iterator[ScriptedServer]:
    """A server on a free port of this machine.

    Args:
        cert: certificate and key, to speak TLS.
        host: what its URL calls it.
    """
    server = ScriptedServer(list(scripts))
    if cert is not None:
        server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.tls.load_cert_chain(*cert)
    players: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0), backlog=50) as listener:
        server.url = f"{'https' if cert else 'http'}://{host}:{listener.getsockname()[1]}"

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    line, _ = listener.accept()
                    player = threading.Thread(target=server.play, args=(line,), daemon=True)
                    players.append(player)
                    player.start()

        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        try:
            yield server
        finally:
            server.over.set()
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join(10)


def header(head: str, name: str) -> str:
    """A header of a request."""
    for line in head.split("\r\n")[1:]:
        key, _, value = line.partition(":")
        if key.strip().lower() == name.lower():
            return value.strip()
    return ""


def always(reply: Callable[[Exchange, str], None]) -> Script:
    """Answer every request of a connection with `reply(exchange, head)`."""

    def script(exchange: Exchange) -> None:
        while True:
            reply(exchange, exchange.hear())

    return script


def serving(files: dict[str, bytes], *, ranges: bool = True) -> Script:
    """A well-behaved server of files by path."""

    def reply(exchange: Exchange, head: str) -> None:
        content = files.get(head.split(" ")[1])
        asked = header(head, "Range")
        if content is None:
            exchange.answer(b"not here", status="404 Not Found")
        elif asked and ranges:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                exchange.answer(status="416 Range Not Satisfiable")
            else:
                part = f"bytes {start}-{len(content) - 1}/{len(content)}"
                exchange.answer(content[start:], status="206 Partial Content", Content_Range=part)
        else:
            exchange.answer(content)

    return always(reply)


def one_of(scripts: Sequence[Script]) -> Script:
    """As connections come, the scripts in turn, and the first again after the last."""

    def script(exchange: Exchange) -> None:
        scripts[exchange.number % len(scripts)](exchange)

    return script
