"""MQTT 5 properties, made in one place because paho-mqtt leaves that class without types."""

from functools import lru_cache

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

__all__ = ["Properties", "packed", "properties"]


def properties(packet_type: int, **values: int | str | None) -> Properties:
    """The given properties of one packet; those that are None are left out.

    Raises:
        paho.mqtt.MQTTException: the packet type has no such property, or not that value.
    """
    made = Properties(packet_type)  # type: ignore[no-untyped-call]  # paho-mqtt 2.2 has no annotation there
    for name, value in values.items():
        if value is not None:
            setattr(made, name, value)
    return made


@lru_cache(maxsize=64)
def packed(content_type: str | None, expiry_s: int | None) -> bytes:
    """Those of a PUBLISH as they are on the wire, with their length before them.

    Packing them costs more than sending them, and a sender uses only a few.
    """
    made = properties(PacketTypes.PUBLISH, ContentType=content_type, MessageExpiryInterval=expiry_s)
    return bytes(made.pack())  # type: ignore[no-untyped-call]  # as above
