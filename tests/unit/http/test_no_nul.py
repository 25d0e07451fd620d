"""A NUL character is refused at the door, whatever it stands in: PostgreSQL takes none, and no name has one."""

from collections.abc import Iterator

import pytest

from controller.accounts.roles import Role
from controller.http.bodies import FORM, has_nul
from tests.support.in_process import FILE_TOKEN, HOST, PASSWORD, Application, application, bearer


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    with application(tmp_path_factory.mktemp("nul")) as made:
        made.people.add("anna", Role.ADMIN, PASSWORD)
        made.client.post("/api/v1/session", json={"name": "anna", "password": PASSWORD})
        yield made


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/devices/a%00b",
        "/api/v1/devices?channel=%00",
        "/api/v1/devices?after=a%00",
        "/api/v1/rollouts/%00",
        "/api/v1/rollouts?package=%00",
        "/api/v1/packages?q=%00",
        "/api/v1/packages/tacho%00/1.0.0",
        "/api/v1/audit?target=%00",
        "/api/v1/users?after=%00",
    ],
)
def test_an_address_with_one_is_a_problem_for_programs(app: Application, path: str) -> None:
    answer = app.client.get(path, headers=bearer(FILE_TOKEN))
    assert (answer.status_code, answer.json()["code"]) == (400, "input.bad")
    assert "NUL" in answer.json()["detail"]


@pytest.mark.parametrize(
    "path",
    [
        "/devices/a%00",
        "/devices?q=%00",
        "/devices?version=%00&package=tacho",
        "/rollouts/%00",
        "/rollouts?package=a%00",
        "/packages?q=%00",
        "/packages/%00",
        "/audit?actor=%00",
        "/accounts?after_user=%00",
        "/repo/metadata/%00",
        "/login?next=/%00",
    ],
)
def test_and_a_page_in_a_browser(app: Application, path: str) -> None:
    answer = app.client.get(path, headers={"Accept": "text/html"}, follow_redirects=False)
    assert answer.status_code == 400
    assert "NUL" in answer.text


def test_a_change_with_one_in_it_is_refused_and_not_done(app: Application) -> None:
    wish = {"yanked": True, "reason": "a\0b"}
    answer = app.client.post("/api/v1/packages/tacho/1.0.0/yank", json=wish, headers=bearer(FILE_TOKEN))
    assert (answer.status_code, "NUL" in answer.json()["detail"]) == (400, True)
    form = app.client.post(
        "/packages/tacho/1.0.0/do/yank",
        data={"reason": "a\0b"},
        headers={"Origin": f"http://{HOST}", "Accept": "text/html"},
    )
    assert (form.status_code, "NUL" in form.text) == (400, True)


@pytest.mark.parametrize(
    ("content", "kind", "found"),
    [
        (rb'{"a": "\u0000"}', "application/json", True),
        (rb'{"a": "\\\u0000"}', "application/json", True),
        (rb'{"a": "\\u0000"}', "application/json", False),
        (b'{"a": "\0"}', "application/json", True),
        (b"a=%00", FORM, True),
        (b"a=%2500&b=1", FORM, False),
        (b"a=b%0000", FORM, True),
    ],
)
def test_only_a_character_counts_and_not_the_text_that_looks_like_one(content: bytes, kind: str, found: bool) -> None:
    assert has_nul(content, kind) is found
