"""The HTTP API's rollouts and devices, with devices that speak over the real broker."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from schemas.messages import Phase
from tests.support.broker import Broker
from tests.support.controller import ControllerProcess
from tests.support.fake_device import fake_device, installed
from tests.support.links import until
from tests.support.repository import make_package

pytestmark = [pytest.mark.broker, pytest.mark.wire]

Unique = Callable[[str], str]
NO_ROLLOUT = "0198a1b2-c3d4-7e5f-8a6b-0123456789ab"


@pytest.fixture
def name(unique: Unique) -> str:
    return unique("pkg")


@pytest.fixture
def channel(unique: Unique) -> str:
    return unique("ch")


@pytest.fixture
def pushed(controller: ControllerProcess, tmp_path: Path, name: str) -> str:
    """The name of a package of which 1.0.0 and 2.0.0 are stored."""
    for version in ("1.0.0", "2.0.0"):
        assert controller.push(make_package(tmp_path, name, version, {"v": version})).status == 201
    return name


def pages(controller: ControllerProcess, path: str, limit: int, key: str) -> list[list[Any]]:
    """One value of each item, page by page."""
    found, after = [], ""
    while True:
        page = controller.get(f"{path}{'&' if '?' in path else '?'}limit={limit}{after}").json()
        found.append([item[key] for item in page["items"]])
        if page["next"] is None:
            return found
        after = f"&after={quote(page['next'])}"


def released(controller: ControllerProcess, package: str, version: str, channel: str, **more: Any) -> dict[str, Any]:
    answer = controller.send("POST", "/releases", {"package": package, "version": version, "channel": channel, **more})
    assert answer.status == 201, answer
    rollout: dict[str, Any] = answer.json()
    return rollout


# Rollouts


async def test_a_release_reaches_devices_and_their_words_come_back(
    controller: ControllerProcess, broker: Broker, pushed: str, channel: str, unique: Unique
) -> None:
    good, bad = unique("good"), unique("poor")
    root = controller.topic_root
    async with (
        fake_device(broker.url, good, topic_root=root, channel=channel) as first,
        fake_device(broker.url, bad, topic_root=root, channel=channel) as second,
    ):
        for device in (first, second):
            await device.report()
        rollout = released(controller, pushed, "1.0.0", channel)
        announced = await first.announcement("1.0.0")
        assert (announced.rollout, announced.revision, announced.package) == (rollout["id"], 1, pushed)
        assert announced.repository == [f"{controller.url}/repo"]
        await second.announcement("1.0.0")
        await first.update(announced, Phase.ACCEPTED, Phase.FETCHING, Phase.SUCCEEDED, detail={"wire_bytes": 77})
        await second.update(announced, Phase.ACCEPTED, Phase.ROLLED_BACK, from_version="0.9.0")

        def detail() -> dict[str, Any]:
            found: dict[str, Any] = controller.get(f"/rollouts/{rollout['id']}").json()
            return found

        await until(lambda: detail()["rollout"]["state"] == "complete")
        said = detail()
    assert said["rollout"]["verdicts"] == {"succeeded": 1, "rolled_back": 1}
    assert said["rollout"]["phases"] == {"succeeded": 1, "rolled_back": 1}
    by_device = {one["device"]: one for one in said["devices"]["items"]}
    assert by_device[good]["update"]["wire_bytes"] == 77
    assert by_device[bad]["update"]["from_version"] == "0.9.0"
    assert said["failures"] == [
        {
            "code": "health.http",
            "count": 1,
            "devices": [bad],
            "message": f"no answer on {bad}",
            "log_tail": "first line\nlast line",
            "said_by": bad,
        }
    ]
    assert pages(controller, f"/rollouts/{rollout['id']}/devices", 1, "device") == [[good], [bad]]


def test_rollouts_come_in_pages_newest_first(controller: ControllerProcess, pushed: str, unique: Unique) -> None:
    made = [released(controller, pushed, "1.0.0", unique("ch"))["id"] for _ in range(5)]
    newest_first = made[::-1]
    found = pages(controller, f"/rollouts?package={pushed}", 2, "id")
    assert found == [newest_first[:2], newest_first[2:4], newest_first[4:]]


def test_a_newer_release_takes_the_place_of_the_one_before(
    controller: ControllerProcess, pushed: str, channel: str
) -> None:
    first = released(controller, pushed, "1.0.0", channel)
    second = released(controller, pushed, "2.0.0", channel)
    assert second["revision"] > first["revision"]
    path = f"/rollouts?package={pushed}"
    assert [one["id"] for one in controller.get(f"{path}&rollout_state=superseded").json()["items"]] == [first["id"]]
    assert [one["id"] for one in controller.get(f"{path}&channel={channel}").json()["items"]] == [
        second["id"],
        first["id"],
    ]
    assert controller.get(f"{path}&channel=another").json()["items"] == []


def test_a_rollout_is_paused_resumed_and_reverted_for_good(
    controller: ControllerProcess, pushed: str, channel: str
) -> None:
    rollout = released(controller, pushed, "1.0.0", channel, targets={"devices": ["not-there"]})
    path = f"/rollouts/{rollout['id']}/state"
    for number, state in enumerate(("paused", "active", "reverted"), start=2):
        answer = controller.send("POST", path, {"state": state})
        assert (answer.status, answer.json()["state"], answer.json()["revision"]) == (200, state, number)
    assert "reverted" in controller.send("POST", path, {"state": "active"}).problem(409, "rollout.state")
    assert controller.get(f"/rollouts/{rollout['id']}").json()["rollout"]["state"] == "reverted"


CANARY = {"wave": [{"devices": 1, "max_failures": 0}, {"upto": 100, "approval": True}], "on_failure": "revert"}


def waves(controller: ControllerProcess, rollout: dict[str, Any]) -> list[str]:
    return [one["state"] for one in controller.get(f"/rollouts/{rollout['id']}").json()["rollout"]["waves"]]


async def test_a_rollout_in_waves_lets_the_next_one_in_on_proof_and_a_persons_word(
    controller: ControllerProcess, broker: Broker, pushed: str, channel: str, unique: Unique
) -> None:
    root, path = controller.topic_root, f"/devices?channel={channel}"
    async with (
        fake_device(broker.url, unique("pi"), topic_root=root, channel=channel) as one,
        fake_device(broker.url, unique("pi"), topic_root=root, channel=channel) as two,
    ):
        for device in (one, two):
            await device.report()
        await until(lambda: len(controller.get(f"{path}&online=true").json()["items"]) == 2)
        rollout = released(controller, pushed, "1.0.0", channel, plan=CANARY)
        announced = await one.announcement("1.0.0")
        assert (announced.revision, announced.targets.upto, rollout["wave"]) == (1, 0, 1)
        canary, other = (one, two) if announced.targets.devices == [one.id] else (two, one)
        assert announced.targets.devices == [canary.id]
        approve = f"/rollouts/{rollout['id']}/approve"
        assert "waits for 1 pending" in controller.send("POST", approve, None).problem(409, "rollout.state")
        await canary.update(announced, Phase.ACCEPTED, Phase.SUCCEEDED)
        await until(lambda: waves(controller, rollout) == ["proven", "awaiting_approval"])
        assert len(other.announcements) == 1
        approved = controller.send("POST", approve, None)
        assert (approved.status, approved.json()["wave"]) == (200, 2)
        await other.until(lambda: other.announcements[-1].revision == 2)
        assert other.announcements[-1].targets.upto == 10_000
        await other.update(other.announcements[-1], Phase.ACCEPTED, Phase.SUCCEEDED)
        await until(lambda: waves(controller, rollout) == ["proven", "proven"])
        await one.until(lambda: one.announcements[-1].state.value == "complete")
    controller.send("POST", f"/rollouts/{NO_ROLLOUT}/approve", None).problem(404, "rollout.unknown")


async def test_a_canary_that_fails_takes_back_what_it_took_and_nobody_else_starts(
    controller: ControllerProcess, broker: Broker, pushed: str, channel: str, unique: Unique
) -> None:
    async with fake_device(broker.url, unique("pi"), topic_root=controller.topic_root, channel=channel) as device:
        await device.report()
        await until(lambda: controller.get(f"/devices?channel={channel}&online=true").json()["items"])
        rollout = released(controller, pushed, "1.0.0", channel, plan=CANARY)
        announced = await device.announcement("1.0.0")
        await device.update(announced, Phase.ACCEPTED, Phase.ROLLED_BACK)
        await device.until(lambda: device.announcements[-1].state.value == "reverted")
        last = device.announcements[-1]
        assert (last.revision, last.targets.devices, last.targets.upto) == (2, [device.id], 0)
    said = controller.get(f"/rollouts/{rollout['id']}").json()["rollout"]
    assert [wave["state"] for wave in said["waves"]] == ["failed", "ended"]
    assert said["because"] == "wave 1 of 2 (1 device): 1 rolled back of 1 with a result; 0 may fail"


async def test_a_device_that_says_nothing_after_its_soak_is_asked_to(
    controller: ControllerProcess, broker: Broker, pushed: str, channel: str, unique: Unique
) -> None:
    async with fake_device(broker.url, unique("pi"), topic_root=controller.topic_root, channel=channel) as device:
        await device.report()
        await until(lambda: controller.get(f"/devices?channel={channel}&online=true").json()["items"])
        rollout = released(controller, pushed, "1.0.0", channel, plan={"wave": [{"upto": 100, "soak": "1s"}]})
        announced = await device.announcement("1.0.0")
        await device.update(announced, Phase.ACCEPTED, Phase.SUCCEEDED)
        await device.until(lambda: [one.verb.value for one in device.commands] == ["report"])
        assert waves(controller, rollout) == ["soaking"]
        await device.report(packages={pushed: installed(announced)})
        await until(lambda: waves(controller, rollout) == ["proven"])


GOOD: dict[str, Any] = {"package": "tacho", "version": "1.0.0", "channel": "stable"}


@pytest.mark.parametrize(
    ("wish", "status", "code", "says"),
    [
        ({**GOOD, "chanel": "x"}, 400, "input.bad", "chanel"),
        ({**GOOD, "channel": "No Good"}, 400, "input.bad", "channel"),
        ({**GOOD, "package": "../x"}, 400, "input.bad", "package"),
        ({**GOOD, "version": 1}, 400, "input.bad", "version"),
        ({**GOOD, "policy": {"jitter_s": -1}}, 400, "input.bad", "jitter_s"),
        ({**GOOD, "plan": "reckless"}, 400, "input.bad", "reckless"),
        ({**GOOD, "plan": {"wave": []}}, 400, "input.bad", "plan"),
        ({**GOOD, "plan": {"wave": [{"upto": 5, "uppto": 5}]}}, 400, "input.bad", "uppto"),
        ({"package": "tacho", "version": "1.0.0"}, 400, "input.bad", "channel"),
        ([GOOD], 400, "input.bad", "object"),
        (GOOD, 404, "release.unknown", "tacho 1.0.0"),
    ],
)
def test_a_release_that_cannot_be_is_refused(
    controller: ControllerProcess, wish: Any, status: int, code: str, says: str
) -> None:
    before = controller.get("/rollouts?limit=1").json()
    assert says in controller.send("POST", "/releases", wish).problem(status, code)
    assert controller.get("/rollouts?limit=1").json() == before


@pytest.mark.parametrize("body", [b"", b"garbage", b'{"package": ', b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_is_refused(controller: ControllerProcess, body: bytes) -> None:
    answer = controller.call("POST", "/api/v1/releases", body, {"Content-Type": "application/json"})
    answer.problem(400, "input.bad")


def test_a_wish_that_nobody_could_announce_leaves_the_channel_where_it_was(
    controller: ControllerProcess, pushed: str, channel: str
) -> None:
    too_large = {"where": {f"key{number}": ["x" * 256] * 256 for number in range(5)}}
    wish = {"package": pushed, "version": "2.0.0", "channel": channel, "targets": too_large}
    assert "too large" in controller.send("POST", "/releases", wish).problem(400, "input.bad")
    assert controller.get(f"/packages?channel={channel}").json()["items"] == []
    released(controller, pushed, "1.0.0", channel)
    controller.send("POST", "/releases", wish).problem(400, "input.bad")
    assert [one["version"] for one in controller.get(f"/packages?channel={channel}").json()["items"]] == ["1.0.0"]


def test_a_body_that_is_larger_than_any_wish_is_refused(controller: ControllerProcess) -> None:
    body = json.dumps({**GOOD, "channel": "x" * (2 << 20)}).encode()
    answer = controller.call("POST", "/api/v1/releases", body, {"Content-Type": "application/json"})
    answer.problem(413, "input.bad")


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        (f"/rollouts/{NO_ROLLOUT}", 404, "rollout.unknown"),
        (f"/rollouts/{NO_ROLLOUT}/devices", 404, "rollout.unknown"),
        ("/rollouts?rollout_state=asleep", 400, "input.bad"),
        ("/rollouts?limit=0", 400, "input.bad"),
        ("/devices/nobody", 404, "device.unknown"),
        ("/devices/nobody/events", 404, "device.unknown"),
        ("/devices/nobody/commands", 404, "device.unknown"),
        ("/devices?online=perhaps", 400, "input.bad"),
        ("/devices?limit=501", 400, "input.bad"),
        ("/devices/x/events?after=x", 400, "input.bad"),
        ("/devices/x/commands?after=x", 400, "input.bad"),
    ],
)
def test_what_is_not_there_is_a_problem(controller: ControllerProcess, path: str, status: int, code: str) -> None:
    controller.get(path).problem(status, code)


def test_the_state_of_no_rollout_is_a_problem(controller: ControllerProcess) -> None:
    controller.send("POST", f"/rollouts/{NO_ROLLOUT}/state", {"state": "paused"}).problem(404, "rollout.unknown")
    controller.send("POST", f"/rollouts/{NO_ROLLOUT}/state", {"state": "asleep"}).problem(400, "input.bad")
    wish = {"state": "paused", "why": "lunch"}
    assert "why" in controller.send("POST", f"/rollouts/{NO_ROLLOUT}/state", wish).problem(400, "input.bad")


# Devices


async def test_devices_and_their_events_come_in_pages(
    controller: ControllerProcess, broker: Broker, channel: str, unique: Unique
) -> None:
    ids = sorted(unique(f"dev-{number}") for number in range(3))
    for device in ids:
        async with fake_device(broker.url, device, topic_root=controller.topic_root, channel=channel) as fake:
            await fake.report(tags={"site": "roof"})
            if device == ids[0]:
                for _ in range(5):
                    await fake.say(Phase.FETCHING)
    path = f"/devices?channel={channel}"
    await until(lambda: len(controller.get(f"{path}&online=false").json()["items"]) == 3)
    assert pages(controller, path, 2, "id") == [ids[:2], ids[2:]]
    assert controller.get(f"{path}&online=true").json()["items"] == []
    first = controller.get(f"/devices/{ids[0]}").json()
    assert (first["tags"], first["channel"], first["seq"], first["online"]) == ({"site": "roof"}, channel, 5, False)
    assert first["update"]["phase"] == "fetching"
    events = pages(controller, f"/devices/{ids[0]}/events", 2, "event")
    assert [[event["seq"] for event in page] for page in events] == [[1, 2], [3, 4], [5]]
    newest = controller.get(f"/devices/{ids[0]}/events?newest=true&limit=2").json()
    assert [item["event"]["seq"] for item in newest["items"]] == [4, 5]
    assert newest["next"] is None
    assert controller.get("/fleet").json()["channels"][channel] == 3


async def test_a_device_gets_commands_and_what_it_is_to_be(
    controller: ControllerProcess, broker: Broker, unique: Unique
) -> None:
    device = unique("dev")
    async with fake_device(broker.url, device, topic_root=controller.topic_root) as fake:
        await fake.report()
        await until(lambda: controller.get(f"/devices/{device}").status == 200)
        sent = controller.send("POST", f"/devices/{device}/commands", {"verb": "report"})
        assert sent.status == 201
        await fake.until(lambda: [one.id for one in fake.commands] == [sent.json()["id"]])
        await until(lambda: controller.get(f"/devices/{device}/commands").json()["items"][0]["sent_at"] is not None)
        told = controller.send("PUT", f"/devices/{device}/desired", {"hold": True, "pins": {"tacho": "1.0.0"}})
        assert told.status == 200
        await fake.until(lambda: fake.desired)
        assert (fake.desired[-1].hold, fake.desired[-1].pins) == (True, {"tacho": "1.0.0"})

        for path, wish, says in (
            ("commands", {"verb": "explode"}, "verb"),
            ("commands", {"verb": "report", "when": "now"}, "when"),
            ("commands", {"verb": "rollback"}, "package"),
            ("commands", {"verb": "report", "expires_s": 0}, "expires_s"),
            ("desired", {"holds": True}, "holds"),
            ("desired", {"channel": "NO"}, "channel"),
        ):
            method = "PUT" if path == "desired" else "POST"
            assert says in controller.send(method, f"/devices/{device}/{path}", wish).problem(400, "input.bad")
        controller.send("PUT", f"/devices/{device}/desired", {"pins": {"tacho": "newest"}}).problem(422, "version.bad")
    controller.send("POST", "/devices/nobody/commands", {"verb": "report"}).problem(404, "device.unknown")
    controller.send("PUT", "/devices/nobody/desired", {"hold": True}).problem(404, "device.unknown")


def test_the_controller_says_where_its_parts_are(controller: ControllerProcess, broker: Broker) -> None:
    said = controller.get("/controller").json()
    assert said.pop("version")
    assert said == {
        "broker": broker.url,
        "connected": True,
        "error": None,
        "topic_root": controller.topic_root,
        "repository": [f"{controller.url}/repo"],
    }
