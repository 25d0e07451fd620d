"""Whatever goes wrong, it is told as problem details (RFC 9457), at every status."""

from collections.abc import Iterator
from http import HTTPStatus

import httpx
import pytest

from controller.fleet.registry import DeviceRegistry
from controller.http.access import MAX_WISH_BYTES
from controller.http.problems import status_of
from schemas.errors import CODES, OperatorError
from tests.support.in_process import FILE_TOKEN, JSON, Application, application, bearer

ALL = bearer(FILE_TOKEN)
SENT = {**ALL, **JSON}
NO_ROLLOUT = "0198a1b2-c3d4-7e5f-8a6b-0123456789ab"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    with application(tmp_path_factory.mktemp("problems")) as made:
        yield made


def problem(answer: httpx.Response, status: int) -> str:
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    found = answer.json()
    assert set(found) == {"type", "title", "status", "detail", "code"}
    # RFC 9457, 4.2.1: with that type, the title is the status' phrase
    assert (found["type"], found["title"], found["status"]) == ("about:blank", HTTPStatus(status).phrase, status)
    assert found["code"] in CODES
    assert found["detail"]
    assert "\n" not in found["detail"]
    assert "Traceback" not in answer.text
    code: str = found["code"]
    return code


@pytest.mark.parametrize(
    ("request_line", "body", "headers", "status"),
    [
        ("POST /api/v1/releases", b"{", SENT, 400),
        ("POST /api/v1/releases", b"[" * 100_000, SENT, 400),
        ("POST /api/v1/releases", b'{"package": 1}', SENT, 400),
        ("POST /api/v1/releases", b"\xff\xfe", SENT, 400),
        ("POST /api/v1/releases", b'{"package": "\xff"}', SENT, 400),
        ("POST /api/v1/releases/sets", b'{"\xff": 1}', SENT, 400),
        ("GET /api/v1/devices?limit=0", b"", ALL, 400),
        ("GET /api/v1/devices?limit=x", b"", ALL, 400),
        ("GET /api/v1/audit?after=-1", b"", ALL, 400),
        ("GET /api/v1/devices", b"", {}, 401),
        ("GET /api/v1/nothing", b"", ALL, 404),
        ("GET /api/v1/devices/nobody", b"", ALL, 404),
        ("GET /api/v1/rollouts/none", b"", ALL, 404),
        ("DELETE /api/v1/users/nobody", b"", ALL, 404),
        ("DELETE /api/v1/devices", b"", ALL, 405),
        ("PATCH /api/v1/releases", b"{}", SENT, 405),
        ("POST /api/v1/releases", b"x" * (MAX_WISH_BYTES + 1), SENT, 413),
        ("POST /api/v1/releases", b"a=b", {**ALL, "Content-Type": "application/x-www-form-urlencoded"}, 415),
        ("POST /api/v1/packages", b"{}", SENT, 415),
        ("POST /api/v1/packages", b"nothing", {**ALL, "Content-Type": "application/octet-stream"}, 422),
    ],
)
def test_what_is_wrong_with_a_request(
    app: Application, request_line: str, body: bytes, headers: dict[str, str], status: int
) -> None:
    method, path = request_line.split()
    answer = app.client.request(method, path, content=body, headers=headers)
    problem(answer, status)
    if status == 401:
        assert answer.headers["www-authenticate"] == "Bearer"
    if status == 405:
        assert answer.headers["allow"]


@pytest.mark.parametrize(
    ("request_line", "wish", "says"),
    [
        ("PUT devices/pi-1/desired", {"tags": {"a b": "c"}}, "tags: must be a key: letters, digits, "),
        ("PUT devices/pi-1/desired", {"tags": {"a": "b" * 300}}, "a value of tags: must be text of at most 256 ch"),
        ("PUT devices/pi-1/desired", {"pins": {"nix": "1"}}, "a value of pins: must be a full version such as 1.2.0"),
        ("PUT devices/pi-1/desired", {"channel": "No Good"}, "channel: must be a short name: a-z, 0-9 and '-'"),
        ("PUT devices/pi-1/desired", {"hold": "x"}, "hold: must be true or false, not text"),
        ("POST users", {"name": "A b", "role": "viewer", "password": "x"}, "name: must be a name: a-z, 0-9, '.'"),
        ("POST tokens", {"name": "A b", "role": "viewer"}, "name: must be a name: a-z, 0-9, '.', '_', '@' and '-'"),
        ("POST tokens", {"name": "ab", "role": "chef"}, "role: 'chef' is none of its values; GET /api/docs shows them"),
        ("POST tokens", {"name": "ab"}, "lacks the field role"),
        ("GET devices?limit=x", None, "limit: must be a whole number, not text"),
    ],
)
def test_what_is_wrong_with_a_value_is_said_in_words(
    app: Application, request_line: str, wish: object, says: str
) -> None:
    method, path = request_line.split()
    answer = app.client.request(method, f"/api/v1/{path}", json=wish, headers=ALL)
    assert problem(answer, 400) == "input.bad"
    assert answer.json()["detail"].startswith(says)


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("releases", b"{", "input data was truncated"),
        ("tokens", b"{", "input data was truncated"),
        ("releases", b'{"package" 1}', "expected ':' (byte 11)"),
        ("session", b"{} {}", "trailing characters (byte 4)"),
        ("releases/sets", b"name=tacho", "invalid character (byte 4)"),
    ],
)
def test_a_body_that_is_no_json_is_said_to_be_none(app: Application, path: str, body: bytes, says: str) -> None:
    answer = app.client.post(f"/api/v1/{path}", content=body, headers=SENT)
    assert problem(answer, 400) == "input.bad"
    assert answer.json()["detail"] == f"the body is no JSON: {says}"
    assert app.client.post(f"/api/v1/{path}", headers=SENT).json()["detail"] == "the body is empty; it has to be JSON"


def test_a_method_that_is_not_for_an_address_is_told_which_are(app: Application) -> None:
    answer = app.client.get("/api/v1/releases", headers=ALL)
    problem(answer, 405)
    assert "POST" in answer.headers["allow"].split(", ")
    assert answer.json()["detail"] == "GET is not for /api/v1/releases, which takes POST"
    several = app.client.patch("/api/v1/packages/tacho/1.0.0", headers=ALL)
    assert several.json()["detail"].endswith("/1.0.0, which takes DELETE and GET")
    shown = app.client.put("/devices", headers={**ALL, "Accept": "text/html"})
    assert shown.status_code == 405
    assert "GET" in shown.headers["allow"].split(", ")
    assert "PUT is not for /devices, which takes GET" in shown.text


@pytest.mark.parametrize("path", ["rollouts", "devices", "users", "tokens", "packages"])
def test_what_is_no_page_s_next_is_refused(app: Application, path: str) -> None:
    answer = app.client.get(f"/api/v1/{path}", params={"after": "No such!"}, headers=ALL)
    assert problem(answer, 400) == "input.bad"
    assert "'No such!'" in answer.json()["detail"]
    assert app.client.get(f"/api/v1/{path}", params={"limit": "1"}, headers=ALL).json()["items"] == []


def test_a_word_is_no_rollout_after_which_others_come(app: Application) -> None:
    answer = app.client.get("/api/v1/rollouts?after=foo", headers=ALL)
    assert problem(answer, 400) == "input.bad"
    assert answer.json()["detail"] == "after: 'foo' is no page's next; leave it out for the first page"
    assert app.client.get(f"/api/v1/rollouts?after={NO_ROLLOUT}", headers=ALL).json()["items"] == []
    for after in ("-1", "99999999999999999999", "x"):
        problem(app.client.get(f"/api/v1/devices/pi-1/events?after={after}", headers=ALL), 400)
    problem(app.client.get("/api/v1/devices/pi-1/commands?after=x", headers=ALL), 400)


def test_a_defect_is_told_without_its_inside(app: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("the secret inside")

    monkeypatch.setattr(DeviceRegistry, "devices", broken)
    answer = app.client.get("/api/v1/devices", headers=ALL)
    assert problem(answer, 500) == "internal.error"
    assert "secret" not in answer.text


def test_every_code_has_a_status_that_blames_the_right_side() -> None:
    for code in ("account.unknown", "rollout.unknown"):
        assert status_of(OperatorError(code, "x")) == 404
    assert status_of(OperatorError("auth.denied", "x")) == 403
    assert status_of(OperatorError("request.key", "x")) == 422
    assert all(400 <= status_of(OperatorError(code, "x")) < 600 for code in CODES)
