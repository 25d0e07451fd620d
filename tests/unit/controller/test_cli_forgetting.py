"""What `flotilla forget` asks on a terminal."""

import io
import sys
from typing import Any

import pytest

from controller.client import ControllerClient
from controller.fleet.views import Device
from tests.support.command import flotilla
from tests.unit.homeassistant.test_offers import device


@pytest.fixture
def deleted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a controller whose devices are all away was asked to delete."""
    found: list[str] = []

    def get(_self: ControllerClient, _type: Any, _devices: str, name: str) -> Device:
        return device(id=name, online=False)

    monkeypatch.setattr(ControllerClient, "get", get)
    monkeypatch.setattr(ControllerClient, "delete", lambda _self, *path: found.append(path[-1]))
    return found


def typed(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(words))
    monkeypatch.setattr("controller.cli.operate.somebody_there", lambda: True)


def test_on_a_terminal_it_says_when_each_was_heard_of_last_and_asks(
    deleted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    typed(monkeypatch, "n\n")
    said = flotilla("forget", "pi-1", "pi-2")
    assert (said.status, said.text, deleted) == (1, "", [])
    assert "pi-1 was heard of last 2026-" in said.stderr
    assert "Forget these 2, and all that they said? [y/N]: " in said.stderr
    assert said.stderr.endswith("flotilla: nothing was forgotten\n")
    typed(monkeypatch, "y\n")
    said = flotilla("forget", "pi-1")
    assert "Forget it, and all that it said? [y/N]: " in said.stderr
    assert (said.status, deleted) == (0, ["pi-1"])


def test_who_says_yes_is_not_asked(deleted: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    typed(monkeypatch, "")
    said = flotilla("forget", "pi-1", "--yes")
    assert (said.status, said.stderr, deleted) == (0, "", ["pi-1"])
