"""Lists of the API that grow come in pages: so many items as were asked for, and what to ask for the next ones by."""

from collections.abc import Iterator
from typing import Any

import pytest

from controller.accounts.roles import Role
from controller.fleet.intake_store import IntakeStore
from tests.support.in_process import FILE_TOKEN, PASSWORD, Application, application, bearer
from tests.unit.fleet.builders import NOW, presence_in, reported_in

NAMES = ["a", "b", "c", "d", "e"]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    """Five accounts, tokens and rows of one action in the audit log; the file's token is in no list."""
    with application(tmp_path_factory.mktemp("pages")) as made:
        for name in NAMES:
            made.people.add(name, Role.VIEWER, PASSWORD)
            made.tokens.add(name, Role.VIEWER)
            made.client.delete(f"/api/v1/users/nobody-{name}", headers=bearer(FILE_TOKEN))
        for device in ("pi-1", "pi-2"):
            IntakeStore(made.engine).take_in([presence_in(device), reported_in(device)], NOW)
        yield made


def page(app: Application, path: str, **query: str) -> dict[str, Any]:
    answer = app.client.get(f"/api/v1/{path}", params=query, headers=bearer(FILE_TOKEN))
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    assert set(found) == {"items", "next"}
    return found


def pages(app: Application, path: str, key: str, **query: str) -> list[list[str]]:
    """That value of each item, in pages of two, as long as there is a next one."""
    found = [page(app, path, limit="2", **query)]
    while (after := found[-1]["next"]) is not None:
        found.append(page(app, path, limit="2", after=after, **query))
        assert len(found) < 10, "there is always a next page"
    return [[item[key] for item in one["items"]] for one in found]


@pytest.mark.parametrize("path", ["users", "tokens"])
def test_accounts_and_tokens_come_by_name(app: Application, path: str) -> None:
    assert pages(app, path, "name") == [["a", "b"], ["c", "d"], ["e"]]


def test_the_audit_log_comes_from_the_newest_on(app: Application) -> None:
    found = pages(app, "audit", "target", action="user.remove")
    assert found == [["nobody-e", "nobody-d"], ["nobody-c", "nobody-b"], ["nobody-a"]]


def test_the_commands_to_a_device_come_from_the_newest_on(app: Application) -> None:
    assert page(app, "devices/pi-1/commands") == {"items": [], "next": None}
    sent = {
        device: [
            app.client.post(
                f"/api/v1/devices/{device}/commands", json={"verb": "report"}, headers=bearer(FILE_TOKEN)
            ).json()["id"]
            for _ in range(number)
        ]
        for device, number in (("pi-1", 5), ("pi-2", 2))
    }
    # of one millisecond, either may be the newer one
    newest = sorted(sent["pi-1"], reverse=True)
    assert pages(app, "devices/pi-1/commands", "id") == [newest[:2], newest[2:4], newest[4:]]
    # the last page is full
    assert pages(app, "devices/pi-2/commands", "id") == [sorted(sent["pi-2"], reverse=True)]
