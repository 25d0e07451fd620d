"""A real `flotilla serve` for tests: started, stopped, killed, started again, and asked over HTTP.

with controller_process(tmp_path / "data", broker.url, topic_root=topic_root) as controller:
    controller.client.get(Page[Device], "devices")
    controller.call("GET", "/healthz").status
"""

import http.client
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO

from broker_config import free_port
from controller.client import ControllerClient
from controller.demo.processes import program
from schemas.topics import DEFAULT_ROOT

START_S = 30.0
STOP_S = 30.0
JSON_TYPE = {"Content-Type": "application/json"}
PACKAGE_TYPE = {"Content-Type": "application/octet-stream"}
Body = bytes | BinaryIO | Iterable[bytes] | None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came over HTTP; header names in small letters."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def problem(self, status: int, code: str) -> str:
        """The detail, after everything that is true of every problem has been checked."""
        assert (self.status, self.headers["content-type"].partition(";")[0]) == (status, "application/problem+json"), (
            self.status,
            self.headers,
            self.body[:500],
        )
        found = self.json()
        assert set(found) == {"type", "title", "status", "detail", "code"}
        assert (found["status"], found["code"], found["type"]) == (status, code, "about:blank")
        assert found["title"] == HTTPStatus(status).phrase
        detail: str = found["detail"]
        assert detail, found
        assert "\n" not in detail, found
        assert "Traceback" not in detail, found
        return detail


class ControllerProcess:
    """One controller with its data folder; the folder outlives `stop`, `kill` and `start`.

    Args:
        data: its data folder; the log lies beside it.
        broker_url: the broker; None to say so in `arguments`.
        listen: the host to listen on. Whatever it is, tests call 127.0.0.1.
        arguments: further arguments of `flotilla serve`.
    """

    def __init__(
        self,
        data: Path,
        broker_url: str | None,
        *,
        listen: str = "127.0.0.1",
        topic_root: str = DEFAULT_ROOT,
        arguments: Sequence[str] = (),
    ) -> None:
        self.data = data
        self.port = free_port()
        self.log = data.with_name(f"{data.name}.log")
        self.url = f"http://127.0.0.1:{self.port}"
        self.topic_root = topic_root
        self._process: subprocess.Popen[bytes] | None = None
        broker = ["--broker", broker_url] if broker_url else []
        address = f"{listen}:{self.port}"
        self._command = [program("flotilla"), "serve", "--data", str(data), "--http", address]
        # who wants bundles asks for them: making them takes time from all other tests
        self._command += [*broker, "--topic-root", topic_root, "--bundles", "0", *arguments]

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def token(self) -> str | None:
        """The API token, once there is one."""
        path = self.data / "api-token"
        return path.read_text().strip() if path.exists() else None

    @property
    def client(self) -> ControllerClient:
        """A client that has the token, where there is one."""
        return ControllerClient(self.url, self.token)

    def launch(self) -> None:
        """Start it and don't wait."""
        assert self._process is None, "it runs already"
        self.data.parent.mkdir(parents=True, exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FLOTILLA_")}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment
            )

    def start(self, *, connected: bool = True) -> None:
        """Start it and wait until it answers, and with `connected` until it has its broker."""
        self.launch()
        self.until(lambda: self.health() in ({200} if connected else {200, 503}), START_S)

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self._process is not None
        self._process.terminate()
        return self.ended()

    def ended(self, bound_s: float = STOP_S) -> int:
        """Wait for the end; the exit status."""
        assert self._process is not None
        try:
            status = self._process.wait(bound_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end within {bound_s} s:\n{self.log_text()}") from None
        self._process = None
        return status

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(STOP_S)
        self._process = None

    def restart(self) -> None:
        """SIGTERM, and start again at the same address."""
        self.stop()
        self.start()

    def remove(self) -> None:
        """End it in whatever state it is; killed where SIGTERM is not enough."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.kill()
        self._process = None
        # what a callback raises ends nothing, and nobody would see it
        assert "Exception in callback" not in self.log_text(), self.log_text()

    def until(self, condition: Callable[[], Any], bound_s: float = STOP_S) -> None:
        """Wait until a condition holds; fails with the log when it does not in time, or when the process ends."""
        give_up = time.monotonic() + bound_s
        while not condition():
            assert self._process is not None
            assert self._process.poll() is None, f"the controller ended:\n{self.log_text()}"
            assert time.monotonic() < give_up, f"not within {bound_s} s; the log:\n{self.log_text()}"
            time.sleep(0.02)

    def health(self) -> int:
        """200 while it is connected to its broker, 503 while it is not, 0 while nobody answers."""
        try:
            return 200 if self.call("GET", "/readyz").json()["checks"]["broker"]["ok"] else 503
        except OSError:
            return 0

    def log_text(self) -> str:
        """All that it printed, over all starts."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def call(
        self, method: str, path: str, body: Body = None, headers: Mapping[str, str] | None = None, *, wait_s: float = 30
    ) -> Answer:
        """One request for exactly this path, without a token; `json` values go through `call_json`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=wait_s)
        try:
            connection.request(method, path, body=body, headers=dict(headers or {}))
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(status=answer.status, headers=found, body=answer.read())
        finally:
            connection.close()

    def send(self, method: str, path: str, value: Any) -> Answer:
        """One request below /api/v1 with a JSON body."""
        return self.call(method, f"/api/v1{path}", json.dumps(value).encode(), JSON_TYPE)

    def get(self, path: str) -> Answer:
        """GET below /api/v1."""
        return self.call("GET", f"/api/v1{path}")

    def push(self, package: Path) -> Answer:
        """Upload a package file."""
        with package.open("rb") as file:
            length = str(package.stat().st_size)
            return self.call("POST", "/api/v1/packages", file, {**PACKAGE_TYPE, "Content-Length": length}, wait_s=110)


@contextmanager
def controller_process(
    data: Path,
    broker_url: str | None,
    *,
    listen: str = "127.0.0.1",
    topic_root: str = DEFAULT_ROOT,
    arguments: Sequence[str] = (),
    started: bool = True,
    connected: bool = True,
) -> Iterator[ControllerProcess]:
    """A controller that is gone at the end of the block; what it logged is printed where the block fails.

    Args:
        started: start it, and wait until it answers, before the block.
        connected: wait for its broker too.
    """
    controller = ControllerProcess(data, broker_url, listen=listen, topic_root=topic_root, arguments=arguments)
    try:
        if started:
            controller.start(connected=connected)
        yield controller
    except BaseException:
        print(f"--- log of the controller in {data}:\n{controller.log_text()}")
        raise
    finally:
        controller.remove()
