"""Whoever takes the last account of an admin away is told of it first, and how one comes back."""

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.accounts.people import People
from controller.accounts.roles import Role
from tests.support.command import Finished, flotilla
from tests.support.database import opened
from tests.support.in_process import PASSWORD, cheap_passwords

WARNING = (
    "flotilla: warning: anna is the last account of an admin; after that only a token of an admin looks after accounts,"
    " as the one in the data folder's api-token where there is one, or on the controller's machine:"
    " flotilla user add NAME --role admin --data DIR\n"
)
WAYS = [("remove", "anna"), ("role", "anna", "publisher")]


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    """A data folder in which anna is the only admin."""
    engine = opened(tmp_path / "flotilla.db")
    with cheap_passwords():
        People(engine).add("anna", Role.ADMIN, PASSWORD)
        People(engine).add("ben", Role.PUBLISHER, PASSWORD)
        yield tmp_path
    engine.dispose()


def user(data: Path, *arguments: str) -> Finished:
    return flotilla("user", *arguments, "--data", data)


def admins(data: Path) -> list[str]:
    return [one["name"] for one in user(data, "list", "--json").json() if one["role"] == "admin"]


def sit_down(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(words))
    monkeypatch.setattr("controller.cli.accounts.somebody_there", lambda: True)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: str(way[0]))
def test_a_script_is_warned(data: Path, way: tuple[str, ...]) -> None:
    done = user(data, *way)
    assert (done.status, done.stderr, admins(data)) == (0, WARNING, [])


@pytest.mark.parametrize("way", WAYS, ids=lambda way: str(way[0]))
def test_a_person_is_asked(monkeypatch: pytest.MonkeyPatch, data: Path, way: tuple[str, ...]) -> None:
    sit_down(monkeypatch, "n\n")
    done = user(data, *way)
    assert done.status == 1
    assert done.stderr.startswith(WARNING)
    assert done.stderr.endswith("flotilla: nothing was changed\n")
    assert admins(data) == ["anna"]
    sit_down(monkeypatch, "y\n")
    assert (user(data, *way).status, admins(data)) == (0, [])


@pytest.mark.parametrize("way", WAYS, ids=lambda way: str(way[0]))
def test_who_says_yes_is_not_asked(monkeypatch: pytest.MonkeyPatch, data: Path, way: tuple[str, ...]) -> None:
    sit_down(monkeypatch, "")
    done = user(data, *way, "--yes")
    assert (done.status, done.stderr, admins(data)) == (0, WARNING, [])


def test_where_an_admin_is_left_nobody_is_asked(monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    sit_down(monkeypatch, "")
    for way in (("remove", "ben"), ("role", "anna", "admin")):
        done = user(data, *way)
        assert (done.status, done.stderr) == (0, "")
    engine = opened(data / "flotilla.db")
    People(engine).add("carla", Role.ADMIN, PASSWORD)
    engine.dispose()
    assert (user(data, "remove", "anna").stderr, admins(data)) == ("", ["carla"])
