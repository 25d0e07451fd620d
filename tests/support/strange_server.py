"""A server that is no controller."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def strange_server(answer: bytes) -> Iterator[str]:
    """A server that gives the same answer to everything, whatever it is."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            try:
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(65536)
                        connection.sendall(answer)
            except OSError:
                return  # closed: the test is over

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)
