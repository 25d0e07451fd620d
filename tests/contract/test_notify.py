"""Notifications from a real controller, and `flotilla notify test`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.broker import Broker
from tests.support.command import flotilla
from tests.support.controller import controller_process
from tests.support.receiver import Receiver
from tests.support.repository import make_package

pytestmark = pytest.mark.broker

SECRET = "whsec_c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as made:
        yield made


def test_a_halted_rollout_is_told_once_though_the_controller_is_killed(
    broker: Broker, receiver: Receiver, tmp_path: Path, topic_root: str
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "notify.toml").write_text(
        f'[[webhook]]\nname = "ci"\nurl = "http://{receiver.address}/top-secret"\nsecret = "{SECRET}"\n'
    )
    with controller_process(data, broker.url, topic_root=topic_root) as controller:
        assert controller.push(make_package(tmp_path, "tacho", "1.0.0", {"a": "a"})).status == 201
        wish = {"package": "tacho", "version": "1.0.0", "channel": "stable"}
        rollout = controller.send("POST", "/releases", wish).json()["id"]
        assert controller.send("POST", f"/rollouts/{rollout}/state", {"state": "halted"}).status == 200
        controller.until(lambda: receiver.requests)
        controller.until(lambda: "ci was told: tacho 1.0.0 on stable is halted" in controller.log_text())
        controller.kill()
        controller.start()
        assert controller.send("POST", f"/rollouts/{rollout}/state", {"state": "active"}).status == 200
        assert controller.send("POST", f"/rollouts/{rollout}/state", {"state": "halted"}).status == 200
        controller.until(lambda: len(receiver.requests) == 2)
        told = b'flotilla_notifications_total{outcome="delivered",target="ci"} 1.0'
        controller.until(lambda: told in controller.call("GET", "/metrics").body)
        assert len({headers["webhook-id"] for _, headers, _ in receiver.requests}) == 2
        assert "top-secret" not in controller.log_text()


def test_a_test_tells_which_targets_do_not_take_it(receiver: Receiver, tmp_path: Path) -> None:
    path = tmp_path / "notify.toml"
    path.write_text(
        f"""
        [[webhook]]
        name = "ci"
        url = "http://{receiver.address}/hook"
        secret = "{SECRET}"
        [[apprise]]
        name = "chat"
        url = "json://127.0.0.1:9/"
        """
    )
    assert flotilla("notify", "test", "--file", path, "--target", "ci").text == "ci: delivered\n"
    assert len(receiver.requests) == 1
    failed = flotilla("notify", "test", "--file", path)
    assert (failed.status, failed.text) == (1, "chat: Apprise could not deliver it\nci: delivered\n")
    assert failed.stderr == "flotilla: 1 of 2 targets did not take it\n"
    assert "no target is called mail" in flotilla("notify", "test", "--file", path, "--target", "mail").complaint()
    assert "there is no" in flotilla("notify", "test", "--data", tmp_path / "none").complaint()
    assert "--data or --file" in flotilla("notify", "test").complaint()


def test_a_controller_with_a_bad_file_does_not_start(tmp_path: Path) -> None:
    path = tmp_path / "notify.toml"
    path.write_text("[[webhook]]\n")
    told = flotilla("serve", "--data", str(tmp_path / "data"), "--notify", str(path))
    assert "name" in told.complaint()
    for url in ("nosuch://top-secret", "slack://top-secret"):
        path.write_text(
            f'[[apprise]]\nname = "fine"\nurl = "json://127.0.0.1/"\n[[apprise]]\nname = "chat"\nurl = "{url}"\n'
        )
        line = flotilla("serve", "--data", str(tmp_path / "data"), "--notify", str(path)).complaint()
        assert "target chat: its url is none that Apprise knows" in line
        assert "secret" not in line
    assert not (tmp_path / "data" / "flotilla.db").exists()
