"""What is wrong with a plan in JSON is said in the words that plan files get, and nothing is announced."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.in_process import FILE_TOKEN, Application, application, bearer
from tests.support.repository import add_release

PATHS = ("/api/v1/releases", "/api/v1/releases/preflight")
WAVES = 'a list of 1 to 20 waves, each an object such as {"upto": 10}'
A_PLAN = "plan must be an object as in a plan file, or the name of a ready one: all-at-once, canary, careful"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    with application(tmp_path_factory.mktemp("plans")) as made:
        add_release(made.repository, "tacho", "1.0.0", {"a": "a"})
        yield made


def answer(app: Application, path: str, plan: Any) -> tuple[int, Any]:
    wish = {"package": "tacho", "version": "1.0.0", "channel": "stable", "plan": plan}
    found = app.client.post(path, json=wish, headers=bearer(FILE_TOKEN))
    return found.status_code, found.json().get("detail")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("plan", "says"),
    [
        (
            {"wave": [{"upto": 10}, {"upto": 150}]},
            'plan: wave 2: "upto": 150; it must be a percentage over 0 and up to 100, e.g. 10',
        ),
        (
            {"wave": [{"upto": 10, "soak": "10 minutes"}]},
            'plan: wave 1: "soak": "10 minutes"; it must be a length of time such as 90s, 10m, 2h or 1h30m',
        ),
        (
            {"wave": [{"where": "bern"}]},
            (
                'plan: wave 1: "where": "bern"; it must be an object of tags and facts, e.g. {"site": "bern"},'
                " where a list means any of its values"
            ),
        ),
        ({"wave": [{"approval": "maybe"}]}, 'plan: wave 1: "approval": "maybe"; it must be true or false'),
        (
            {"wave": [{"upto": 10}], "on_failure": "pray"},
            'plan: "on_failure": "pray"; it must be one of pause, halt, revert',
        ),
        (
            {"wave": [{"upto": 10}], "window": {"start": "9"}},
            (
                'plan: "window": {"start":"9"}; it must be a daily time such as {"start": "22:00", "end": "04:30"},'
                " maybe with days, where 0 is Monday"
            ),
        ),
        ({"wave": [{"upto": 10, "soakk": "1m"}]}, "plan: unknown key 'soakk' in wave 1; did you mean 'soak'?"),
        ({"wave": []}, f"plan: wave must be {WAVES}"),
        ({}, f'plan: it has no wave; "wave" must be {WAVES}'),
        (5, A_PLAN),
        ([], A_PLAN),
    ],
)
def test_a_plan_that_cannot_be_gets_one_line_with_the_wave_its_key_and_what_to_write(
    app: Application, path: str, plan: Any, says: str
) -> None:
    assert answer(app, path, plan) == (400, says)
    assert app.client.get("/api/v1/rollouts", headers=bearer(FILE_TOKEN)).json()["items"] == []


@pytest.mark.parametrize("plan", [None, "canary", {"wave": [{"upto": 10, "soak": "1m"}, {"upto": "100"}]}])
def test_a_plan_that_can_be_is_taken_as_before(app: Application, plan: Any) -> None:
    status, detail = answer(app, PATHS[1], plan)
    assert (status, detail) == (200, None)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("body", [b"", b"no json", b"[]", b'{"plan": ', b"\xff", b'{"package": "tacho"}'])
def test_all_else_that_is_wrong_with_the_body_is_said_as_before(app: Application, path: str, body: bytes) -> None:
    headers = {**bearer(FILE_TOKEN), "Content-Type": "application/json"}
    found = app.client.post(path, content=body, headers=headers)
    assert (found.status_code, found.json()["code"]) == (400, "input.bad")
