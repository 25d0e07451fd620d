"""A real Mosquitto for tests, run with the project's own configurations.

In a container through testcontainers where a Docker engine answers, as a `mosquitto` process elsewhere.
`FLOTILLA_TEST_BROKER=container` or `=process` forces one of them; where that one can't run, tests fail.
"""

import base64
import functools
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from broker_config import MosquittoProcess, acl, free_port
from tests.support.certificates import Authority, TlsFiles
from transport import LinkSettings


class Broker(Protocol):
    """What a test may do with its broker; the folder's data outlives `kill` and `restart`."""

    @property
    def port(self) -> int: ...
    @property
    def url(self) -> str: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...
    def restart(self) -> None: ...
    def log_text(self) -> str: ...
    def remove(self) -> None: ...


class ProcessBroker(MosquittoProcess):
    """A `mosquitto` process."""

    def log_text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def remove(self) -> None:
        self.stop()


@dataclass(frozen=True)
class ProductionBroker:
    """A broker with production.conf: TLS, passwords, client certificates and the ACL."""

    broker: Broker
    files: TlsFiles
    certificate_port: int
    passwords: dict[str, str] = field(repr=False)

    @property
    def url(self) -> str:
        return self.broker.url

    @property
    def ca_file(self) -> Path:
        return self.files.authority.ca_file

    def settings(self, username: str, **changes: Any) -> LinkSettings:
        """How `username` connects with its password."""
        values: dict[str, Any] = {
            "url": self.url,
            "client_id": username,
            "username": username,
            "password": self.passwords[username],
            "ca_file": self.ca_file,
        }
        return LinkSettings(**(values | changes))

    def certificate_settings(self, device: str, **changes: Any) -> LinkSettings:
        """How `device` connects with a client certificate made just now."""
        pair = self.files.authority.client(device)
        values: dict[str, Any] = {
            "url": f"mqtts://127.0.0.1:{self.certificate_port}",
            "client_id": device,
            "ca_file": self.ca_file,
            "cert_file": pair.cert_file,
            "key_file": pair.key_file,
        }
        return LinkSettings(**(values | changes))


def new_broker(folder: Path) -> Broker:
    """A broker with development.conf, not started yet."""
    if broker_kind() == "container":
        from tests.support.container import ContainerBroker  # noqa: PLC0415 - loads slowly

        return ContainerBroker(folder)
    return ProcessBroker(folder)


def new_production_broker(folder: Path, *, users: Sequence[str] = ("controller", "watcher")) -> ProductionBroker:
    """A broker with production.conf for these users, each with a password, not started yet."""
    secrets = folder / "files"
    passwords = {user: f"secret of {user}" for user in users}
    authority = Authority(secrets)
    files = TlsFiles(secrets, authority, authority.server(), secrets / "acl", secrets / "passwords")
    files.acl_file.write_text(acl(), encoding="utf-8")
    files.password_file.write_text("".join(_password_line(*item) for item in passwords.items()), encoding="utf-8")
    if broker_kind() == "container":
        from tests.support.container import ContainerBroker  # noqa: PLC0415 - loads slowly

        in_container = ContainerBroker(folder, name="production.conf", tls=files, certificates=True)
        assert in_container.certificate_port is not None
        return ProductionBroker(in_container, files, in_container.certificate_port, passwords)
    certificate_port = free_port()
    process = ProcessBroker(
        folder,
        name="production.conf",
        probe_tls=files.probe(),
        certificate_port=certificate_port,
        **files.options(),
    )
    return ProductionBroker(process, files, certificate_port, passwords)


@functools.cache
def broker_kind() -> str:
    """`container` or `process`.

    Raises:
        RuntimeError: FLOTILLA_TEST_BROKER asks for something that is not there.
    """
    forced = os.environ.get("FLOTILLA_TEST_BROKER", "")
    if forced == "process":
        return forced
    if forced not in {"", "container"}:
        raise RuntimeError(f"FLOTILLA_TEST_BROKER={forced!r}: container or process")
    from tests.support.container import engine_trouble  # noqa: PLC0415 - loads slowly

    trouble = engine_trouble()
    if trouble is None:
        return "container"
    if forced:
        raise RuntimeError(f"FLOTILLA_TEST_BROKER=container, but: {trouble}") from trouble
    return "process"


def _password_line(user: str, password: str) -> str:
    """What `mosquitto_passwd` writes: PBKDF2 with SHA-512, 101 rounds."""
    salt = os.urandom(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, 101)
    return f"{user}:$7$101${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}\n"
