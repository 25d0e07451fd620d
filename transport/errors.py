# ruff: noqa: N818 - the names say what happened: "LinkLost" needs no "Error" behind it
"""What can go wrong on the link, grouped by who can do something about it.

Every error is one line that says what is wrong, where and what to do, and has a stable `code` which
events and log lines carry. Errors of paho-mqtt, of sockets and of TLS are translated into these at the
link, with the cause chained; nothing else leaves `transport`.
"""

from typing import ClassVar

__all__ = [
    "BrokerUnreachable",
    "BrokerUntrusted",
    "ConnectError",
    "ConnectRefused",
    "LinkLost",
    "LinkTimeout",
    "PublishRefused",
    "RequestRefused",
    "SettingsError",
    "SubscribeRefused",
    "TakenOver",
    "TransportError",
    "WrongProtocol",
]


class TransportError(Exception):
    """Anything that goes wrong between this process and the broker."""

    code: ClassVar[str] = "broker.lost"


# The operator of this process can help: nothing was sent yet.


class SettingsError(TransportError):
    """The address, a certificate file or a password file can't be used as given."""

    code: ClassVar[str] = "broker.settings"


# The network or the broker's operator can help: no connection came about.


class ConnectError(TransportError):
    """One attempt to connect failed."""

    code: ClassVar[str] = "broker.unreachable"


class BrokerUnreachable(ConnectError):
    """No broker answers at the address: name, route, port or time limit."""

    code: ClassVar[str] = "broker.unreachable"


class BrokerUntrusted(ConnectError):
    """TLS could not be set up: certificate, name, authority or no TLS at that port."""

    code: ClassVar[str] = "broker.tls"


class WrongProtocol(ConnectError):
    """Something answers, but it doesn't speak MQTT 5."""

    code: ClassVar[str] = "broker.protocol"


class ConnectRefused(ConnectError):
    """The broker answered CONNECT with a reason code of 0x80 or above."""

    code: ClassVar[str] = "broker.refused"

    def __init__(self, message: str, *, reason_code: int) -> None:
        super().__init__(message)
        self.reason_code = reason_code


# The broker said no to one request; the connection itself is fine.


class RequestRefused(TransportError):
    """The broker answered one request with a reason code of 0x80 or above."""

    code: ClassVar[str] = "broker.denied"

    def __init__(self, message: str, *, topic: str, reason_code: int) -> None:
        super().__init__(message)
        self.topic = topic
        self.reason_code = reason_code


class PublishRefused(RequestRefused):
    """The broker did not take a message: not authorised, too large, over a quota."""


class SubscribeRefused(RequestRefused):
    """The broker did not grant a subscription at QoS 1."""


# The connection is gone: connect again.


class LinkTimeout(TransportError):
    """The broker did not answer a request in time, although the connection looks open."""

    code: ClassVar[str] = "broker.timeout"


class LinkLost(TransportError):
    """The connection ended, whoever ended it."""

    code: ClassVar[str] = "broker.lost"

    def __init__(self, message: str, *, reason_code: int | None = None) -> None:
        super().__init__(message)
        self.reason_code = reason_code


class TakenOver(LinkLost):
    """The broker closed this connection because another one came with the same client id (0x8E)."""

    code: ClassVar[str] = "broker.taken_over"
