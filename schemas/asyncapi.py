"""The wire contract as one AsyncAPI 3 document, made from the topics, the messages and their schemas.

Operations are told as the controller's: it sends what agents receive, and the other way round.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from schemas.codec import CONTENT_TYPE, MAX_PAYLOAD
from schemas.messages import MESSAGE_TYPES, SCHEMA, MessageKind
from schemas.names import CHANNEL_PATTERN, DEVICE_PATTERN, PACKAGE_PATTERN
from schemas.topics import DEFAULT_ROOT, Topics

ASYNCAPI: Final = "3.0.0"
_BINDING: Final = "0.2.0"  # of the AsyncAPI bindings for MQTT
_GUARD: Final = re.compile(r"\(\?!\\n\)")
_SEND: Final = "send"
_RECEIVE: Final = "receive"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelDescription:
    """One topic of the contract.

    Attributes:
        address: the topic, with parameters in braces.
        kind: of the messages on it.
        action: what the controller does with them.
        retained: whether messages are retained; an empty one then clears the topic.
        expires: whether messages have an expiry.
        will: whether the writer's last will is published there.
        operation: name of the controller's operation.
        summary: of the operation, in one line.
    """

    address: str
    kind: MessageKind
    action: str
    retained: bool
    operation: str
    summary: str
    expires: bool = False
    will: bool = False


def channels(topics: Topics) -> dict[str, ChannelDescription]:
    """Every topic of the contract under a root, by a name that programs can use."""
    return {
        "release": ChannelDescription(
            address=_with_braces(topics.release("channel", "package"), "channel", "package"),
            kind=MessageKind.ANNOUNCEMENT,
            action=_SEND,
            retained=True,
            operation="announceRelease",
            summary="Announce a release to the devices of a channel.",
        ),
        "deviceDesired": ChannelDescription(
            address=_of_device(topics, "desired"),
            kind=MessageKind.DESIRED,
            action=_SEND,
            retained=True,
            operation="tellDevice",
            summary="Tell one device its channel, tags, pins, or to hold.",
        ),
        "deviceCommands": ChannelDescription(
            address=_of_device(topics, "commands"),
            kind=MessageKind.COMMAND,
            action=_SEND,
            retained=False,
            expires=True,
            operation="commandDevice",
            summary="Ask one device for something, while the command has not expired.",
        ),
        "deviceReported": ChannelDescription(
            address=_of_device(topics, "reported"),
            kind=MessageKind.REPORTED,
            action=_RECEIVE,
            retained=True,
            operation="hearReport",
            summary="Hear what is true on a device.",
        ),
        "deviceStatus": ChannelDescription(
            address=_of_device(topics, "status"),
            kind=MessageKind.PRESENCE,
            action=_RECEIVE,
            retained=True,
            will=True,
            operation="hearPresence",
            summary="Hear whether a device is online.",
        ),
        "deviceEvents": ChannelDescription(
            address=_of_device(topics, "events"),
            kind=MessageKind.UPDATE_EVENT,
            action=_RECEIVE,
            retained=False,
            operation="takeInEvent",
            summary="Take in one step of one update; acknowledged when it is in the database.",
        ),
        "controllerStatus": ChannelDescription(
            address=topics.controller_status(),
            kind=MessageKind.PRESENCE,
            action=_SEND,
            retained=True,
            will=True,
            operation="tellPresence",
            summary="Tell whether the controller is online.",
        ),
    }


def asyncapi_document(root: str = DEFAULT_ROOT) -> dict[str, Any]:
    """The document as plain values."""
    described = channels(Topics(root))
    return {
        "asyncapi": ASYNCAPI,
        "info": {
            "title": "Flotilla",
            "version": f"{SCHEMA}.0.0",
            "description": _DESCRIPTION.format(root=root, limit=MAX_PAYLOAD // 1024),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": CONTENT_TYPE,
        "servers": {
            "broker": {
                "host": "broker.example:8883",
                "protocol": "secure-mqtt",
                "protocolVersion": "5.0",
                "description": "Any MQTT 5 broker. A device's user name and client id are its device id.",
                "security": [
                    {"$ref": "#/components/securitySchemes/password"},
                    {"$ref": "#/components/securitySchemes/certificate"},
                ],
            }
        },
        "channels": {name: _channel(one) for name, one in described.items()},
        "operations": {one.operation: _operation(name, one) for name, one in described.items()},
        "components": {
            "messages": {kind.value: _message(kind) for kind in MESSAGE_TYPES},
            "schemas": _schemas(),
            "parameters": _PARAMETERS,
            "securitySchemes": {
                "password": {"type": "userPassword", "description": "The device id and a password of its own."},
                "certificate": {
                    "type": "X509",
                    "description": "A client certificate with the device id as common name.",
                },
            },
        },
    }


def _channel(one: ChannelDescription) -> dict[str, Any]:
    names = re.findall(r"\{(\w+)\}", one.address)
    parameters = {name: {"$ref": f"#/components/parameters/{name}"} for name in names}
    return {
        "address": one.address,
        "messages": {one.kind.value: {"$ref": f"#/components/messages/{one.kind.value}"}},
        "description": _keeping(one),
        **({"parameters": parameters} if parameters else {}),
    }


def _keeping(one: ChannelDescription) -> str:
    words = ["Retained; an empty payload clears it." if one.retained else "Not retained."]
    if one.will:
        words.append("Also the writer's last will, with a delay of 15 seconds for devices.")
    if one.expires:
        words.append("Messages have an MQTT expiry, the same as in their `expires_at`.")
    return " ".join(words)


def _operation(name: str, one: ChannelDescription) -> dict[str, Any]:
    return {
        "action": one.action,
        "channel": {"$ref": f"#/channels/{name}"},
        "summary": one.summary,
        "messages": [{"$ref": f"#/channels/{name}/messages/{one.kind.value}"}],
        "bindings": {"mqtt": {"qos": 1, "retain": one.retained, "bindingVersion": _BINDING}},
    }


def _message(kind: MessageKind) -> dict[str, Any]:
    type_ = MESSAGE_TYPES[kind]
    return {
        "name": kind.value,
        "title": type_.__name__,
        "contentType": CONTENT_TYPE,
        "payload": {"$ref": f"#/components/schemas/{type_.__name__}"},
        "bindings": {"mqtt": {"contentType": CONTENT_TYPE, "bindingVersion": _BINDING}},
    }


def _schemas() -> dict[str, Any]:
    _, made = msgspec.json.schema_components(MESSAGE_TYPES.values(), ref_template="#/components/schemas/{name}")
    for type_ in MESSAGE_TYPES.values():
        # readers insist on `schema`, though constructing a message in code fills it in
        made[type_.__name__]["required"] = ["schema", *made[type_.__name__].get("required", [])]
    return made


def _of_device(topics: Topics, kind: str) -> str:
    return _with_braces(topics.device("device", kind), "device")


def _with_braces(topic: str, *names: str) -> str:
    """The topic with the levels that are called as parameters in braces; the root has none of them at the end."""
    levels = topic.split("/")
    for name in names:
        place = len(levels) - 1 - levels[::-1].index(name)
        levels[place] = "{" + name + "}"
    return "/".join(levels)


def _parameter(what: str, pattern: str) -> dict[str, str]:
    return {"description": f"{what}, `{_GUARD.sub('', pattern)}`"}


_PARAMETERS: Final[Mapping[str, Any]] = {
    "channel": _parameter("Name of a channel", CHANNEL_PATTERN),
    "package": _parameter("Name of a package", PACKAGE_PATTERN),
    "device": _parameter("Id of a device", DEVICE_PATTERN),
}

_DESCRIPTION: Final = """\
The wire contract between Flotilla's controller and the agents on its devices. Operations are told as the controller's.

Everything is QoS 1. The root `{root}` is configurable. Times are RFC 3339 in UTC with `Z`. Unknown fields are
ignored; missing required fields, wrong types, a newer `schema` and payloads over {limit} KiB are refused. An
announcement is only a hint: what is installed is decided by signed metadata.
"""
