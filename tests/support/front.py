"""A web server in front of another, as a proxy before a repository: passes all on, or holds back what a test names.

with front(world.url) as server:
    world.start_controller(public_url=f"{server.url}/repo")
    with server.holding("/objects/") as hold:
        ...
        world.wait(hold.reached.is_set, "the device to ask for contents")
"""

import contextlib
import http.client
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

BOUND_S = 60.0


class Hold:
    """Requests whose path holds `part` wait here. `reached` is set by the first."""

    def __init__(self, part: str) -> None:
        self.part = part
        self.reached = threading.Event()
        self.over = threading.Event()


class Front:
    """See the module. `asked` are the paths of all requests so far."""

    def __init__(self, target: str) -> None:
        self.asked: list[str] = []
        self.url = ""
        self._target = urlsplit(target).netloc
        self._holds: list[Hold] = []

    @contextlib.contextmanager
    def holding(self, part: str) -> Iterator[Hold]:
        """Hold back what has `part` in its path, until the block is left."""
        hold = Hold(part)
        self._holds.append(hold)
        try:
            yield hold
        finally:
            self._holds.remove(hold)
            hold.over.set()

    def pass_on(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer one request with what the target answers."""
        self.asked.append(handler.path)
        for hold in [hold for hold in self._holds if hold.part in handler.path]:
            hold.reached.set()
            hold.over.wait(BOUND_S)
        headers = {name: handler.headers[name] for name in ("Range", "If-Range") if name in handler.headers}
        target = http.client.HTTPConnection(self._target, timeout=BOUND_S)
        try:
            target.request("GET", handler.path, headers=headers)
            answer = target.getresponse()
            handler.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() in ("content-type", "content-length", "content-range", "etag", "accept-ranges"):
                    handler.send_header(name, value)
            handler.end_headers()
            while piece := answer.read(1 << 16):
                handler.wfile.write(piece)
        finally:
            target.close()


@contextlib.contextmanager
def front(target: str) -> Iterator[Front]:
    """A front on a free loopback port, for the server at `target`."""
    made = Front(target)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            # whoever asked may have been killed, and whom is asked too
            with contextlib.suppress(OSError, http.client.HTTPException):
                made.pass_on(self)

        def log_message(self, *_args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        made.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join(BOUND_S)
