"""Whatever goes wrong, it is told as problem details (RFC 9457), at every status."""

from collections.abc import Iterator
from http import HTTPStatus

import httpx
import pytest

from controller.fleet.registry import DeviceRegistry
from controller.http.api import MAX_WISH_BYTES
from controller.http.problems import status_of
from schemas.errors import CODES, OperatorError
from tests.support.in_process import FILE_TOKEN, JSON, Application, application, bearer

ALL = bearer(FILE_TOKEN)
SENT = {**ALL, **JSON}


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
