"""Who misspells a package's name is told the one that was meant, wherever the names are known."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.fleet.intake_store import IntakeStore
from schemas.messages import Phase
from tests.support.in_process import FILE_TOKEN, Application, application, bearer
from tests.support.repository import add_release
from tests.unit.fleet.builders import NOW, event_in, installed, presence_in, reported_in

MEANT = "; did you mean tacho?"
HEADERS = bearer(FILE_TOKEN)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    folder: Path = tmp_path_factory.mktemp("misspelled")
    with application(folder) as made:
        add_release(made.repository, "tacho", "1.0.0", {"a": "a"})
        by_hand = reported_in("pi-1", packages={"by-hand": installed("1.0.0")})
        IntakeStore(made.engine).take_in([presence_in("pi-1"), by_hand], NOW)
        yield made


def told(app: Application, method: str, path: str, wish: object = None) -> Any:
    return app.client.request(method, f"/api/v1/{path}", json=wish, headers=HEADERS).json()


def test_in_a_pin(app: Application) -> None:
    (warning,) = told(app, "PUT", "devices/pi-1/desired", {"pins": {"tahco": "1.0.0"}})["warnings"]
    assert warning.startswith("there is no tahco 1.0.0 in the repository; ")
    assert warning.endswith(MEANT)
    (warning,) = told(app, "PUT", "devices/pi-1/desired", {"pins": {"tacho": "1.0.1"}})["warnings"]
    assert "did you mean" not in warning


def test_in_the_channel_that_a_device_is_told(app: Application) -> None:
    (warning,) = told(app, "PUT", "devices/pi-1/desired", {"channel": "stabel"})["warnings"]
    assert warning == "no device that was heard of follows channel stabel; devices follow stable"
    assert told(app, "PUT", "devices/pi-1/desired", {"channel": "stable"})["warnings"] == []


@pytest.mark.parametrize(("package", "meant"), [("tahco", MEANT), ("by-hnad", "; did you mean by-hand?"), ("x", "")])
def test_in_what_a_device_is_asked_for(app: Application, package: str, meant: str) -> None:
    says = f"neither the device nor the repository has a package {package}{meant}"
    before = told(app, "GET", "devices/pi-1/commands")["items"]
    for verb in ("retry", "rollback"):
        refused = told(app, "POST", "devices/pi-1/commands", {"verb": verb, "args": {"package": package}})
        assert (refused["code"], refused["detail"]) == ("release.unknown", says)
    assert told(app, "GET", "devices/pi-1/commands")["items"] == before, "nothing is sent"
    # what is under way is stopped though its release was deleted meanwhile
    wish = {"verb": "cancel", "args": {"package": package}}
    assert told(app, "POST", "devices/pi-1/commands", wish)["warnings"] == [says]


def test_a_device_is_asked_for_what_it_said_last_though_no_release_of_that_is_left(app: Application) -> None:
    failed = event_in("pi-2", 1, Phase.FAILED, package="gone")
    IntakeStore(app.engine).take_in([presence_in("pi-2"), reported_in("pi-2"), failed], NOW)
    wish = {"verb": "retry", "args": {"package": "gone"}}
    assert told(app, "POST", "devices/pi-2/commands", wish)["warnings"] == []


def test_a_device_that_has_reported_nothing_is_asked_and_warned_of(app: Application) -> None:
    IntakeStore(app.engine).take_in([presence_in("pi-new")], NOW)
    wish = {"verb": "retry", "args": {"package": "tahco"}}
    assert told(app, "POST", "devices/pi-new/commands", wish)["warnings"] != []


@pytest.mark.parametrize(("package", "meant"), [("tahco", MEANT), ("tacho", ""), ("x", "")])
def test_in_a_withdrawal(app: Application, package: str, meant: str) -> None:
    problem = told(app, "DELETE", f"channels/stable/releases/{package}")
    assert problem["code"] == "rollout.unknown"
    assert problem["detail"] == f"channel stable announces no package {package}{meant}"


@pytest.mark.parametrize(
    ("asked", "near"),
    [
        ("name=tahco", ["tacho"]),
        ("name=x", []),
        ("name=tach%3Fs", []),
        ("name=tacho&version=^2", []),
        ("channel=x", []),
    ],
)
def test_in_a_search(app: Application, asked: str, near: list[str]) -> None:
    assert told(app, "GET", f"packages?{asked}") == {"items": [], "next": None, "near": near}


@pytest.mark.parametrize("wish", [{"tahco": None}, {"tahco": "^1"}])
def test_in_a_file_for_another_site(app: Application, wish: object) -> None:
    problem = told(app, "POST", "packages/site", {"packages": wish, "valid_days": 9})
    assert problem["code"] == "release.unknown"
    assert problem["detail"].endswith(f" is there{MEANT}")
