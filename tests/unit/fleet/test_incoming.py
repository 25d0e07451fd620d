"""What is read from a topic, and what is refused with one line."""

import json

import pytest

from controller.fleet.incoming import ClearedIn, EventIn, PresenceIn, Reader, ReportedIn
from schemas.codec import MAX_PAYLOAD, encode
from schemas.errors import ContractError
from schemas.topics import Topics
from tests.unit.fleet.builders import event, presence, reported

reader = Reader(Topics())


def test_every_kind_of_message_is_read() -> None:
    payload = encode(event())
    assert reader.read("flotilla/v1/devices/pi-1/events", payload) == EventIn(event(), payload)
    assert reader.read("flotilla/v1/devices/pi-1/reported", encode(reported())) == ReportedIn(reported(), live=True)
    assert reader.read("flotilla/v1/devices/pi-1/status", encode(presence()), retained=True) == PresenceIn(
        presence(), live=False
    )


@pytest.mark.parametrize("kind", ["reported", "status"])
def test_an_empty_payload_on_a_retained_topic_is_a_tombstone(kind: str) -> None:
    assert reader.read(f"flotilla/v1/devices/pi-1/{kind}", b"") == ClearedIn("pi-1", kind)


@pytest.mark.parametrize(
    ("topic", "payload", "code", "words"),
    [
        ("devices/pi-2/events", encode(event("pi-1")), "message.topic", "a message of device pi-1 came on"),
        ("devices/pi-2/reported", encode(reported("pi-1")), "message.topic", "device pi-1"),
        ("devices/pi-1/events", b"", "message.json", "UpdateEvent"),
        ("devices/pi-1/events", b"\xff\xfe", "message.json", "UpdateEvent"),
        ("devices/pi-1/events", b"[]", "message.json", "UpdateEvent"),
        ("devices/pi-1/events", b"[" * 100_000, "message.json", "UpdateEvent"),
        ("devices/pi-1/events", encode(event()).replace(b'"accepted"', b'"exploded"'), "message.json", "phase"),
        ("devices/pi-1/events", json.dumps({"schema": 2}).encode(), "message.schema", "schema 2 is newer"),
        ("devices/pi-1/events", b" " * (MAX_PAYLOAD + 1), "message.size", "over the limit"),
        ("devices/PI/events", encode(event()), "message.topic", "not one of the contract"),
        ("devices/watcher/events", encode(event("watcher")), "message.topic", "not one of the contract"),
        ("devices/pi-1/events/more", encode(event()), "message.topic", "not one of the contract"),
        ("devices/pi-1/desired", b"{}", "message.topic", "nothing is taken in from"),
        ("release/stable/tacho", b"{}", "message.topic", "nothing is taken in from"),
    ],
)
def test_what_breaks_the_contract_is_refused_in_one_line(topic: str, payload: bytes, code: str, words: str) -> None:
    with pytest.raises(ContractError, match=words) as caught:
        reader.read(f"flotilla/v1/{topic}", payload)
    assert caught.value.code == code
    assert "\n" not in str(caught.value)
