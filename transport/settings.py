"""Where the broker is, who we are there, and how it is checked: values only, no connection."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlsplit

from transport.errors import SettingsError

__all__ = ["MAX_PACKET_BYTES", "Address", "LinkSettings", "Will"]

# A payload may have 256 KiB; topic, properties and header of one packet fit in the rest.
MAX_PACKET_BYTES: Final = 256 * 1024 + 4096

_MAX_SECRET_BYTES: Final = 4096
_T = TypeVar("_T")

_DEFAULT_PORTS: Final = {"mqtt": 1883, "mqtts": 8883}


@dataclass(frozen=True, slots=True)
class Address:
    """A broker's address: `str()` gives it as a URL, without any secret."""

    host: str
    port: int
    tls: bool

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{host}:{self.port}"

    @classmethod
    def parse(cls, url: str) -> "Address":
        """Read `mqtt://host[:port]` or `mqtts://host[:port]`.

        Raises:
            SettingsError: any other scheme, no host, a port out of range, or more than host and port.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise SettingsError(f"broker address {url!r}: {error}; write mqtt://HOST:PORT") from error
        if parts.username is not None or parts.password is not None:
            raise SettingsError("broker address: user and password don't belong in the address, give them apart")
        if parts.scheme not in _DEFAULT_PORTS:
            raise SettingsError(f"broker address {url!r}: write mqtt://HOST:PORT, or mqtts://HOST:PORT for TLS")
        if not parts.hostname or port == 0:
            raise SettingsError(f"broker address {url!r}: a host, or its port, is missing; write mqtt://HOST:PORT")
        if parts.path not in {"", "/"} or parts.query or parts.fragment:
            raise SettingsError(f"broker address {url!r}: nothing may follow host and port")
        return cls(host=parts.hostname, port=port or _DEFAULT_PORTS[parts.scheme], tls=parts.scheme == "mqtts")


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSettings:
    """How to reach a broker, and as whom.

    Attributes:
        url: `mqtt://host[:port]` (1883) or `mqtts://host[:port]` (8883, TLS 1.2 or later).
        client_id: what the broker keys the session by; two connections with one id throw each other out.
        username: name the broker knows us by; with client certificates usually none.
        password: its password; or
        password_file: a file that holds it in one line, read at every attempt so that it can be changed.
        ca_file: PEM file of the authorities to trust instead of the system's; `mqtts` only.
        cert_file: PEM certificate to show to the broker; needs `key_file`.
        key_file: its private key, not encrypted.
        keepalive_s: seconds of silence after which the broker is asked for a sign of life.
        session_expiry_s: seconds for which the broker keeps subscriptions and queue while we are away.
        clean_start: forget the session the broker still has.
        connect_timeout_s: bound on one attempt: name look-up, TCP, TLS and CONNACK together.
        receive_maximum: messages the broker may send before we have acknowledged one (1 to 65535). Should it send
            more, twice as many are held here and the rest has to wait in the socket.
        send_maximum: messages of ours under way without PUBACK; the broker may ask for fewer.
        max_packet_bytes: the broker is told not to send larger packets, and drops them.
    """

    url: str
    client_id: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    password_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    keepalive_s: int = 60
    session_expiry_s: int = 0
    clean_start: bool = False
    connect_timeout_s: float = 10.0
    receive_maximum: int = 256
    send_maximum: int = 256
    max_packet_bytes: int = MAX_PACKET_BYTES

    def address(self) -> Address:
        """The parsed `url`.

        Raises:
            SettingsError: it is no broker address, or TLS files are given for an address without TLS.
        """
        address = Address.parse(self.url)
        if not address.tls and (self.ca_file or self.cert_file or self.key_file):
            raise SettingsError(f"broker {address}: certificate files need an address that starts with mqtts://")
        return address

    def secret(self) -> str | None:
        """The password, from `password` or `password_file` (without its line end).

        Raises:
            SettingsError: both are given, there is no username, or the file can't be read.
        """
        if self.password_file is None:
            secret = self.password
        elif self.password is not None:
            raise SettingsError("broker password: give either the password or a file that holds it, not both")
        else:
            secret = _read_secret(self.password_file)
        if secret is not None and self.username is None:
            raise SettingsError("broker password: a username is missing")
        return secret

    def tls_context(self) -> ssl.SSLContext:
        """TLS 1.2 or later with the broker's name and certificate checked; there is no way to turn that off.

        Raises:
            SettingsError: a file is missing or holds something else.
        """
        context = _load(lambda: ssl.create_default_context(cafile=self.ca_file), "ca_file", self.ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.cert_file is None and self.key_file is None:
            return context
        if self.cert_file is None or self.key_file is None:
            raise SettingsError("broker client certificate: cert_file and key_file go together")
        cert_file, key_file = self.cert_file, self.key_file
        # Without a password callback OpenSSL would ask on the terminal for an encrypted key's password.
        _load(
            lambda: context.load_cert_chain(cert_file, key_file, password=lambda: b""),
            "cert_file or key_file",
            f"{cert_file}, {key_file}",
        )
        return context


@dataclass(frozen=True, slots=True, kw_only=True)
class Will:
    """What the broker publishes for us when we are gone without having said so.

    Attributes:
        topic: where to.
        payload: what, at most 65535 bytes.
        qos: 0 or 1.
        retain: whether it replaces the topic's retained message.
        delay_s: seconds the broker waits for our return first; then nothing is published. It waits no longer than
            the session lasts, so `session_expiry_s` must be at least as long.
        content_type: MQTT content type of the payload.
        expiry_s: seconds after which the broker drops it undelivered; None for never.
    """

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = True
    delay_s: int = 15
    content_type: str | None = "application/json"
    expiry_s: int | None = None


def _load(action: Callable[[], _T], what: str, path: object) -> _T:
    try:
        return action()
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"can't be used: {_words(error)}"
        raise SettingsError(f"broker {what} {path}: {reason}") from error


def _words(error: Exception) -> str:
    return str(getattr(error, "reason", None) or getattr(error, "strerror", None) or error)


def _read_secret(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_SECRET_BYTES + 1)
        secret = raw.decode("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"broker password file {path}: can't be read: {_words(error)}") from error
    if not secret or "\n" in secret or len(raw) > _MAX_SECRET_BYTES:
        raise SettingsError(f"broker password file {path}: must hold the password in one line, and no more")
    return secret
