"""What each page shows of a fleet in the middle of a canary, read as text."""

import html
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from httpx import Response

from controller.accounts import audit
from controller.accounts.roles import Role
from controller.database import utc_now
from controller.fleet.incoming import Incoming
from controller.fleet.intake_store import IntakeStore
from controller.fleet.orders import OrderStore
from controller.fleet.service import FleetService
from controller.rollouts.plan import RolloutState
from controller.rollouts.short_ids import TIME_PART
from controller.rollouts.store import RolloutStore
from controller.rollouts.waves import RolloutPlan, Wave
from schemas.messages import ErrorReport, InstalledPackage, Phase, Targets
from tests.support.in_process import Application, application
from tests.support.repository import make_package
from tests.unit.fleet.builders import event_in, installed, presence_in, reported_in

FORM = "application/x-www-form-urlencoded"
NAMES = ["pi-1", "pi-2", "pi-3", "pi-4"]
FAILED = ErrorReport(code="health.http", message="answered 500", log_tail="starting\ncannot open /dev/ttyAMA0")
FACTS = {"model": "Raspberry Pi 5", "serial": "b0b5", "temperature_c": 61, "memory_free": 2 * 2**30}


class Seen:
    """A controller's page, and the rollout that goes on."""

    def __init__(self, app: Application, rollout: str) -> None:
        self.app = app
        self.rollout = f"/rollouts/{rollout}"

    def source(self, path: str) -> str:
        answer = self.app.client.get(path, headers={"Accept": "text/html"}, follow_redirects=False)
        assert answer.status_code == 200, answer.text
        return answer.text

    def text(self, path: str, *, part: str = "main") -> str:
        """What people read: no markup, one space between words."""
        found = re.search(rf"<{part}\b.*</{part}>", self.source(path), re.DOTALL)
        assert found is not None
        return words_of(found[0])

    def rows(self, path: str) -> list[dict[str, str]]:
        """The lines of a page's only table: what people read in each cell, by the heading of its column."""
        source = self.source(path)
        head, *lines = re.findall(r"<tr>(.*?)</tr>", source[source.index("<table") :], re.DOTALL)
        names = [words_of(cell) for cell in re.findall(r"<th>.*?</th>", head)]
        cells = [re.findall(r"<t[hd]\b.*?</t[hd]>", line, re.DOTALL) for line in lines]
        return [dict(zip(names, map(words_of, line), strict=True)) for line in cells]


def words_of(source: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", source)).split())


def said(name: str, now: datetime, **others: InstalledPackage) -> list[Incoming]:
    runs = InstalledPackage(
        version="1.0.0", manifest="ab" * 32, installed_at=now, previous="0.9.0", phase=Phase.SUCCEEDED, rollout=None
    )
    report = reported_in(name, at=now, facts=FACTS, tags={"site": "bern"}, packages={"tacho": runs, **others})
    return [presence_in(name), report]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    folder = tmp_path_factory.mktemp("contents")
    with application(folder / "data", token=None, base="http://127.0.0.1:8420") as app:
        for version, files in (("1.0.0", {"app": "one", "gone": "g"}), ("1.1.0", {"app": "two", "new": "n" * 3000})):
            app.repository.add(make_package(folder, "tacho", version, files))
        now = utc_now()
        intake, rollouts = IntakeStore(app.engine), RolloutStore(app.engine)
        intake.take_in([one for name in NAMES for one in said(name, now)], now)
        plan = RolloutPlan(waves=[Wave(devices=["pi-1", "pi-2"], success=50), Wave(upto=100, approval=True)])
        made = rollouts.create(
            package="tacho", version="1.1.0", channel="stable", repository=["http://r"], plan=plan, now=now
        )
        about = {"rollout": made.id, "update": made.id, "version": "1.1.0"}
        steps = (Phase.ACCEPTED, Phase.FETCHING, Phase.PROBATION, Phase.ROLLED_BACK)
        for seq, phase in enumerate(steps, 1):
            error = FAILED if phase is Phase.ROLLED_BACK else None
            at = now + timedelta(seconds=seq)
            intake.take_in([event_in("pi-1", seq, phase, at=at, error=error, **about)], now)
        intake.take_in([event_in("pi-2", 1, Phase.FETCHING, at=now + timedelta(seconds=1), **about)], now)
        rollouts.evaluate(made.id, now)
        yield Seen(app, made.id)


def test_the_overview_shows_the_fleet_what_it_runs_and_who_needs_attention(seen: Seen) -> None:
    shown = seen.text("/")
    assert "Devices 4 Online 4 Offline 0 Need attention 1" in shown
    assert "tacho 1.1.0" in shown
    assert "1.0.0 4" in shown
    assert "pi-1" in shown
    assert "health.http" in shown


@pytest.mark.parametrize(
    "path", ["/", "/rollouts", "ROLLOUT", "/devices", "/devices/pi-1", "/packages", "/audit", "/accounts"]
)
def test_every_page_says_that_the_broker_is_away(seen: Seen, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    path = seen.rollout if path == "ROLLOUT" else path
    assert seen.text(path).count("not connected to the broker (not connected yet)") == 1
    monkeypatch.setattr(FleetService, "away", None)
    assert "not connected to the broker" not in seen.text(path)


@pytest.mark.parametrize("path", ["/", "ROLLOUT", "/devices/pi-1"])
def test_a_live_page_hears_of_the_broker_as_long_as_it_is_shown(seen: Seen, path: str) -> None:
    source = seen.source(seen.rollout if path == "ROLLOUT" else path)
    live = source[source.index('sse-connect="') :]
    assert re.search(r'<div sse-swap="away">\s*<p class="because bad" role="status">', live), live


def test_a_rollouts_page_has_a_cell_for_each_device_by_its_phase(seen: Seen) -> None:
    (cells,) = re.findall(r'data-grid="([^"]*)"', seen.source(seen.rollout))
    # rolled back, fetching, and two that wait for their wave
    assert re.search(r"\bkfii\b", html.unescape(cells)), cells
    assert "pi-2" in seen.app.client.get(f"{seen.rollout}/cell/1", headers={"Accept": "text/html"}).text


def test_a_rollouts_page_has_its_waves_and_what_each_waits_for(seen: Seen) -> None:
    shown = seen.text(seen.rollout)
    assert "2 devices running" in shown
    assert "waits for 1 updating; 0 succeeded, 1 rolled back" in shown
    assert "everybody waiting" in shown


def test_a_rollouts_page_has_a_time_line_and_its_pace(seen: Seen) -> None:
    shown = seen.text(seen.rollout)
    assert re.search(r"Pace [0-9.]+ a minute", shown)
    assert re.search(r"Estimate \N{EN DASH} ", shown), "the second wave waits for a person"
    drawn = re.findall(r'class="line bad" points="([^"]+)"', seen.source(seen.rollout))
    assert len(drawn) == 1
    # from nobody at the beginning to everybody who went wrong
    assert len({point.partition(",")[2] for point in drawn[0].split()}) > 1


def test_a_rollouts_page_groups_its_failures_with_one_log(seen: Seen) -> None:
    shown = seen.text(seen.rollout)
    assert "health.http 1 device answered 500 starting cannot open /dev/ttyAMA0 pi-1" in shown


def test_a_device_that_failed_otherwise_is_shown_with_its_own_words(seen: Seen) -> None:
    intake, rollouts, now = IntakeStore(seen.app.engine), RolloutStore(seen.app.engine), utc_now()
    names = ("lab-1", "lab-2", "pi-real")
    for name in names:
        intake.take_in([presence_in(name), reported_in(name, at=now, channel="lab")], now)
    made = rollouts.create(package="dial", version="1.0.0", channel="lab", repository=["http://r"])
    needle = "cannot place the needle: " + "float division by zero; " * 10
    for name, message in zip(names, ("answered 500", "answered 502", needle), strict=True):
        error = ErrorReport(code="health.http", message=message, log_tail=f"log of {name}")
        last = event_in(
            name, 1, Phase.ROLLED_BACK, rollout=made.id, update=made.id, at=now, package="dial", error=error
        )
        intake.take_in([last], now)
    rollouts.evaluate(made.id, now)
    shown = seen.text(f"/rollouts/{made.id}")
    many = "health.http 2 devices answered 500 log of lab-1 The words and the log are those of lab-1. lab-1 , lab-2"
    assert many in shown
    assert f"{needle.strip()} log of pi-real pi-real" in shown
    listed = {row["Device"]: row["Error"] for row in seen.rows(f"/rollouts/{made.id}")}
    assert listed["lab-2"] == "health.http answered 502"
    assert listed["pi-real"].startswith("health.http cannot place the needle: ")
    assert len(listed["pi-real"]) < 200


def test_a_devices_page_has_its_facts_history_packages_log_and_health(seen: Seen) -> None:
    shown = seen.text("/devices/pi-1")
    for fact in ("model Raspberry Pi 5", "serial b0b5", "tag site bern"):
        assert fact in shown
    assert "temperature_c 61 memory_free 2.0 GiB" in shown.partition("Health")[2].partition("As reported")[0]
    assert re.search(r"tacho 1\.0\.0 succeeded 0\.9\.0", shown)
    history = shown.partition("History")[2]
    assert re.search(r"accepted .* fetching .* probation .* rolled back .* health\.http answered 500", history)
    assert "cannot open /dev/ttyAMA0" in history


def test_a_devices_page_says_whose_hold_an_update_waits_for(seen: Seen) -> None:
    intake, now = IntakeStore(seen.app.engine), utc_now()
    intake.take_in([presence_in("pi-held"), reported_in("pi-held", at=now, channel="alone")], now)
    intake.take_in([event_in("pi-held", 1, Phase.DEFERRED, at=now, detail={"reason": "hold"})], now)
    for told, whose in ((False, "held by its owner"), (True, "held by an operator")):
        OrderStore(seen.app.engine).set_desired("pi-held", hold=told)
        shown = seen.text("/devices/pi-held").partition("Packages")[0]
        assert re.search(rf"Now: tacho .* deferred .* \S {whose}", shown), shown


def test_a_versions_page_says_what_changed_in_files_and_bytes(seen: Seen) -> None:
    shown = seen.text("/packages/tacho/compare?from=1.0.0&to=1.1.0")
    assert "Added 1" in shown
    assert "Removed 1" in shown
    assert "Changed 1" in shown
    assert "2.9 KiB" in shown
    assert "1.1.0" in seen.text("/packages/tacho")
    assert "tacho" in seen.text("/packages")


def test_every_cell_of_accounts_and_tokens_has_its_label_on_a_phone(seen: Seen) -> None:
    seen.app.people.add("anna", Role.ADMIN, "correct horse battery")
    seen.app.tokens.add("ci", Role.PUBLISHER)
    seen.app.tokens.add("robot", Role.VIEWER, lasts=timedelta(days=1))
    source = seen.source("/accounts")
    cells = re.findall(r"<td\b[^>]*>", source)
    assert len(cells) == 3 * 4
    # a cell of the class `plainly` shows none
    assert [cell for cell in cells if "data-label" not in cell or "class" in cell] == []


def test_no_file_of_a_token_is_named_where_none_is_asked_for(seen: Seen) -> None:
    shown = seen.text("/accounts")
    assert "On this machine alone nobody is asked for one." in shown
    assert "api-token" not in shown


def test_every_action_is_confirmed_before_it_is_done(seen: Seen) -> None:
    question = seen.text(f"{seen.rollout}/do/halt")
    assert "tacho 1.1.0 on stable" in question
    assert re.search(r'<form [^>]*method="post"', seen.source(f"{seen.rollout}/do/halt"))
    # having been asked changes nothing
    assert "active" in seen.text(seen.rollout)


def test_what_failed_can_be_tried_again_from_the_page(seen: Seen) -> None:
    intake, rollouts, now = IntakeStore(seen.app.engine), RolloutStore(seen.app.engine), utc_now()
    for name in ("again-1", "again-2"):
        intake.take_in([presence_in(name), reported_in(name, at=now, channel="again")], now)
    made = rollouts.create(package="again", version="1.0.0", channel="again", repository=["http://r"])
    bad = event_in("again-1", 1, Phase.FAILED, rollout=made.id, update=made.id, package="again", at=now, error=FAILED)
    intake.take_in([bad], now)
    rollouts.evaluate(made.id, now)
    path = f"/rollouts/{made.id}"
    rollouts.set_state(made.id, RolloutState.PAUSED)
    assert "Resumed, it has a button here, “Retry what failed”" in seen.text(path)
    assert "do/retry-failed" not in seen.source(path)
    headers = {"Accept": "text/html", "Content-Type": FORM, "Origin": "http://127.0.0.1:8420"}
    assert seen.app.client.post(f"{path}/do/resume", headers=headers).status_code == 200
    assert f"{path}/do/retry-failed" in seen.source(path)
    assert "Have what ended badly tried again?" in seen.text(f"{path}/do/retry-failed")


def test_who_goes_back_to_what_is_said_before_a_revert(seen: Seen) -> None:
    made = RolloutStore(seen.app.engine).create(
        package="back", version="1.1.0", channel="stable", repository=["http://r"]
    )
    for name, previous in (("pi-2", None), ("pi-3", "1.0.0"), ("pi-4", "1.0.0")):
        IntakeStore(seen.app.engine).take_in(
            said(name, utc_now(), back=installed("1.1.0", previous=previous, rollout=made.id)), utc_now()
        )
    question = seen.text(f"/rollouts/{made.id}/do/revert")
    assert "1 device had no back before and is left with none: pi-2" in question
    assert "2 devices go back to 1.0.0: pi-3, pi-4" in question
    assert "left with none" not in seen.text(f"/rollouts/{made.id}/do/halt")


@pytest.mark.parametrize("state", [RolloutState.PAUSED, RolloutState.HALTED])
def test_the_page_of_a_rollout_that_was_stopped_names_what_gets_everybody_back(seen: Seen, state: RolloutState) -> None:
    rollouts = RolloutStore(seen.app.engine)
    made = rollouts.create(package=state.value, version="1.0.0", channel="stable", repository=["http://r"])
    rollouts.set_state(made.id, state)
    assert f"flotilla revert {made.id[:TIME_PART]} sends back everybody who took it" in seen.text(
        f"/rollouts/{made.id}"
    )


def test_the_beginning_of_an_id_leads_to_the_page_of_the_rollout(seen: Seen) -> None:
    rollouts = RolloutStore(seen.app.engine)
    long_ago = utc_now() - timedelta(days=400)
    wish = {"version": "1.0.0", "channel": "stable", "repository": ["http://r"]}
    short = rollouts.create(package="short", now=long_ago, **wish).id
    for beginning in (short[:TIME_PART], short[:TIME_PART].upper()):
        answer = seen.app.client.get(f"/rollouts/{beginning}?show=p", follow_redirects=False)
        assert (answer.status_code, answer.headers["location"]) == (302, f"/rollouts/{short}?show=p")
    rollouts.create(package="shorter", now=long_ago, **wish)
    several = seen.app.client.get(f"/rollouts/{short[:TIME_PART]}", headers={"Accept": "text/html"})
    assert several.status_code == 409
    assert f"{short[:TIME_PART]} begins several rollouts: " in several.text


def test_a_held_device_has_its_reason_in_the_list_and_in_its_cell(seen: Seen) -> None:
    OrderStore(seen.app.engine).set_desired("pi-4", hold=True, pins={"held": "0.9.0"})
    made = RolloutStore(seen.app.engine).create(
        package="held", version="1.0.0", channel="stable", repository=["http://r"]
    )
    why = "held pinned at 0.9.0, on hold"
    assert f"pi-4 {why}" in seen.text(f"/rollouts/{made.id}").partition("List of devices")[2]
    assert "pinned at 0.9.0, on hold" in seen.source(f"/rollouts/{made.id}/cell/3")
    assert re.search(r"pi-4 online held stable .* held pinned at 0\.9\.0", seen.text("/devices"))


def test_who_is_left_out_by_name_is_counted_and_in_the_list(seen: Seen) -> None:
    made = RolloutStore(seen.app.engine).create(
        package="but", version="1.0.0", channel="stable", repository=["http://r"], targets=Targets(exclude=["pi-3"])
    )
    shown = seen.text(f"/rollouts/{made.id}")
    assert "1 device is left out by the release" in shown
    assert "pi-3 left out the release leaves it out by name (--exclude)" in shown.partition("List of devices")[2]
    assert "pi-3" not in seen.text(f"/rollouts/{made.id}?show=u").partition("Devices: unknown")[2]
    assert "left out" not in seen.text(seen.rollout)
    detail = seen.app.client.get(f"/api/v1/rollouts/{made.id}").json()
    (listed,) = [one for one in detail["devices"]["items"] if one["device"] == "pi-3"]
    assert (detail["rollout"]["left_out"], listed["verdict"]) == (1, "not_meant")


def test_the_list_of_rollouts_says_what_was_stopped_before_another_took_its_place(seen: Seen) -> None:
    rollouts = RolloutStore(seen.app.engine)
    wish = {"package": "again", "channel": "stable", "repository": ["http://r"]}
    rollouts.set_state(rollouts.create(**wish, version="1.0.0").id, RolloutState.REVERTED)
    rollouts.create(**wish, version="1.1.0")
    assert "again 1.0.0 on stable superseded (reverted before)" in seen.text("/rollouts?package=again")


def test_a_list_of_rollouts_says_which_wait_for_a_person(seen: Seen) -> None:
    rollouts = RolloutStore(seen.app.engine)
    plan = RolloutPlan(waves=[Wave(upto=100, approval=True)])
    made = rollouts.create(package="asks", version="1.0.0", channel="stable", repository=["http://r"], plan=plan)
    assert "asks 1.0.0 on stable active awaiting approval " in seen.text("/rollouts?package=asks")
    rollouts.approve(made.id)
    assert "awaiting approval" not in seen.text("/rollouts?package=asks")


def test_a_device_that_had_not_begun_when_a_newer_rollout_came_is_shown_by_how_it_stands_there(seen: Seen) -> None:
    rollouts = RolloutStore(seen.app.engine)
    wish = {"package": "basis", "channel": "stable", "repository": ["http://r"]}
    first = rollouts.create(**wish, version="1.0.0", plan=RolloutPlan(waves=[Wave(upto=100)]))
    second = rollouts.create(**wish, version="1.1.0", plan=RolloutPlan(waves=[Wave(devices=["pi-1"]), Wave(upto=100)]))
    listed = seen.text(f"/rollouts/{first.id}").partition("List of devices")[2]
    assert "pi-1 not begun in the newer rollout : may start" in listed
    assert "pi-2 not begun in the newer rollout : waits for its wave" in listed
    assert f'href="/rollouts/{second.id}"' in seen.source(f"/rollouts/{first.id}/cell/0")


def test_the_audit_log_has_a_line_for_what_was_done_and_for_what_was_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with application(tmp_path, token=None, base="http://127.0.0.1:8420") as app:
        IntakeStore(app.engine).take_in([presence_in("pi-1")], utc_now())
        operator, viewer = app.token(Role.OPERATOR, "desk"), app.token(Role.VIEWER, "wall")
        for headers, device, hours in ((operator, "pi-1", 5), (viewer, "pi-1", 4), (operator, "pi-9", 3)):
            monkeypatch.setattr(audit, "utc_now", lambda ago=hours: utc_now() - timedelta(hours=ago))
            app.client.put(f"/api/v1/devices/{device}/desired", json={"hold": True}, headers=headers)
        shown = Seen(app, "").rows("/audit")
    asked = 'asked for {"hold":true}'
    assert shown == [
        {
            "When": "3 h ago",
            "Who": "token:desk operator",
            "What": "device.desired",
            "On what": f"pi-9 {asked}",
            "Result": "device.unknown",
            "From": "api testclient",
        },
        {
            "When": "4 h ago",
            "Who": "token:wall viewer",
            "What": "device.desired",
            "On what": "pi-1",
            "Result": "auth.denied",
            "From": "api testclient",
        },
        {
            "When": "5 h ago",
            "Who": "token:desk operator",
            "What": "device.hold",
            "On what": f"pi-1 {asked}",
            "Result": "done",
            "From": "api testclient",
        },
    ]


def test_a_device_that_is_gone_can_be_forgotten_and_one_that_is_there_cannot(tmp_path: Path) -> None:
    with application(tmp_path, token=None, base="http://127.0.0.1:8420") as app:
        IntakeStore(app.engine).take_in([presence_in("pi-1"), reported_in("pi-9")], utc_now())
        seen = Seen(app, "")
        assert "/devices/pi-1/do/forget" not in seen.source("/devices/pi-1")
        assert "/devices/pi-9/do/forget" in seen.source("/devices/pi-9")
        assert "its history and its part in rollouts too" in seen.text("/devices/pi-9/do/forget")

        def forgotten(device: str) -> Response:
            headers = {"Accept": "text/html", "Origin": "http://127.0.0.1:8420", "Content-Type": FORM}
            path = f"/devices/{device}/do/forget"
            return app.client.post(path, content=b"", headers=headers, follow_redirects=False)

        refused = forgotten("pi-1")
        assert (refused.status_code, "stop its agent first" in refused.text) == (409, True)
        done = forgotten("pi-9")
        assert (done.status_code, done.headers["location"]) == (303, "/devices?did=forget")
        shown = seen.text("/devices?did=forget")
        assert "Forgotten: the device and its history are removed." in shown
        assert [row["Device"] for row in seen.rows("/devices")] == ["pi-1"]
        assert app.client.get("/devices/pi-9", headers={"Accept": "text/html"}).status_code == 404
        noted = [(row["What"], row["On what"], row["Result"]) for row in seen.rows("/audit")]
        assert noted == [("device.forget", "pi-9", "done"), ("device.forget", "pi-1", "device.online")]
