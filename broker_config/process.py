"""A Mosquitto of our own: started on a free port, watched until it answers, stopped or killed.

Everything here blocks for up to some seconds; an asyncio program calls it through `asyncio.to_thread`.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from broker_config.errors import BrokerFailed, BrokerMissing
from broker_config.render import render
from broker_config.uninterrupted import uninterrupted

__all__ = ["MosquittoProcess", "answers", "find_mosquitto", "free_port"]

# Where packages put it although it isn't on an ordinary user's PATH.
_FOLDERS: Final = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin", "/usr/local/opt/mosquitto/sbin")
_START_S: Final = 10.0
_STOP_S: Final = 5.0
_ATTEMPTS: Final = 5
_FIRST_PORT: Final = 20_000
_PORTS: Final = 12_000
_LOG_TAIL_BYTES: Final = 2000

# CONNECT, MQTT 5, clean start, keep-alive 10 s, no properties, client id "probe" (MQTT 5, 3.1).
_CONNECT: Final = bytes.fromhex("1012 0004 4d515454 05 02 000a 00 0005 70726f6265".replace(" ", ""))
_DISCONNECT: Final = bytes.fromhex("e000")
_CONNACK: Final = b"\x20"


class MosquittoProcess:
    """One broker process with its own folder; a context manager that starts and stops it.

    It runs in a process group of its own, so that Ctrl-C in a terminal reaches only the program that
    started it, which then stops the broker last.

    Args:
        folder: made if needed; holds `mosquitto.conf`, `mosquitto.log` and `data/`, which outlives a restart.
        name: `development.conf` or `production.conf`.
        host: address to listen on.
        port: port to listen on; a free one unless given. A restart keeps it.
        probe_tls: how to talk to it until it answers, when its listener speaks TLS.
        options: further arguments of `render`.

    Raises:
        BrokerMissing: there is no Mosquitto on this machine.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str = "development.conf",
        host: str = "127.0.0.1",
        port: int | None = None,
        probe_tls: ssl.SSLContext | None = None,
        **options: Any,  # render's, checked there
    ) -> None:
        self._binary = find_mosquitto()
        self._folder = folder
        self._name = name
        self._host = host
        self._wanted_port = port
        self._port = port
        self._probe_tls = probe_tls
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        """Where it listens; known from the first `start` on unless it was given."""
        if self._port is None:
            raise BrokerFailed("the broker was not started yet")
        return self._port

    @property
    def url(self) -> str:
        """Its address, as agents and the controller take it."""
        return f"{'mqtt' if self._probe_tls is None else 'mqtts'}://{self._host}:{self.port}"

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def ended_with(self) -> int | None:
        """What the process ended with that nobody stopped here, below 0 for a signal; None while it runs."""
        return self._process.poll() if self._process is not None else None

    @property
    def _pid_file(self) -> Path:
        return self._folder / "mosquitto.pid"

    @property
    def log(self) -> Path:
        """What it has printed, over all restarts."""
        return self._folder / "mosquitto.log"

    def start(self) -> None:
        """Start it and wait until it answers MQTT 5; nothing happens if it runs already.

        Raises:
            BrokerFailed: it ended or did not answer within 10 s.
            BrokerSettings: the options don't make a configuration.
        """
        if self.pid is not None:
            return
        for attempt in range(1, _ATTEMPTS + 1):
            port = self._port if self._port is not None else free_port(self._host)
            try:
                self._launch(port)
            except BrokerFailed as error:
                # Somebody else may have taken the free port in between.
                if self._port is not None or attempt == _ATTEMPTS or "in use" not in str(error):
                    raise
            else:
                self._port = port
                return

    def stop(self) -> None:
        """End it in good order (it saves everything); kill it when that takes over 5 s."""
        process = self._process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """SIGKILL: what it had not saved is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(_STOP_S)
            self._process = None

    def restart(self) -> None:
        """Stop it if it runs, then start it on the same port with what it had saved."""
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _launch(self, port: int) -> None:
        config = self._folder / "mosquitto.conf"
        _end_leftover(self._pid_file, config)
        _must_be_free(self._host, port)
        data_dir = self._folder / "data"
        data_dir.mkdir(parents=True, exist_ok=True)
        # Started by root it would become `mosquitto`, which can't write to our folder.
        options = {"user": "root" if os.geteuid() == 0 else None, "data_dir": data_dir, **self._options}
        config.write_text(render(self._name, port=port, host=self._host, **options), encoding="utf-8")
        try:
            with self.log.open("ab") as log, uninterrupted():
                said_before = log.tell()
                self._process = process = subprocess.Popen(
                    [self._binary, "-c", str(config)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    process_group=0,
                )
            self._pid_file.write_text(f"{process.pid}\n", encoding="ascii")
            self._wait_until_it_answers(process, port, said_before)
        except BaseException:
            self.kill()
            raise

    def _wait_until_it_answers(self, process: subprocess.Popen[bytes], port: int, said_before: int) -> None:
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise BrokerFailed(f"mosquitto ended with {process.returncode}: {self._last_words(said_before)}")
            if answers(self._host, port, tls=self._probe_tls, timeout_s=1.0) and process.poll() is None:
                return
            time.sleep(0.02)
        words = self._last_words(said_before)
        raise BrokerFailed(f"mosquitto did not answer on port {port} within {_START_S:g} s: {words}")

    def _last_words(self, said_before: int) -> str:
        with self.log.open("rb") as log:
            log.seek(max(said_before, self.log.stat().st_size - _LOG_TAIL_BYTES))
            lines = log.read().decode("utf-8", "replace").split("\n")
        errors = [line for line in lines if "Error" in line]
        return "; ".join(errors or [line for line in lines if line][-3:]) or "it said nothing"


def find_mosquitto() -> str:
    """Path of the `mosquitto` program, on PATH or where packages put it.

    Raises:
        BrokerMissing: it is not installed; the message says what to install.
    """
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path=os.pathsep.join(_FOLDERS))
    if found is None:
        raise BrokerMissing(
            "mosquitto is not installed: `sudo apt install mosquitto` (Debian, Raspberry Pi OS) "
            "or `brew install mosquitto` (macOS)"
        )
    return found


def _end_leftover(pid_file: Path, config: Path) -> None:
    """End the broker of a program that was killed: nobody else would, and it holds port and persistence.

    Only a process that runs with this very configuration file is meant, whatever the number has become since.
    """
    with contextlib.suppress(OSError, ValueError):
        pid = int(pid_file.read_text(encoding="ascii"))
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if os.fsencode(config) not in command:
            return
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_S
        while time.monotonic() < deadline:
            os.kill(pid, 0)
            time.sleep(0.02)
        os.kill(pid, signal.SIGKILL)


def _must_be_free(host: str, port: int) -> None:
    # Otherwise the answer of whoever listens there would be taken for that of our own broker.
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        raise BrokerFailed(f"broker address {host}:{port}: {os.strerror(error.errno or 0)}") from error


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port nobody listens on right now, and that no outgoing connection will be given.

    Systems take the near end of outgoing connections from 32768 (Linux) or 49152 (macOS) upwards. A port from
    there could be gone when the broker is started, or restarted after a kill.

    Raises:
        BrokerFailed: none was found.
    """
    for _ in range(100):
        port = _FIRST_PORT + secrets.randbelow(_PORTS)
        with contextlib.suppress(OSError), socket.create_server((host, port)):
            return port
    raise BrokerFailed(f"no free port found on {host}")


def answers(host: str, port: int, *, tls: ssl.SSLContext | None = None, timeout_s: float = 1.0) -> bool:
    """Whether a broker answers a CONNECT there, be it with a refusal."""
    try:
        with contextlib.ExitStack() as stack:
            connection = stack.enter_context(socket.create_connection((host, port), timeout=timeout_s))
            if tls is not None:
                connection = stack.enter_context(tls.wrap_socket(connection, server_hostname=host))
            connection.sendall(_CONNECT)
            answered = connection.recv(1) == _CONNACK
            connection.sendall(_DISCONNECT)
    except OSError:
        return False
    return answered
