"""The MQTT link both sides use: asyncio over paho-mqtt's public API, MQTT 5 only.

One connection is an async context manager (`connect`), its messages are an async iterator, and
`keep_connected` makes one connection after the other. Topics and payloads mean nothing here.
"""

from transport.channel import Message
from transport.errors import (
    BrokerUnreachable,
    BrokerUntrusted,
    ConnectError,
    ConnectRefused,
    LinkLost,
    LinkTimeout,
    PublishRefused,
    RequestRefused,
    SettingsError,
    SubscribeRefused,
    TakenOver,
    TransportError,
    WrongProtocol,
)
from transport.keeping import Backoff, LinkState, keep_connected
from transport.link import Link
from transport.opening import connect
from transport.settings import MAX_PACKET_BYTES, Address, LinkSettings, Will

__all__ = [
    "MAX_PACKET_BYTES",
    "Address",
    "Backoff",
    "BrokerUnreachable",
    "BrokerUntrusted",
    "ConnectError",
    "ConnectRefused",
    "Link",
    "LinkLost",
    "LinkSettings",
    "LinkState",
    "LinkTimeout",
    "Message",
    "PublishRefused",
    "RequestRefused",
    "SettingsError",
    "SubscribeRefused",
    "TakenOver",
    "TransportError",
    "Will",
    "WrongProtocol",
    "connect",
    "keep_connected",
]
