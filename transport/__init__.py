"""The MQTT link both sides use: asyncio over paho-mqtt's public API, MQTT 5 only.

One connection is an async context manager (`connect`), its messages are an async iterator, and
`keep_connected` makes one connection after the other. Topics and payloads mean nothing here.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

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
from transport.settings import MAX_PACKET_BYTES, Address, LinkSettings, Will

if TYPE_CHECKING:
    from transport.channel import Message
    from transport.keeping import Backoff, LinkState, keep_connected
    from transport.link import Link
    from transport.opening import connect

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

# Whoever only reads settings, as each command of the agent, needs no client. Measured: paho and what it loads took a
# third of the processor time in which such a command starts.
_LATER: Final = {
    "Backoff": "keeping",
    "Link": "link",
    "LinkState": "keeping",
    "Message": "channel",
    "connect": "opening",
    "keep_connected": "keeping",
}


def __getattr__(name: str) -> Any:
    """Load what connects, when it is asked for."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
