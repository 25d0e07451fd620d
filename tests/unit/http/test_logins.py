"""Logging in over HTTP: cookies, other sites' pages, guessing, and credentials that are over."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from anyio import sleep_forever
from sqlalchemy import event, update

from controller.accounts import people
from controller.accounts.passwords import MAX_LENGTH
from controller.accounts.people import IDLE, MAX_SESSIONS, People
from controller.accounts.roles import Role
from controller.accounts.tables import sessions
from controller.accounts.throttle import PAIR
from controller.database import reading, to_db, utc_now, writing
from controller.http import access
from controller.http.guard import COOKIE
from controller.http.login import local_path
from controller.http.rules import MAX_LOGIN_BYTES
from tests.support.in_process import FILE_TOKEN, HOST, JSON, PASSWORD, Application, application, bearer

OWN = {"Origin": f"http://{HOST}"}
HALT = ("POST", "/api/v1/rollouts/none/state")
WISH = {"state": "halted"}


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Application]:
    with application(tmp_path) as made:
        made.people.add("anna", Role.OPERATOR, PASSWORD)
        yield made


def log_in(app: Application, password: str = PASSWORD, name: str = "anna", **more: Any) -> httpx.Response:
    return app.client.post("/api/v1/session", json={"name": name, "password": password}, **more)


def problem(answer: httpx.Response, status: int, code: str) -> str:
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    assert answer.json()["code"] == code
    detail: str = answer.json()["detail"]
    return detail


def test_the_right_password_begins_a_session(app: Application) -> None:
    answer = log_in(app)
    assert answer.status_code == 200
    assert answer.json() == {"kind": "user", "name": "anna", "role": "operator"}
    assert app.client.get("/api/v1/session").json() == answer.json()
    assert app.client.get("/api/v1/devices").status_code == 200
    # nothing of the session's rollout is there, but anna may ask
    problem(app.client.request(*HALT, json=WISH, headers=OWN), 404, "rollout.unknown")


def test_a_wrong_password_begins_none(app: Application) -> None:
    for name, password in (("anna", "wrong horse battery"), ("nobody", PASSWORD)):
        answer = log_in(app, password, name)
        assert problem(answer, 401, "auth.refused") == "the name or the password is wrong"
        assert "set-cookie" not in answer.headers
    problem(app.client.get("/api/v1/devices"), 401, "auth.refused")


def test_the_cookie_is_for_this_server_s_own_pages_and_no_script(app: Application) -> None:
    cookie = log_in(app).headers["set-cookie"]
    parts = {part.strip().lower() for part in cookie.split(";")[1:]}
    assert {"httponly", "samesite=strict", "path=/"} <= parts
    assert "secure" not in parts
    assert not any(part.startswith("domain") for part in parts)


def test_where_tls_is_in_front_the_cookie_goes_over_tls_only(tmp_path: Path) -> None:
    with application(tmp_path, base=f"https://{HOST}") as app:
        app.people.add("anna", Role.VIEWER, PASSWORD)
        assert "secure" in log_in(app).headers["set-cookie"].lower()


def test_a_session_that_was_not_used_for_long_is_over(app: Application) -> None:
    log_in(app)
    assert app.client.get("/api/v1/devices").status_code == 200
    with writing(app.engine) as connection:
        connection.execute(update(sessions).values(seen_at=to_db(utc_now() - IDLE)))
    problem(app.client.get("/api/v1/devices"), 401, "auth.refused")


def test_after_the_logout_the_cookie_is_good_for_nothing(app: Application) -> None:
    log_in(app)
    stolen = app.client.cookies[COOKIE]
    answer = app.client.request("DELETE", "/api/v1/session", headers=OWN)
    assert answer.status_code == 204
    assert "max-age=0" in answer.headers["set-cookie"].lower()
    app.client.cookies.clear()
    app.client.cookies.set(COOKIE, stolen)
    problem(app.client.get("/api/v1/devices"), 401, "auth.refused")


def test_a_role_that_is_not_enough_is_told_which_would_be(app: Application) -> None:
    log_in(app)
    answer = app.client.post("/api/v1/releases", json={}, headers=OWN)
    assert problem(answer, 403, "auth.denied") == "this needs the role publisher; user:anna has the role operator"
    app.people.set_role("anna", Role.PUBLISHER)
    problem(app.client.post("/api/v1/releases", json={}, headers=OWN), 401, "auth.refused")
    log_in(app)
    problem(app.client.post("/api/v1/releases", json={}, headers=OWN), 400, "input.bad")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "null"},
        {"Origin": "http://evil.example"},
        {"Origin": f"http://{HOST}.evil.example"},
        {"Origin": f"http://{HOST}1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {**OWN, "Sec-Fetch-Site": "cross-site"},
    ],
)
def test_with_a_cookie_another_site_s_page_changes_nothing(app: Application, headers: dict[str, str]) -> None:
    """SameSite keeps the cookie away from such requests; this holds where a browser does not know of it."""
    log_in(app)
    assert "other sites" in problem(app.client.request(*HALT, json=WISH, headers=headers), 403, "input.bad")
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert app.client.post("/logout", headers={**headers, **form}).status_code == 403
    assert app.client.get("/api/v1/session").status_code == 200


@pytest.mark.parametrize("headers", [OWN, {"Sec-Fetch-Site": "same-origin", "Origin": "http://behind.a.proxy"}])
def test_the_server_s_own_page_is_let_through(app: Application, headers: dict[str, str]) -> None:
    log_in(app)
    problem(app.client.request(*HALT, json=WISH, headers=headers), 404, "rollout.unknown")


def test_a_token_needs_no_page(app: Application) -> None:
    problem(app.client.request(*HALT, json=WISH, headers=app.token(Role.OPERATOR)), 404, "rollout.unknown")


def test_a_revoked_token_and_one_that_has_ended_are_refused(app: Application) -> None:
    headers = app.token(Role.VIEWER, "ci")
    assert app.client.get("/api/v1/devices", headers=headers).status_code == 200
    assert app.client.delete("/api/v1/tokens/ci", headers={**bearer(FILE_TOKEN), **JSON}).status_code == 204
    problem(app.client.get("/api/v1/devices", headers=headers), 401, "auth.refused")
    made = app.client.post(
        "/api/v1/tokens", json={"name": "short", "role": "viewer", "expires_days": 1e-9}, headers=bearer(FILE_TOKEN)
    ).json()
    problem(app.client.get("/api/v1/devices", headers=bearer(made["token"])), 401, "auth.refused")


def test_a_token_that_is_not_known_is_told_apart_from_none_and_not_from_another(app: Application) -> None:
    revoked = app.token(Role.VIEWER, "ci")
    assert app.client.delete("/api/v1/tokens/ci", headers={**bearer(FILE_TOKEN), **JSON}).status_code == 204
    wrong = [revoked, bearer("wrong"), bearer(f"{FILE_TOKEN}x"), bearer(FILE_TOKEN[:-1])]
    said = {problem(app.client.get("/api/v1/devices", headers=one), 401, "auth.refused") for one in wrong}
    assert said == {"this controller does not know that token (--token or FLOTILLA_TOKEN); see: flotilla token --help"}
    assert "needs a login or a token" in problem(app.client.get("/api/v1/devices"), 401, "auth.refused")


def test_the_token_of_the_data_folder_may_do_everything_and_is_not_revoked_from_here(app: Application) -> None:
    headers = {**bearer(FILE_TOKEN), **JSON}
    assert app.client.get("/api/v1/session", headers=headers).json() == {
        "kind": "token",
        "name": "api-token",
        "role": "admin",
    }
    assert "data folder" in problem(app.client.delete("/api/v1/tokens/api-token", headers=headers), 400, "input.bad")


def test_guessing_is_slowed_down(app: Application) -> None:
    for _ in range(PAIR.tries):
        problem(log_in(app, "wrong horse battery"), 401, "auth.refused")
    for password in ("wrong horse battery", PASSWORD):
        answer = log_in(app, password)
        assert "try again in" in problem(answer, 429, "auth.limit")
        assert 0 < int(answer.headers["retry-after"]) <= PAIR.every_s + 1
    # nobody else has to wait, and no token
    app.people.add("ben", Role.VIEWER, PASSWORD)
    assert log_in(app, name="ben").status_code == 200
    assert app.client.get("/api/v1/devices", headers=bearer(FILE_TOKEN)).status_code == 200


def test_a_person_changes_their_own_password_with_the_old_one(app: Application) -> None:
    log_in(app)
    wish = {"password": "wrong horse battery", "new_password": "another horse battery"}
    problem(app.client.put("/api/v1/session/password", json=wish, headers=OWN), 401, "auth.refused")
    wish["password"] = PASSWORD
    assert app.client.put("/api/v1/session/password", json=wish, headers=OWN).status_code == 204
    problem(app.client.get("/api/v1/session"), 401, "auth.refused")
    assert log_in(app, "another horse battery").status_code == 200
    problem(app.client.put("/api/v1/session/password", json=wish, headers=bearer(FILE_TOKEN)), 400, "input.bad")


def test_a_new_password_that_cannot_be_leaves_all_as_it_was(app: Application) -> None:
    log_in(app)
    own = app.client.cookies[COOKIE]
    for old in (PASSWORD, "wrong horse battery") * (MAX_SESSIONS // 2 + 1):
        wish = {"password": old, "new_password": "short"}
        assert "characters" in problem(
            app.client.put("/api/v1/session/password", json=wish, headers=OWN), 400, "input.bad"
        )
    assert app.people.get("anna").sessions == 1
    assert app.people.who(own) is not None
    app.client.cookies.clear()
    assert log_in(app).status_code == 200


def test_a_password_that_is_changed_meanwhile_is_not_changed_again(
    app: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(app)
    real = people.is_right

    def and_then_another_is_set(kept: str | None, password: str) -> bool:
        right = real(kept, password)
        app.people.set_password("anna", "the other horse battery")
        return right

    monkeypatch.setattr(people, "is_right", and_then_another_is_set)
    wish = {"password": PASSWORD, "new_password": "another horse battery"}
    problem(app.client.put("/api/v1/session/password", json=wish, headers=OWN), 401, "auth.refused")
    monkeypatch.undo()
    assert log_in(app, "the other horse battery").status_code == 200


def test_old_passwords_are_not_guessed_by_changing_them(app: Application) -> None:
    log_in(app)
    wish = {"password": "wrong horse battery", "new_password": "another horse battery"}
    answers = [app.client.put("/api/v1/session/password", json=wish, headers=OWN) for _ in range(PAIR.tries + 1)]
    assert [one.status_code for one in answers] == [401] * PAIR.tries + [429]


def test_a_session_is_looked_up_as_often_as_it_is_asked_for(app: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cache that could let somebody in after the account is gone."""
    log_in(app)
    assert app.client.get("/api/v1/devices").status_code == 200
    app.people.remove("anna")
    problem(app.client.get("/api/v1/devices"), 401, "auth.refused")
    asked: list[str] = []
    monkeypatch.setattr(People, "who", lambda _self, secret, **_: asked.append(secret))
    app.client.get("/api/v1/devices")
    assert len(asked) == 1


# The page


def form(app: Application, name: str = "anna", password: str = PASSWORD, **fields: str) -> httpx.Response:
    return app.client.post(
        "/login", data={"name": name, "password": password, **fields}, headers=OWN, follow_redirects=False
    )


@pytest.mark.parametrize("path", ["/login", "/api/v1/session"])
def test_of_strangers_no_more_is_read_than_a_login_can_be(app: Application, path: str) -> None:
    longest = "\U0001f6a2" * MAX_LENGTH
    app.people.set_password("anna", longest)
    fields = {"name": "anna", "password": longest}
    if path == "/login":
        kind, content = "application/x-www-form-urlencoded", urlencode({**fields, "next": "/devices"}).encode()
    else:
        kind, content = "application/json", json.dumps(fields).encode()

    def sent(more: bytes) -> httpx.Response:
        headers = {**OWN, "Content-Type": kind}
        return app.client.post(path, content=content + more, headers=headers, follow_redirects=False)

    assert len(content) > MAX_LOGIN_BYTES * 0.7
    assert sent(b"").status_code in (200, 303)
    assert sent(b" " * MAX_LOGIN_BYTES).status_code == 413
    # and it is no try that counts, so that it is not in the log either
    assert [row.status for row in app.audit.entries(action="login")][1:] == []


def test_a_browser_without_a_session_is_sent_to_log_in_and_comes_back(app: Application) -> None:
    html = {"Accept": "text/html,application/xhtml+xml"}
    sent = app.client.get("/devices?channel=beta", headers=html, follow_redirects=False)
    assert (sent.status_code, sent.headers["location"]) == (303, "/login?next=/devices%3Fchannel%3Dbeta")
    shown = app.client.get(sent.headers["location"], headers=html)
    assert 'value="/devices?channel=beta"' in shown.text
    assert "unsafe-eval" not in shown.headers["content-security-policy"]
    entered = form(app, next="/devices?channel=beta")
    assert (entered.status_code, entered.headers["location"]) == (303, "/devices?channel=beta")
    assert app.client.get("/devices", headers=html, follow_redirects=False).status_code == 200
    left = app.client.post("/logout", data={}, headers=OWN, follow_redirects=False)
    assert (left.status_code, left.headers["location"]) == (303, "/login")
    assert app.client.get("/devices", headers=html, follow_redirects=False).status_code == 303


def test_a_part_of_a_page_sends_the_whole_page_to_log_in(app: Application) -> None:
    answer = app.client.get("/devices", headers={"Accept": "text/html", "HX-Request": "true"}, follow_redirects=False)
    assert (answer.status_code, answer.headers["hx-redirect"]) == (401, "/login")


def test_the_form_shows_what_is_wrong_and_keeps_the_name_only(app: Application) -> None:
    for _ in range(PAIR.tries):
        shown = form(app, password="wrong horse battery", next='/"><script>')
        assert shown.status_code == 401
        assert "the name or the password is wrong" in shown.text
        assert 'value="anna"' in shown.text
        assert "wrong horse battery" not in shown.text
        assert "<script>" not in shown.text
    assert form(app).status_code == 429


def test_another_site_s_page_logs_nobody_in(app: Application) -> None:
    fields = {"name": "anna", "password": PASSWORD}
    for headers in ({}, {"Origin": "http://evil.example"}, {**OWN, "Sec-Fetch-Site": "cross-site"}):
        answer = app.client.post("/login", data=fields, headers=headers)
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "wanted", [None, "", "https://evil.example", "//evil.example/x", "/\\evil.example", "evil", "/a\nb", "javascript:a"]
)
def test_after_the_login_nobody_is_sent_elsewhere(wanted: str | None) -> None:
    assert local_path(wanted) == "/"
    assert local_path("/rollouts/1?did=halt") == "/rollouts/1?did=halt"


# Where only this machine can connect


def test_on_loopback_nobody_has_to_say_who_they_are_but_may(tmp_path: Path) -> None:
    with application(tmp_path, token=None, base="http://127.0.0.1:8420") as app:
        assert app.client.get("/api/v1/session").json() == {"kind": "local", "name": "loopback", "role": "admin"}
        app.people.add("anna", Role.VIEWER, PASSWORD)
        assert log_in(app).status_code == 200
        assert app.client.get("/api/v1/session").json()["name"] == "anna"
        own = {"Origin": "http://127.0.0.1:8420"}
        problem(app.client.request(*HALT, json=WISH, headers=own), 403, "auth.denied")


def test_logins_wait_for_each_other_only_so_long(app: Application) -> None:
    """A flood of logins takes the memory of two checks and no more; the rest is refused at once."""
    started = time.monotonic()
    answers = [log_in(app, "wrong horse battery", f"person-{number}") for number in range(30)]
    assert {answer.status_code for answer in answers} == {401, 429}
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("origin", ["http://[", "http://[fleet.example"])
def test_an_origin_that_is_no_address_is_another_site(app: Application, origin: str) -> None:
    log_in(app)
    for path in ("/login", "/logout", "/rollouts/none/do/pause"):
        answer = app.client.post(path, data={"name": "anna"}, headers={"Origin": origin})
        assert answer.status_code == 403, path


def test_a_name_that_no_account_can_have_is_not_looked_up(app: Application) -> None:
    asked: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "FROM users" in statement:
            asked.append(repr(parameters))

    with reading(app.engine) as connection:
        asking = connection.engine
    event.listen(asking, "before_cursor_execute", note)
    problem(log_in(app, name="bert"), 401, "auth.refused")
    assert any("bert" in one for one in asked)
    problem(log_in(app, name="an na"), 401, "auth.refused")
    assert not any("an na" in one for one in asked)
    # PostgreSQL takes no NUL, and would answer with an error
    problem(log_in(app, name="anna\0"), 400, "input.bad")
    assert not any("anna\\x00" in one for one in asked)


def test_a_body_that_does_not_come_is_not_waited_for_for_ever(
    app: Application, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def stalls(*_: object) -> bytes:
        await sleep_forever()
        return b""

    monkeypatch.setattr(access, "READ_S", 0.01)
    monkeypatch.setattr(access, "read_all", stalls)
    assert "within 0.01 s" in problem(log_in(app), 408, "input.bad")
    assert "Traceback" not in caplog.text
