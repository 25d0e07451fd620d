"""MQTT 5 properties, made in one place because paho-mqtt leaves that class without types."""

from paho.mqtt.properties import Properties

__all__ = ["Properties", "properties"]


class _Unchanging(Properties):
    """Nobody changes them once they are on their way, so they are packed once: that costs more than sending them."""

    def pack(self) -> bytes:
        packed: bytes | None = self.__dict__.get("_packed")
        if packed is None:
            packed = self.__dict__["_packed"] = bytes(super().pack())  # type: ignore[no-untyped-call]  # as below
        return packed


def properties(packet_type: int, **values: int | str | None) -> Properties:
    """The given properties of one packet; those that are None are left out. Not to be changed after the first packet.

    Raises:
        paho.mqtt.MQTTException: the packet type has no such property, or not that value.
    """
    made = _Unchanging(packet_type)  # type: ignore[no-untyped-call]  # paho-mqtt 2.2 has no annotation there
    for name, value in values.items():
        if value is not None:
            setattr(made, name, value)
    return made
