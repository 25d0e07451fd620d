"""Several packages announced as one set, by the command line and over HTTP, at a real controller."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.command import flotilla
from tests.support.controller import ControllerProcess
from tests.support.repository import make_package

pytestmark = [pytest.mark.broker, pytest.mark.wire]

Unique = Callable[[str], str]


@pytest.fixture
def names(controller: ControllerProcess, unique: Unique, tmp_path: Path) -> list[str]:
    """Two packages with a version 1.0.0 each."""
    names = [unique("engine"), unique("tacho")]
    for name in names:
        assert controller.push(make_package(tmp_path, name, "1.0.0", {"v": "1"})).status == 201
    return names


def test_one_command_announces_all_of_a_set(controller: ControllerProcess, names: list[str], unique: Unique) -> None:
    channel = unique("ch")
    members = [f"{name}@1.0.0" for name in names]
    env = {"FLOTILLA_URL": controller.url}
    told = flotilla("release", "--set", *members, "--channel", channel, env=env)
    assert told.status == 0, told
    assert all(f"announced {name} 1.0.0 on channel {channel}" in told.text for name in names)
    held = controller.get(f"/packages?channel={channel}").json()["items"]
    assert {one["package"] for one in held} == set(names)
    alone = flotilla("release", names[0], "1.0.0", names[1], "--channel", channel, env=env)
    assert alone.status != 0
    assert "--set" in alone.stderr


def test_a_set_with_a_version_that_does_not_exist_changes_nothing(
    controller: ControllerProcess, names: list[str], unique: Unique
) -> None:
    channel = unique("ch")
    wish = {"packages": {names[0]: "1.0.0", names[1]: "9.9.9"}, "channel": channel}
    assert "9.9.9" in controller.send("POST", "/releases/sets", wish).problem(404, "release.unknown")
    assert controller.get(f"/packages?channel={channel}").json()["items"] == []
    assert controller.get(f"/rollouts?channel={channel}").json()["items"] == []
    lonely = {"packages": {names[0]: "1.0.0"}, "channel": channel}
    controller.send("POST", "/releases/sets", lonely).problem(400, "input.bad")
