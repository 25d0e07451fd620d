"""Requests that are sent again because their answer was lost are done once."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from controller.accounts.answers import KEEP
from controller.accounts.roles import Role
from controller.accounts.tables import answers
from controller.database import reading
from controller.fleet.steering import Steering
from controller.http.rules import RULES, V1
from tests.support.in_process import FILE_TOKEN, PASSWORD, Application, application, bearer
from tests.support.repository import add_release, make_package

RELEASE = {"package": "tacho", "version": "1.0.0", "channel": "stable"}
PACKAGE = {"Content-Type": "application/octet-stream"}
ONCE_ONLY = {
    ("POST", f"{V1}/session"): "its answer holds the cookie of a session",
    ("DELETE", f"{V1}/session"): "whoever asks is known by the session that it ends",
    ("PUT", f"{V1}/session/password"): "whoever asks is known by a session that it ends",
    ("POST", f"{V1}/tokens"): "its answer holds the token",
}
"""Changes over the API of which no answer is kept, and why."""


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Application]:
    with application(tmp_path / "data") as made:
        add_release(made.repository, "tacho", "1.0.0", {"a": "a"})
        yield made


@pytest.fixture
def publisher(app: Application) -> dict[str, str]:
    return app.token(Role.PUBLISHER)


def release(app: Application, headers: dict[str, str], key: str | None, **changed: Any) -> httpx.Response:
    keyed = {} if key is None else {"Idempotency-Key": key}
    return app.client.post("/api/v1/releases", json={**RELEASE, **changed}, headers={**headers, **keyed})


def rollouts(app: Application, headers: dict[str, str]) -> list[str]:
    return [one["id"] for one in app.client.get("/api/v1/rollouts", headers=headers).json()["items"]]


def test_the_same_key_gets_the_same_answer_and_is_done_once(app: Application, publisher: dict[str, str]) -> None:
    first = release(app, publisher, "key-1")
    again = release(app, publisher, "key-1")
    assert first.status_code == again.status_code == 201
    assert first.content == again.content
    assert first.headers["content-type"] == again.headers["content-type"]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert rollouts(app, publisher) == [first.json()["id"]]
    # and without a key it is another rollout
    release(app, publisher, None)
    assert len(rollouts(app, publisher)) == 2


def test_what_is_kept_of_a_request_cannot_be_guessed_without_its_key(app: Application) -> None:
    # a new account's password is in the request, and a plain hash of it would be faster to guess than argon2's
    admin = bearer(FILE_TOKEN)
    for key in ("key-1", "key-2"):
        wish = {"name": "ben", "role": "viewer", "password": PASSWORD}
        app.client.post("/api/v1/users", json=wish, headers={**admin, "Idempotency-Key": key})
    with reading(app.engine) as connection:
        kept = connection.scalars(select(answers.c.request)).all()
    assert len(kept) == len(set(kept)) == 2


def test_the_same_key_with_another_request_is_an_error(app: Application, publisher: dict[str, str]) -> None:
    release(app, publisher, "key-1")
    for answer in (
        release(app, publisher, "key-1", channel="beta"),
        app.client.post("/api/v1/releases/sets", json=RELEASE, headers={**publisher, "Idempotency-Key": "key-1"}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (422, "request.key")
    assert len(rollouts(app, publisher)) == 1


def test_one_asker_s_key_is_not_another_s(app: Application, publisher: dict[str, str]) -> None:
    release(app, publisher, "key-1")
    other = release(app, app.token(Role.PUBLISHER, "other"), "key-1")
    assert "idempotency-replayed" not in other.headers
    assert len(rollouts(app, publisher)) == 2


def test_a_request_that_was_refused_is_refused_again(app: Application, publisher: dict[str, str]) -> None:
    refused = release(app, publisher, "key-1", version="9.9.9")
    assert refused.status_code == 404
    add_release(app.repository, "tacho", "9.9.9", {"a": "b"})
    again = release(app, publisher, "key-1", version="9.9.9")
    assert (again.status_code, again.content) == (404, refused.content)
    assert again.headers["content-type"] == "application/problem+json"


def test_a_request_that_failed_in_the_controller_is_done_again(
    app: Application, publisher: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Steering, "create_release", lambda *_, **__: 1 / 0)
        assert release(app, publisher, "key-1").status_code == 500
    assert release(app, publisher, "key-1").status_code == 201


def test_whoever_lost_the_role_does_not_get_the_answer(app: Application) -> None:
    app.people.add("anna", Role.PUBLISHER, PASSWORD)
    own = {"Origin": "http://fleet.example:8420"}
    app.client.post("/api/v1/session", json={"name": "anna", "password": PASSWORD})
    assert release(app, own, "key-1").status_code == 201
    app.people.set_role("anna", Role.VIEWER)
    app.client.post("/api/v1/session", json={"name": "anna", "password": PASSWORD})
    assert release(app, own, "key-1").status_code == 403


def test_a_request_that_is_still_under_way_is_not_begun_again(
    app: Application, publisher: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    real = Steering.create_release

    def slowly(self: Steering, **wish: Any) -> Any:
        begun.set()
        assert go_on.wait(30)
        return real(self, **wish)

    monkeypatch.setattr(Steering, "create_release", slowly)
    answers: list[httpx.Response] = []
    first = threading.Thread(target=lambda: answers.append(release(app, publisher, "key-1")))
    first.start()
    assert begun.wait(30)
    second = release(app, publisher, "key-1")
    assert (second.status_code, second.json()["code"]) == (409, "request.running")
    go_on.set()
    first.join(30)
    assert answers[0].status_code == 201
    assert release(app, publisher, "key-1").content == answers[0].content


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_a_key_that_is_none_is_refused(app: Application, publisher: dict[str, str], key: str) -> None:
    answer = release(app, publisher, key)
    assert (answer.status_code, answer.json()["code"]) == (400, "input.bad")


def test_an_upload_is_compared_by_its_content(app: Application, publisher: dict[str, str], tmp_path: Path) -> None:
    package = make_package(tmp_path, "needle", "1.0.0", {"a": "a" * 100_000}).read_bytes()
    other = make_package(tmp_path, "needle", "2.0.0", {"a": "b" * 100_000}).read_bytes()
    headers = {**publisher, **PACKAGE, "Idempotency-Key": "key-1"}
    first = app.client.post("/api/v1/packages", content=package, headers=headers)
    assert first.status_code == 201
    again = app.client.post("/api/v1/packages", content=package, headers=headers)
    # without the key it would say that it was there already, with 200
    assert (again.status_code, again.content) == (201, first.content)
    refused = app.client.post("/api/v1/packages", content=other, headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (422, "request.key")


def test_the_secret_of_a_new_token_is_not_kept_for_a_retry(app: Application) -> None:
    headers = {**app.token(Role.ADMIN), "Idempotency-Key": "key-1"}
    wish = {"name": "ci", "role": "viewer"}
    made = app.client.post("/api/v1/tokens", json=wish, headers=headers)
    assert made.status_code == 201
    assert app.client.post("/api/v1/tokens", json=wish, headers=headers).status_code == 409
    database = app.engine.url.database
    assert database is not None
    assert made.json()["token"].encode() not in Path(database).read_bytes()
    assert KEEP.total_seconds() == 24 * 3600


def test_every_change_over_the_api_can_be_sent_again_but_for_those_that_are_named_here() -> None:
    changes = {route for route, rule in RULES.items() if route[1].startswith(V1) and rule.action is not None}
    assert len(changes) > len(ONCE_ONLY)
    assert {route for route in changes if not RULES[route].repeatable} == set(ONCE_ONLY)
