"""What is read from a topic, and what is refused with one line."""

import copy
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from controller.fleet import incoming
from controller.fleet.incoming import ClearedIn, EventIn, Incoming, PresenceIn, Reader, ReportedIn
from schemas.codec import MAX_PAYLOAD, encode
from schemas.errors import ContractError
from schemas.messages import Reported, UpdateEvent
from schemas.topics import Topics
from tests.unit.fleet.builders import an_id, event, installed, presence, reported

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


NAMES = ("device", "package", "update", "rollout")


def said(value: UpdateEvent | Reported) -> dict[str, Any]:
    return msgspec.to_builtins(value)


@pytest.mark.parametrize("times", [1, 2])
def test_a_name_that_breaks_the_contract_is_refused_whatever_was_read_before(times: int) -> None:
    fresh = Reader(Topics())
    for _ in range(times):
        fresh.quickly("flotilla/v1/devices/pi-1/events", encode(event()))
    for name in NAMES:
        for wrong in ("Pi 1", "", "x" * 64, 7):
            broken = json.dumps(said(event()) | {name: wrong}).encode()
            with pytest.raises(ContractError, match=f"UpdateEvent: .*{name}") as caught:
                fresh.quickly("flotilla/v1/devices/pi-1/events", broken)
            assert caught.value.code == "message.json"


def test_events_are_the_same_the_first_time_and_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "MOST_KNOWN", 3)
    fresh = Reader(Topics())
    detail = {"wire_bytes": 7}
    for number in (1, 2, 1, 3, 4, 5, 1, 1):
        for rollout in (None, an_id(900 + number)):
            wanted = event(f"pi-{number}", number, update=an_id(number), rollout=rollout, detail=detail)
            read = fresh.quickly(f"flotilla/v1/devices/pi-{number}/events", encode(wanted))
            assert isinstance(read, EventIn)
            assert isinstance(read.event, UpdateEvent)
            assert said(read.event) == said(wanted)
            assert encode(read.event) == encode(wanted)
            assert len(fresh._known_devices) <= 4
            assert len(fresh._ids) <= 6


TOPIC = "flotilla/v1/devices/pi-1/reported"
REPORT = reported(
    tags={"site": "north"},
    facts={"model": "Pi 5", "disk_free": 7, "throttled": False, "load": 0.5, "serial": None},
    packages={"tacho": installed(rollout=an_id(5)), "nix": installed(rollout=None, previous="0.9.0")},
)
PLACES = (
    *((name,) for name in ("schema", "device", "at", "seq", "channel", "tags", "facts", "packages")),
    ("tags", "site"),
    ("tags", "other"),
    ("tags", "not a key"),
    ("facts", "model"),
    ("facts", "not a key"),
    ("packages", "tacho"),
    ("packages", "Not A Name"),
    *(("packages", "tacho", name) for name in ("version", "manifest", "installed_at", "previous", "phase", "rollout")),
)
VALUES = (
    None,
    7,
    -1,
    2**60,
    True,
    "",
    "x",
    "Not A Name",
    "y" * 300,
    an_id(6),
    "a" * 64,
    "1.2.3",
    [],
    {},
    said(installed()),
)


def outcome(read: Callable[[], Incoming | None]) -> object:
    try:
        found = read()
    except ContractError as error:
        return error.code, str(error)
    assert isinstance(found, ReportedIn)
    return found.live, encode(found.reported)


@given(changes=st.lists(st.tuples(st.sampled_from(PLACES), st.sampled_from(VALUES)), max_size=3), known=st.booleans())
@example(changes=[(("packages", "tacho", "manifest"), "x")], known=True)
@example(changes=[(("packages", "tacho", "rollout"), "x")], known=True)
@example(changes=[(("packages", "Not A Name"), said(installed()))], known=True)
@example(changes=[(("facts", "not a key"), 7)], known=True)
@example(changes=[(("tags", "not a key"), "x")], known=True)
@example(changes=[(("channel",), "Not A Name")], known=True)
def test_a_report_is_read_quickly_as_it_is_read_by_the_contract(
    changes: list[tuple[tuple[str, ...], Any]], known: bool
) -> None:
    fresh = Reader(Topics())
    if known:
        fresh.quickly(TOPIC, encode(REPORT))
    value: Any = said(REPORT)
    for path, new in changes:
        place = value
        for name in path[:-1]:
            place = place.get(name) if isinstance(place, dict) else None
        if isinstance(place, dict):
            place[path[-1]] = copy.deepcopy(new)
    payload = json.dumps(value).encode()
    for _ in range(2):  # what is refused once is refused again
        quick = outcome(lambda: fresh.quickly(TOPIC, payload) or fresh.read(TOPIC, payload))
        assert quick == outcome(lambda: Reader(Topics()).read(TOPIC, payload))


@pytest.mark.parametrize("times", [0, 2])
def test_a_topic_that_names_no_device_is_refused_whatever_was_read_before(times: int) -> None:
    fresh = Reader(Topics())
    for _ in range(times):
        fresh.quickly(TOPIC, encode(REPORT))
    wrong = json.dumps(said(REPORT) | {"device": "Not A Name"}).encode()
    with pytest.raises(ContractError, match="device"):
        fresh.quickly("flotilla/v1/devices/Not A Name/reported", wrong)


def test_the_names_of_reports_are_not_kept_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "MOST_KNOWN", 3)
    fresh = Reader(Topics())
    for number in range(20):
        packages = {f"nix-{number}": installed(manifest=f"{number:064x}", rollout=an_id(number))}
        facts = {f"fact-{number}": number}
        wanted = reported(f"pi-{number}", channel=f"c{number}", packages=packages, facts=facts)
        read = fresh.quickly(f"flotilla/v1/devices/pi-{number}/reported", encode(wanted))
        assert isinstance(read, ReportedIn)
        assert encode(read.reported) == encode(wanted)
    for kept in (fresh._known_devices, fresh._packages, fresh._channels, fresh._keys, fresh._manifests, fresh._ids):
        assert len(kept) <= 5
