"""moto's server as a program that answers one request after the other: `python -m tests.support.s3_process PORT`.

S3 decides conditional puts one at a time. moto looks at what is there and then writes, so of two that it answers at
once both can win.
"""

import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple


class OneByOne:
    """A WSGI application in which no two requests meet."""

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self._app = app
        self._turn = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer, wholly read, while it is this request's turn."""
        with self._turn:
            return list(self._app(environ, start_response))


if __name__ == "__main__":
    moto = DomainDispatcherApplication(create_backend_app)  # type: ignore[no-untyped-call]
    # in threads still: a client that keeps its connection must not keep out the others
    run_simple("127.0.0.1", int(sys.argv[1]), OneByOne(moto), threaded=True, request_handler=MotoRequestHandler)
