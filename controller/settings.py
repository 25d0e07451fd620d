"""What a controller is told at its start."""

import hashlib
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from controller.accounts.audit import KEEP_AUDIT_DAYS
from controller.database import sqlite_url
from controller.repository.bundle_choice import DEFAULT_RELEASES
from schemas.errors import OperatorError, one_line
from schemas.topics import DEFAULT_ROOT
from transport.settings import LinkSettings

DEFAULT_HTTP = "127.0.0.1:8420"
DEFAULT_BROKER = "mqtt://127.0.0.1:1883"
CLIENT_ID = "flotilla-controller"


KEEP_EVENTS_DAYS = 90
MAX_PUBLIC_URLS = 16
MAX_URL = 2048


def client_id(topic_root: str) -> str:
    """What the broker keys the controller's session by: controllers with different roots share a broker in peace."""
    if topic_root == DEFAULT_ROOT:
        return CLIENT_ID
    return f"{CLIENT_ID}-{hashlib.sha256(topic_root.encode()).hexdigest()[:8]}"


def public_urls(texts: Sequence[str]) -> tuple[str, ...]:
    """Base URLs without a last slash; raises `OperatorError` (`input.bad`) for what no announcement could name."""
    if len(texts) > MAX_PUBLIC_URLS:
        raise OperatorError("input.bad", f"--public-url is given {len(texts)} times, at most {MAX_PUBLIC_URLS} can be")
    for text in texts:
        try:
            parts = urlsplit(text)
            good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            good = False
        if not good or parts.query or parts.fragment or len(text) > MAX_URL or not text.isprintable() or " " in text:
            raise OperatorError(
                "input.bad", f"--public-url {one_line(text)!r} is no base URL like https://updates.example.com/repo"
            )
    return tuple(text.rstrip("/") for text in texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpAddress:
    """Where to listen."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "HttpAddress":
        """Read `HOST:PORT` or `[IPV6]:PORT`; raises `OperatorError` (`input.bad`)."""
        host, separator, port = text.rpartition(":")
        numbered = port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536
        if not separator or not numbered or not re.fullmatch(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+(%\w+)?]", host):
            raise OperatorError("input.bad", f"--http {one_line(text)!r} is not HOST:PORT, e.g. {DEFAULT_HTTP}")
        return cls(host=host.strip("[]"), port=int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def listens_everywhere(self) -> bool:
        """Whether the host is a wildcard, which nobody can connect to by that name."""
        return self.host in ("0.0.0.0", "::")  # noqa: S104  # compared with, not listened on


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerSettings:
    """All that `flotilla serve` can be told.

    Attributes:
        data: folder of the database, the repository, the keys and the API token.
        http: where to listen.
        broker: how to reach the broker; None starts an embedded one.
        embedded_port: the embedded broker's port; a free one if None.
        topic_root: see the wire contract.
        public_urls: base URLs of the repository that announcements name, tried in order.
        repository: URL of where the repository is kept besides the data folder; what it was told before if None.
        database: SQLAlchemy URL; SQLite in the data folder if None.
        bundle_releases: bundles lead to each new release from so many of those before it; 0 makes none.
        bundle_workers: processes that make a bundle at the same time; half of the cores if None.
        keep_events_days: how long the steps of updates are kept; the last word of each stays (`fleet.surplus`).
        keep_audit_days: how long the audit log is kept.
        proxies: addresses of proxies whose X-Forwarded-For and -Proto are believed, besides this machine's own.
        home_assistant: discovery prefix of the Home Assistant that is to be told; none if None.
        notify: file that says whom to tell what; `notify.toml` in the data folder, if it is there, if None.
        require_token: whether the API asks for the token on loopback too, as it must behind a proxy on this machine.
    """

    data: Path
    http: HttpAddress
    broker: LinkSettings | None
    embedded_port: int | None = None
    topic_root: str = DEFAULT_ROOT
    public_urls: tuple[str, ...] = ()
    repository: str | None = None
    database: str | None = None
    require_token: bool = False
    keep_audit_days: int = KEEP_AUDIT_DAYS
    proxies: tuple[str, ...] = ()
    bundle_releases: int = DEFAULT_RELEASES
    bundle_workers: int | None = None
    keep_events_days: int = KEEP_EVENTS_DAYS
    home_assistant: str | None = None
    notify: Path | None = None

    @property
    def database_url(self) -> str:
        """Where the database is."""
        return self.database or sqlite_url(self.data / "flotilla.db")

    @property
    def notify_file(self) -> Path | None:
        """The file that says whom to tell what; None where nobody is to be told."""
        default = self.data / "notify.toml"
        return self.notify or (default if default.exists() else None)

    @property
    def repository_urls(self) -> tuple[str, ...]:
        """What announcements name: what was given, else this machine's address or name."""
        if self.public_urls:
            return self.public_urls
        host = socket.gethostname() if self.http.listens_everywhere else self.http.host
        return (f"http://{HttpAddress(host=host, port=self.http.port)}/repo",)
