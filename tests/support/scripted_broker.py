"""A server that follows a script, for what Mosquitto never does: old protocols, refusals, silence, nonsense."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

# Whole packets (MQTT 5, chapter 3), or what older and other servers send in their place.
CONNACK = bytes.fromhex("2003000000")
CONNACK_MQTT_3 = bytes.fromhex("20020001")
CONNACK_MQTT_3_FINE = bytes.fromhex("20020000")
PINGREQ, PUBLISH, SUBSCRIBE, DISCONNECT = 0xC0, 0x30, 0x80, 0xE0


@dataclass
class Peer:
    """One client's connection, as the script sees it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def packet(self) -> tuple[int, bytes]:
        """The next packet's type and what follows its header.

        Raises:
            asyncio.IncompleteReadError: the client has closed the connection.
        """
        kind = (await self.reader.readexactly(1))[0]
        length = shift = 0
        while True:
            byte = (await self.reader.readexactly(1))[0]
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        return kind & 0xF0, await self.reader.readexactly(length)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def greet(self, connack: bytes = CONNACK) -> None:
        await self.packet()
        await self.send(connack)

    async def silence(self) -> None:
        """Read on and answer nothing, until the client goes."""
        while await self.reader.read(4096):
            pass


def publish_packet(topic: str, payload: bytes, *, packet_id: int = 0) -> bytes:
    """A PUBLISH at QoS 1 when there is a packet id, at QoS 0 without."""
    name = topic.encode("utf-8", "surrogateescape")
    body = len(name).to_bytes(2, "big") + name
    if packet_id:
        body += packet_id.to_bytes(2, "big")
    body += b"\x00" + payload
    assert len(body) < 128
    return bytes([PUBLISH | (2 if packet_id else 0), len(body)]) + body


@asynccontextmanager
async def scripted_broker(
    script: Callable[[Peer], Awaitable[None]], *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    """Run the script for each client; gives the address. What a script raises fails the test."""
    failures: list[BaseException] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await script(Peer(reader, writer))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has gone: its right
        except Exception as error:  # noqa: BLE001 - handed to the test below
            failures.append(error)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"{'mqtts' if tls else 'mqtt'}://127.0.0.1:{port}"
    finally:
        server.close()
    if failures:
        raise failures[0]
