"""One attempt to connect: from settings to an established link, or one error that says why not."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from paho.mqtt.enums import CallbackAPIVersion, LogLevel, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes

from transport.channel import FAILURE, Channel, Greeting, reason_text
from transport.errors import (
    BrokerUnreachable,
    BrokerUntrusted,
    ConnectError,
    ConnectRefused,
    LinkLost,
    SettingsError,
    TransportError,
    WrongProtocol,
)
from transport.link import Link
from transport.properties import properties
from transport.quick import QuickClient
from transport.settings import Address, LinkSettings, Will

__all__ = ["connect"]

_UNSUPPORTED_VERSION = 0x84
_PROTOCOL_ERROR = 0x82


@asynccontextmanager
async def connect(settings: LinkSettings, *, will: Will | None = None) -> AsyncIterator[Link]:
    """Connect once; the link is closed on the way out.

    However the block is left, the broker publishes the will (after its delay, unless we are back by
    then), as it does when the connection breaks; `Link.withdraw_will` keeps it from doing so.

    Raises:
        SettingsError: the settings can't be used; trying again is no use.
        BrokerUnreachable: nothing answers at the address in time.
        BrokerUntrusted: TLS can't be set up.
        WrongProtocol: what answers doesn't speak MQTT 5, or not enough of it.
        ConnectRefused: the broker says no.
    """
    link = await _open(settings, will)
    try:
        yield link
    finally:
        await link.close()


async def _open(settings: LinkSettings, will: Will | None) -> Link:
    address = settings.address()
    client = _client(settings, will, address)
    channel = Channel(client, send_maximum=settings.send_maximum, receive_maximum=settings.receive_maximum)
    complaints: list[str] = []  # paho's callbacks don't carry the socket's error, its log does
    client.on_log = lambda _client, _userdata, level, text: (
        complaints.append(text) if level == LogLevel.MQTT_LOG_ERR else None
    )
    limits = properties(
        PacketTypes.CONNECT,
        SessionExpiryInterval=settings.session_expiry_s,
        ReceiveMaximum=settings.receive_maximum,
        MaximumPacketSize=settings.max_packet_bytes,
    )

    def blocking_connect() -> None:
        client.connect(
            address.host,
            address.port,
            keepalive=settings.keepalive_s,
            clean_start=settings.clean_start,
            properties=limits,
        )

    try:
        async with asyncio.timeout(settings.connect_timeout_s):
            await channel.wire.open(blocking_connect, keepalive_s=settings.keepalive_s)
            greeting = await channel.greeting
        _check(greeting, channel, address)
        client.on_log = None  # it would format every packet
        return Link(channel, has_will=will is not None, asked_expiry_s=settings.session_expiry_s)
    except BaseException as error:
        _abandon(channel)
        if isinstance(error, (OSError, ValueError, LinkLost)):
            raise _translated(error, address, settings, complaints) from error
        raise


def _client(settings: LinkSettings, will: Will | None, address: Address) -> QuickClient:
    if not settings.client_id:
        raise SettingsError("broker client id: must not be empty")
    client = QuickClient(
        CallbackAPIVersion.VERSION2,
        client_id=settings.client_id,
        protocol=MQTTProtocolVersion.MQTTv5,
        reconnect_on_failure=False,
        manual_ack=True,
    )
    client.connect_timeout = settings.connect_timeout_s
    client.username = settings.username
    client.password = settings.secret()
    if address.tls:
        client.tls_set_context(settings.tls_context())
    if will is not None:
        details = properties(
            PacketTypes.WILLMESSAGE,
            WillDelayInterval=will.delay_s,
            ContentType=will.content_type,
            MessageExpiryInterval=will.expiry_s,
        )
        client.will_set(will.topic, will.payload, qos=will.qos, retain=will.retain, properties=details)
    return client


def _check(greeting: Greeting, channel: Channel, address: Address) -> None:
    code = int(greeting.reason.value)
    if code == _UNSUPPORTED_VERSION:
        raise WrongProtocol(f"{address} speaks only MQTT 3: a broker with MQTT 5 is needed")
    if code >= FAILURE:
        line = f"{address} refused the connection: {reason_text(greeting.reason, greeting.properties)}"
        raise ConnectRefused(line, reason_code=code)
    details: Any = greeting.properties
    if getattr(details, "MaximumQoS", 2) < 1:
        raise WrongProtocol(f"{address} takes no messages at QoS 1, which is needed")
    if getattr(details, "RetainAvailable", 1) == 0:
        raise WrongProtocol(f"{address} keeps no retained messages, which are needed")
    channel.sender.maximum = min(channel.sender.maximum, getattr(details, "ReceiveMaximum", 65535))


def _abandon(channel: Channel) -> None:
    channel.lose(LinkLost("the attempt to connect was given up"))
    channel.wire.close()
    if channel.greeting.done() and not channel.greeting.cancelled():
        channel.greeting.exception()  # taken note of


def _translated(error: Exception, address: Address, settings: LinkSettings, complaints: list[str]) -> TransportError:
    match error:
        case LinkLost():
            translated: TransportError = _closed_early(error, address, complaints[-1] if complaints else "")
        case ssl.SSLCertVerificationError():
            why = f"{error.verify_message} (authorities: {settings.ca_file or 'those of the system'})"
            translated = BrokerUntrusted(f"{address}: its certificate is not trusted: {why}")
        case ssl.SSLError():
            translated = BrokerUntrusted(f"{address}: no TLS: {error.reason or error}; is this the TLS port?")
        case ConnectionResetError() if address.tls:
            translated = BrokerUntrusted(f"{address}: no TLS: {error.strerror}; is this the TLS port?")
        case TimeoutError():
            translated = BrokerUnreachable(f"{address}: no answer within {settings.connect_timeout_s:g} s")
        case socket.gaierror():
            translated = BrokerUnreachable(f"{address}: the name can't be looked up: {error.strerror}")
        case UnicodeError():
            translated = SettingsError(f"broker address {address}: not a host name")
        case _:
            words = getattr(error, "strerror", None) or str(error)
            translated = BrokerUnreachable(f"{address}: no connection: {words}")
    return translated


def _closed_early(lost: LinkLost, address: Address, said: str) -> ConnectError:
    if "[SSL" in said:
        return BrokerUntrusted(f"{address}: the broker ended TLS: {said.rpartition('] ')[2] or said}")
    if lost.reason_code == _PROTOCOL_ERROR:
        return WrongProtocol(f"{address}: what answers is not an MQTT 5 broker")
    if address.tls:
        return BrokerUntrusted(
            f"{address} closed the connection before answering: does it want a client certificate, or another one?"
        )
    return BrokerUnreachable(
        f"{address} closed the connection before answering: is that an MQTT 5 broker, and a port without TLS?"
    )
