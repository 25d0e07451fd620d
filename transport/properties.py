"""MQTT 5 properties, made in one place because paho-mqtt leaves that class without types."""

from paho.mqtt.properties import Properties

__all__ = ["Properties", "properties"]


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
