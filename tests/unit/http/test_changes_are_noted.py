"""Every change that is asked for over HTTP is in the audit log, from the API as from the page."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from litestar.routes import HTTPRoute

from controller.accounts.audit import MAX_DETAIL, AuditLog
from controller.accounts.roles import Role
from controller.accounts.views import AuditEntry
from controller.database import utc_now
from controller.fleet.incoming import PresenceIn
from controller.fleet.intake_store import IntakeStore
from controller.http.rules import RULES, actions
from controller.http.transfers import UploadOperation
from schemas.errors import OperatorError
from schemas.messages import Presence
from tests.support.in_process import FILE_TOKEN, JSON, PASSWORD, Application, application, bearer
from tests.support.repository import add_release

OWN = {"Origin": "http://fleet.example:8420"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
NO_ROLLOUT = "0198a1b2-c3d4-7e5f-8a6b-0123456789ab"
RELEASE = {"package": "tacho", "version": "1.0.0", "channel": "stable"}


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Application]:
    with application(tmp_path) as made:
        add_release(made.repository, "tacho", "1.0.0", {"a": "a"})
        made.people.add("anna", Role.OPERATOR, PASSWORD)
        yield made


def heard_of(app: Application, device: str) -> None:
    now = utc_now()
    presence = Presence(device=device, online=True, session=1, boot_id="b", agent_version="1", at=now)
    IntakeStore(app.engine).take_in([PresenceIn(presence=presence, live=True)], now)


def newest(app: Application) -> AuditEntry:
    return app.audit.entries(limit=1)[0]


def test_a_change_says_who_what_on_what_and_how_it_ended(app: Application) -> None:
    publisher = app.token(Role.PUBLISHER, "ci")
    made = app.client.post("/api/v1/releases", json=RELEASE, headers={**publisher, "User-Agent": "flotilla-cli/1"})
    row = newest(app)
    assert (row.actor, row.role, row.via, row.address) == ("token:ci", Role.PUBLISHER, "cli", "testclient")
    assert (row.action, row.result, row.status) == ("release.announce", "done", 201)
    assert json.loads(row.detail) == RELEASE
    assert row.target == "tacho 1.0.0 stable"
    rollout = made.json()["id"]
    app.client.post(f"/api/v1/rollouts/{rollout}/state", json={"state": "halted"}, headers=publisher)
    row = newest(app)
    assert (row.action, row.target, row.via) == ("rollout.halt", rollout, "api")
    assert json.loads(row.detail) == {"state": "halted"}
    app.client.post(f"/api/v1/rollouts/{rollout}/state", json={"state": "complete"}, headers=publisher)
    row = newest(app)
    assert (row.action, row.target, row.status) == ("rollout.state", rollout, 409)
    assert row.result == "rollout.state"


@pytest.mark.parametrize(
    ("path", "wish", "code", "target"),
    [
        ("releases", RELEASE | {"package": "tach"}, "release.unknown", "tach 1.0.0 stable"),
        ("releases", RELEASE | {"plan": {"waves": 3}}, "input.bad", "tacho 1.0.0 stable"),
        ("releases", RELEASE | {"targets": 3}, "input.bad", "tacho 1.0.0 stable"),
        ("releases", RELEASE | {"version": 1}, "input.bad", "tacho stable"),
        ("releases", {"much": ["x"]}, "input.bad", ""),
        ("releases/sets", {"packages": {"tacho": "1.0.0"}, "channel": "edge"}, "input.bad", "tacho@1.0.0 edge"),
    ],
)
def test_a_release_that_is_refused_says_of_what_whatever_refuses_it(
    app: Application, path: str, wish: object, code: str, target: str
) -> None:
    app.client.post(f"/api/v1/{path}", json=wish, headers=bearer(FILE_TOKEN))
    row = newest(app)
    assert (row.action, row.result, row.target) == ("release.announce", code, target)


def test_a_change_on_the_page_is_in_the_same_log(app: Application) -> None:
    rollout = app.client.post("/api/v1/releases", json=RELEASE, headers=bearer(FILE_TOKEN)).json()["id"]
    app.client.post("/api/v1/session", json={"name": "anna", "password": PASSWORD})
    done = app.client.post(f"/rollouts/{rollout}/do/pause", data={"sure": "yes"}, headers=OWN, follow_redirects=False)
    assert done.status_code == 303
    row = newest(app)
    assert (row.actor, row.via, row.action, row.result) == ("user:anna", "page", "rollout.pause", "done")
    assert row.target == rollout


def test_what_is_refused_on_the_page_has_the_code_that_the_api_says(app: Application) -> None:
    rollout = app.client.post("/api/v1/releases", json=RELEASE, headers=bearer(FILE_TOKEN)).json()["id"]
    app.client.post("/api/v1/session", json={"name": "anna", "password": PASSWORD})
    page = {**OWN, "Accept": "text/html"}
    assert app.client.get(f"/rollouts/{rollout}/do/resume", headers=page).status_code == 409
    for path, wrong, status, code in (
        (f"rollouts/{rollout}/do/resume", {}, 409, "rollout.state"),
        (f"rollouts/{rollout}/do/approve", {}, 409, "rollout.state"),
        (f"rollouts/{NO_ROLLOUT}/do/pause", {}, 404, "rollout.unknown"),
        ("devices/nobody/do/hold", {}, 404, "device.unknown"),
        ("rollouts/none/do/nothing", {}, 404, "input.bad"),
        (f"rollouts/{rollout}/do/pause", {"Content-Type": "text/plain"}, 415, "input.bad"),
    ):
        answer = app.client.post(f"/{path}", content=b"", headers={**page, **FORM, **wrong}, follow_redirects=False)
        row = newest(app)
        assert (answer.status_code, row.via, row.result, row.status) == (status, "page", code, status), path
        if path.endswith("resume"):
            assert f"rollout {rollout} is {answer_state(app, rollout)} already: nothing changed" in answer.text


def answer_state(app: Application, rollout: str) -> str:
    state: str = app.client.get(f"/api/v1/rollouts/{rollout}", headers=bearer(FILE_TOKEN)).json()["rollout"]["state"]
    return state


def test_what_a_device_is_told_by_the_api_is_named_as_the_pages_buttons_are(app: Application) -> None:
    heard_of(app, "pi-1")
    path, admin, seen = "/api/v1/devices/pi-1/desired", bearer(FILE_TOKEN), 0

    def noted(wish: object, status: int = 200) -> set[str]:
        nonlocal seen
        assert app.client.put(path, json=wish, headers=admin).status_code == status
        rows = [row for row in app.audit.entries(limit=9) if row.id > seen]
        seen = rows[0].id
        assert {(row.target, row.status) for row in rows} == {("pi-1", status)}
        assert [json.loads(row.detail) for row in rows] == [wish] * len(rows)
        return {row.action for row in rows}

    seen = newest(app).id if app.audit.entries(limit=1) else 0
    assert noted({"pins": {"tacho": "1.0.0"}}) == {"device.pin"}
    assert noted({"pins": {"tacho": "1.1.0"}, "hold": True}) == {"device.pin", "device.hold"}
    assert noted({"pins": {"tacho": "1.1.0", "needle": "1.0.0"}}) == {"device.pin", "device.unhold"}
    assert noted({"pins": {"needle": "1.0.0"}}) == {"device.unpin"}
    assert noted({"channel": "beta", "pins": {"needle": "1.0.0"}}) == {"device.desired"}
    assert noted({"tags": {"site": "bern"}}) == {"device.unpin", "device.desired"}
    assert noted({"tags": {"site": "bern"}, "hold": False}) == {"device.desired"}, "nothing that has a button"
    assert noted({"tags": {"site": "bern"}, "pins": {"tacho": "newest"}}, 422) == {"device.pin"}


@pytest.mark.parametrize("state", ["paused", "active", "halted", "reverted"])
def test_what_the_api_does_to_a_rollout_is_named_as_the_pages_buttons_are(app: Application, state: str) -> None:
    rollout = app.client.post("/api/v1/releases", json=RELEASE, headers=bearer(FILE_TOKEN)).json()["id"]
    app.client.post(f"/api/v1/rollouts/{rollout}/state", json={"state": state}, headers=bearer(FILE_TOKEN))
    names = {"paused": "rollout.pause", "active": "rollout.resume", "halted": "rollout.halt"}
    assert newest(app).action == names.get(state, "rollout.revert")


def test_what_else_the_api_does_is_named_as_the_pages_buttons_are(app: Application) -> None:
    heard_of(app, "pi-1")
    for path, wish, action in (
        ("devices/pi-1/commands", {"verb": "rollback", "args": {"package": "tacho"}}, "device.rollback"),
        ("devices/pi-1/commands", {"verb": "replay", "args": {"after_seq": 0}}, "device.command"),
        ("packages/tacho/1.0.0/yank", {"yanked": True}, "package.yank"),
        ("packages/tacho/1.0.0/yank", {"yanked": False}, "package.unyank"),
    ):
        assert app.client.post(f"/api/v1/{path}", json=wish, headers=bearer(FILE_TOKEN)).status_code < 300
        assert newest(app).action == action


@pytest.mark.parametrize("path", ["devices/pi-1/desired", "session/password"])
def test_only_a_file_comes_without_its_body_being_read_and_noted(app: Application, path: str) -> None:
    heard_of(app, "pi-1")
    octets = {**bearer(FILE_TOKEN), "Content-Type": "application/octet-stream"}
    answer = app.client.put(f"/api/v1/{path}", content=b'{"pins": {"tacho": "1.0.0"}}', headers=octets)
    assert (answer.status_code, answer.json()["code"]) == (415, "input.bad")
    assert answer.json()["detail"] == "send application/json, and not application/octet-stream"
    told = app.client.get("/api/v1/devices/pi-1/desired", headers=octets).json()
    assert not told.get("pins"), told
    assert app.client.post("/api/v1/session", content=b"{}", headers=octets).status_code == 415
    # where the verb alone says what to do, what is sent along is looked at as any other body
    gone = app.client.request("DELETE", "/api/v1/devices/nobody", content=b'{"a": "\0"}', headers=octets)
    assert (gone.status_code, "NUL" in gone.json()["detail"]) == (400, True)


def test_what_is_read_in_pieces_is_what_takes_a_file(app: Application) -> None:
    handlers = [
        (method, route.path_format, handler)
        for route in app.litestar.routes
        if isinstance(route, HTTPRoute)
        for method, (handler, _) in route.route_handler_map.items()
        if method != "OPTIONS"
    ]
    uploads = {(method, path) for method, path, handler in handlers if handler.operation_class is UploadOperation}
    assert len(uploads) == 2
    assert {route for route, rule in RULES.items() if rule.streams} == uploads


@pytest.mark.parametrize(
    ("junk", "wrong"), [("".join(f"&f{number}" for number in range(100)), "100 fields"), ("&z=\udcff", "not UTF-8")]
)
def test_a_form_that_cannot_be_noted_is_not_done(app: Application, junk: str, wrong: str) -> None:
    heard_of(app, "pi-1")
    app.client.post("/api/v1/session", json={"name": "anna", "password": PASSWORD})
    fields = "package=tacho&version=1.0.0&sure=yes"
    headers = {**OWN, **FORM, "Accept": "text/html"}

    def sent(text: str) -> tuple[int, str]:
        content = text.encode(errors="surrogateescape")
        answer = app.client.post("/devices/pi-1/do/pin", content=content, headers=headers, follow_redirects=False)
        return answer.status_code, answer.text

    status, text = sent(fields + junk)
    assert (status, wrong in text) == (400, True)
    desired = app.client.get("/api/v1/devices/pi-1/desired", headers=bearer(FILE_TOKEN))
    assert not desired.json().get("pins"), desired.json()
    assert sent(fields)[0] == 303
    assert json.loads(newest(app).detail)["version"] == "1.0.0"


@pytest.mark.parametrize("junk", ["z=" + "x" * 4000, "&".join(f"z{number}=x" for number in range(90))])
def test_what_is_asked_for_is_not_hidden_behind_what_is_not(app: Application, junk: str) -> None:
    heard_of(app, "pi-1")
    app.client.post("/api/v1/session", json={"name": "anna", "password": PASSWORD})
    form = f"{junk}&package=tacho&version=1.0.0&sure=yes"
    sent = app.client.post("/devices/pi-1/do/pin", content=form, headers={**OWN, **FORM}, follow_redirects=False)
    assert sent.status_code == 303
    assert '"version":"1.0.0"' in newest(app).detail
    assert '"package":"tacho"' in newest(app).detail
    wish = {"tags": {f"t{number}": "x" * 60 for number in range(30)}, "pins": {"tacho": "1.1.0"}}
    assert app.client.put("/api/v1/devices/pi-1/desired", json=wish, headers=bearer(FILE_TOKEN)).status_code == 200
    assert '"pins":{"tacho":"1.1.0"}' in newest(app).detail
    assert len(newest(app).detail) <= MAX_DETAIL


def test_every_name_that_a_row_can_have_is_among_those_that_are_said_to_be() -> None:
    known = actions()
    for name in ("device.pin", "device.desired", "device.rollback", "rollout.halt", "package.unyank", "login"):
        assert name in known
    assert len(known) == len(set(known))
    assert not [name for name in known if name.endswith(".do")]


def test_what_a_role_does_not_allow_is_noted_and_what_strangers_try_is_not(app: Application) -> None:
    viewer = app.token(Role.VIEWER, "reader")
    assert app.client.post("/api/v1/releases", json=RELEASE, headers=viewer).status_code == 403
    row = newest(app)
    assert (row.actor, row.action, row.result, row.status) == ("token:reader", "release.announce", "auth.denied", 403)
    assert app.client.post("/api/v1/releases", json=RELEASE).status_code == 401
    assert newest(app) == row


def test_logins_are_noted_with_the_name_and_without_the_password(app: Application) -> None:
    for password in ("wrong horse battery", PASSWORD):
        app.client.post("/api/v1/session", json={"name": "anna", "password": password})
    good, wrong = app.audit.entries(limit=2)
    assert (good.actor, good.action, good.target, good.result) == ("user:anna", "login", "anna", "done")
    assert (wrong.actor, wrong.action, wrong.target, wrong.result) == ("nobody", "login", "anna", "auth.refused")
    app.client.post(
        "/login", data={"name": "anna", "password": PASSWORD, "next": "/"}, headers=OWN, follow_redirects=False
    )
    assert newest(app).via == "page"
    users = {"name": "ben", "role": "viewer", "password": PASSWORD}
    app.client.post("/api/v1/users", json=users, headers=bearer(FILE_TOKEN))
    assert (newest(app).action, newest(app).target) == ("user.add", "ben")
    everything = str(app.audit.entries(limit=100))
    assert "horse battery" not in everything


def test_tries_that_are_refused_unseen_do_not_fill_the_log(app: Application) -> None:
    statuses = [
        app.client.post("/api/v1/session", json={"name": "anna", "password": "wrong horse"}).status_code
        for _ in range(12)
    ]
    assert len(app.audit.entries(action="login")) == statuses.count(401) < 12


def test_strangers_cannot_fill_the_log_with_what_is_no_login(app: Application) -> None:
    assert app.client.post("/api/v1/session", json={"much": "x" * 1000}).status_code == 400
    assert app.client.post("/login", content=b"?", headers={**OWN, "Content-Type": "text/plain"}).status_code == 415
    assert app.audit.entries() == []


def test_what_only_asks_is_not_noted(app: Application) -> None:
    headers = bearer(FILE_TOKEN)
    app.client.post("/api/v1/packages/retire", json={}, headers=headers)
    app.client.post("/api/v1/releases/preflight", json=RELEASE, headers=headers)
    app.client.get("/api/v1/packages", headers=headers)
    assert app.audit.entries() == []
    app.client.post("/api/v1/packages/retire", json={"dry_run": False}, headers=headers)
    assert newest(app).action == "package.retire"


def test_every_route_that_can_change_something_has_a_name_in_the_log() -> None:
    asks_only = {("POST", "/api/v1/releases/preflight")}
    for (method, path), rule in RULES.items():
        changes = method in {"POST", "PUT", "PATCH", "DELETE"} and (method, path) not in asks_only
        assert changes == (rule.action is not None), (method, path)


def test_the_log_is_read_in_pages_over_the_api(app: Application) -> None:
    headers = {**bearer(FILE_TOKEN), **JSON}
    for number in range(5):
        app.client.delete(f"/api/v1/tokens/t{number}", headers=headers)
    seen: list[str] = []
    query: dict[str, str] = {"limit": "2"}
    while True:
        page = app.client.get("/api/v1/audit", params=query, headers=headers).json()
        seen += [row["target"] for row in page["items"]]
        if page["next"] is None:
            break
        query["after"] = page["next"]
    assert seen == ["t4", "t3", "t2", "t1", "t0"]
    only = app.client.get("/api/v1/audit", params={"actor": "user:anna"}, headers=headers).json()
    assert only == {"items": [], "next": None}


def test_a_log_that_cannot_be_written_does_not_hide_that_the_change_is_made(
    app: Application, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OperatorError("disk.full", "no room")

    monkeypatch.setattr(AuditLog, "write", full)
    assert app.client.post("/api/v1/releases", json=RELEASE, headers=bearer(FILE_TOKEN)).status_code == 201
    assert "the audit log could not be written: release.announce" in caplog.text
