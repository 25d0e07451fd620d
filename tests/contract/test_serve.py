"""`flotilla serve` as a process: how it starts, what it refuses, how it lives without a broker, how it ends."""

import asyncio
import http.client
import os
import signal
import socket
import sqlite3
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from broker_config import answers, free_port
from controller.fleet.rivals import LONGEST_WAIT_S
from controller.settings import client_id
from schemas.codec import decode
from schemas.messages import Announcement, Phase, Presence
from schemas.topics import Topics
from tests.support.broker import Broker
from tests.support.command import Finished, flotilla
from tests.support.controller import ControllerProcess, controller_process
from tests.support.fake_device import fake_device
from tests.support.links import settings, take, until
from tests.support.repository import make_package, tree_of
from tests.support.scripted_broker import CONNACK_MQTT_3, Peer, scripted_broker
from transport import connect

pytestmark = pytest.mark.broker

STOPS_WITHIN_S = 10.0


def refused(data: Path, *arguments: object) -> Finished:
    """`flotilla serve` in this process: for what ends before anything runs."""
    address = [] if "--http" in arguments else ["--http", f"127.0.0.1:{free_port()}"]
    return flotilla("serve", "--data", data, *address, *arguments)


# What it refuses, in one line, before it has made anything


@pytest.mark.parametrize(
    "address",
    [
        "8420",
        "127.0.0.1",
        "127.0.0.1:",
        ":8420",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        f"127.0.0.1:{'9' * 5000}",
        "127.0.0.1:\u0668\u0660",
        "127.0.0.1:http",
        "127.0.0.1:80/x",
        "http://127.0.0.1:8420",
        "a b:80",
        "::1:80",
        "[::1:80",
    ],
)
def test_a_bad_address_is_refused(tmp_path: Path, address: str) -> None:
    complaint = refused(tmp_path / "data", "--http", address).complaint()
    assert "HOST:PORT" in complaint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--broker", "mqtt://127.0.0.1", "--embedded-broker"), "exclude each other"),
        (("--broker", "127.0.0.1:1883"), "mqtt://HOST:PORT"),
        (("--broker", "http://127.0.0.1"), "mqtt://HOST:PORT"),
        (("--broker", "mqtt://me:secret@127.0.0.1"), "don't belong in the address"),
        (("--broker", "mqtt://127.0.0.1:99999"), "range"),
        (("--broker", "mqtt://127.0.0.1", "--broker-ca", __file__), "mqtts://"),
        (("--broker", "mqtts://127.0.0.1", "--broker-ca", __file__), "ca_file"),
        (("--broker", "mqtts://127.0.0.1", "--broker-cert", __file__), "go together"),
        (("--broker-password-file", __file__), "in one line"),
        (("--topic-root", "a/+/b"), "topic root"),
        (("--public-url", "updates.example.com"), "--public-url"),
        (("--public-url", "ftp://updates.example.com"), "--public-url"),
        (("--public-url", "http://x/repo?a=b"), "--public-url"),
        (("--public-url", "http://x:port/"), "--public-url"),
        (("--http", "no.such.host.invalid:8420"), "cannot listen"),
        (("--http", "192.0.2.1:8420"), "no such address"),
    ],
)
def test_a_bad_option_is_refused_before_anything_is_made(tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    complaint = refused(tmp_path / "data", *arguments).complaint()
    assert says in complaint
    assert "secret" not in complaint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "--data"),
        (("--data", "x", "--broker-ca", "/no/such/file"), "/no/such/file"),
        (("--data", __file__), "--data"),
        (("--data", "x", "--embedded-port", "0"), "--embedded-port"),
        (("--data", "x", "--nonsense"), "--nonsense"),
    ],
)
def test_wrong_usage_is_one_line_too(arguments: tuple[str, ...], says: str) -> None:
    complaint = flotilla("serve", *arguments).complaint(2)
    assert says in complaint
    assert "flotilla serve --help" in complaint


def test_an_address_in_use_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        complaint = refused(tmp_path / "data", "--http", f"127.0.0.1:{port}").complaint()
    assert f"127.0.0.1:{port}: Address already in use" in complaint
    assert list(tmp_path.iterdir()) == []


def test_a_data_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    complaint = refused(tmp_path / "file" / "data").complaint()
    assert "--data" in complaint
    assert "Not a directory" in complaint


def test_a_data_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    # root may write anywhere but where the kernel says no
    folder = tmp_path if os.geteuid() else Path("/sys")
    complaint = refused(folder / "flotilla-data").complaint()
    assert any(word in complaint for word in ("Permission denied", "not permitted", "Read-only"))
    assert "name a folder that can be written" in complaint


@pytest.mark.parametrize(
    "content", [b"this is no database, but long enough to be one\n" * 100, b"SQLite format 3\0junk"]
)
def test_a_broken_database_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "flotilla.db").write_bytes(content)
    complaint = refused(data).complaint()
    assert str(data / "flotilla.db") in complaint
    assert (data / "flotilla.db").read_bytes() == content
    assert {path.name for path in data.iterdir()} <= {"flotilla.db", "lock"}


def test_a_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    with sqlite3.connect(data / "flotilla.db") as database:
        database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        database.execute("INSERT INTO alembic_version VALUES ('9999')")
    assert "newer" in refused(data).complaint()


def test_a_short_token_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "api-token").write_text("1234\n")
    complaint = refused(data, "--http", f"0.0.0.0:{free_port()}").complaint()
    assert "too short" in complaint


def test_an_embedded_broker_whose_port_is_taken_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        complaint = refused(tmp_path / "data", "--embedded-broker", "--embedded-port", port).complaint()
    assert "embedded broker" in complaint
    assert str(port) in complaint


# How it lives


def test_a_second_controller_on_the_same_folder_is_refused(controller: ControllerProcess) -> None:
    before = tree_of(controller.data / "keys")
    assert "in use by another controller" in refused(controller.data).complaint()
    assert tree_of(controller.data / "keys") == before
    assert controller.health() == 200


def test_controllers_with_different_topics_share_a_broker(
    controller: ControllerProcess, broker: Broker, tmp_path: Path, topic_root: str
) -> None:
    with controller_process(tmp_path / "data", broker.url, topic_root=topic_root) as second:
        for one in (controller, second, controller, second):
            assert one.health() == 200
        for one in (controller, second):
            assert "another client" not in one.log_text()
            assert one.log_text().count("connected to the broker") == 1


async def test_without_a_broker_it_serves_and_says_so(tmp_path: Path) -> None:
    port = free_port()
    with controller_process(tmp_path / "data", f"mqtt://127.0.0.1:{port}", connected=False) as alone:
        alone.until(lambda: "no broker: " in alone.log_text())
        asked = flotilla("rollouts", env={"FLOTILLA_URL": alone.url})
        assert asked.status == 0
        assert f"not connected to the broker (mqtt://127.0.0.1:{port}: no connection" in asked.stderr
        live = http.client.HTTPConnection("127.0.0.1", alone.port, timeout=20)
        live.request("GET", "/live")
        events = live.getresponse()
        assert any(line == b"event: away\n" for line in iter(events.readline, b""))
        assert f"not connected to the broker (mqtt://127.0.0.1:{port}: " in events.readline().decode()
        live.close()
        answer = alone.call("GET", "/readyz")
        assert (answer.status, answer.json()["checks"]["broker"]["ok"]) == (503, False)
        package = make_package(tmp_path, "tacho", "1.0.0", {"a": "a"})
        assert alone.push(package).status == 201
        wish = {"package": "tacho", "version": "1.0.0", "channel": "stable"}
        assert alone.send("POST", "/releases", wish).status == 201
        assert alone.call("GET", "/repo/metadata/timestamp.json").status == 200
        alone.until(lambda: "no broker: " in alone.log_text())
        lines = [line for line in alone.log_text().splitlines() if "no broker: " in line]
        assert f"127.0.0.1:{port}" in lines[0]
        assert "next attempt in" in lines[0]
        assert "Traceback" not in alone.log_text()
        assert alone.stop() == 0


async def test_a_broker_that_speaks_only_an_older_mqtt_is_named_in_one_line(tmp_path: Path) -> None:
    async def old(peer: Peer) -> None:
        await peer.greet(CONNACK_MQTT_3)
        await peer.silence()

    async with scripted_broker(old) as url:
        with controller_process(tmp_path / "data", url, started=False) as alone:
            await asyncio.to_thread(alone.start, connected=False)
            await until(lambda: "no broker: " in alone.log_text())
            line = next(line for line in alone.log_text().splitlines() if "no broker: " in line)
            assert "MQTT 5" in line
            assert alone.health() == 503
            assert await asyncio.to_thread(alone.stop) == 0


async def test_a_controller_that_is_thrown_out_by_another_says_so_and_ends_in_good_order(tmp_path: Path) -> None:
    async def taken_over(peer: Peer) -> None:
        await peer.greet()
        await peer.send(bytes.fromhex("e0028e00"))

    says = "another controller with these topics is connected to this broker; stop one of them"
    async with scripted_broker(taken_over) as url:
        with controller_process(tmp_path / "data", url, started=False) as alone:
            await asyncio.to_thread(alone.start, connected=False)
            await until(lambda: "ERROR" in alone.log_text())
            assert await asyncio.to_thread(alone.stop) == 0
            assert says in alone.log_text()
            assert "no broker: " not in alone.log_text()
            (error,) = (line for line in alone.log_text().splitlines() if "ERROR" in line)
            assert "another controller uses the broker at" in error
            assert "Traceback" not in alone.log_text()


def log_has(controller: ControllerProcess, word: str) -> bool:
    return word in controller.log_text()


def test_two_controllers_that_throw_each_other_out_both_say_so_and_keep_out_of_each_others_way(
    broker: Broker, tmp_path: Path, topic_root: str
) -> None:
    with (
        controller_process(tmp_path / "one", broker.url, topic_root=topic_root) as one,
        controller_process(tmp_path / "other", broker.url, topic_root=topic_root, started=False) as other,
    ):
        other.start(connected=False)
        for controller in (one, other):
            # one that lost a race is told when the other one, which waits, comes back
            controller.until(partial(log_has, controller, "ERROR"), 3 * LONGEST_WAIT_S)
            (error,) = (line for line in controller.log_text().splitlines() if "ERROR" in line)
            assert f"uses the broker at {broker.url} under the same client id" in error
            assert f"from which address each {client_id(topic_root)} connects" in error
        for controller in (one, other):
            assert controller.stop() == 0
            assert "Traceback" not in controller.log_text()


async def test_what_was_released_without_a_broker_is_announced_when_there_is_one(
    make_broker: Callable[[], Broker], tmp_path: Path
) -> None:
    broker = make_broker()
    with controller_process(tmp_path / "data", broker.url) as controller:
        broker.kill()
        controller.until(lambda: controller.health() == 503)
        assert controller.push(make_package(tmp_path, "tacho", "1.0.0", {"a": "a"})).status == 201
        wish = {"package": "tacho", "version": "1.0.0", "channel": "stable"}
        assert controller.send("POST", "/releases", wish).status == 201
        broker.start()
        async with fake_device(broker.url, "pi-1") as device:
            assert (await device.announcement("1.0.0")).package == "tacho"
        controller.until(lambda: controller.health() == 200)


async def test_a_restart_forgets_nothing(broker: Broker, tmp_path: Path, topic_root: str) -> None:
    with controller_process(tmp_path / "data", broker.url, topic_root=topic_root) as controller:
        assert controller.push(make_package(tmp_path, "tacho", "1.0.0", {"a": "a"})).status == 201
        wish = {"package": "tacho", "version": "1.0.0", "channel": "stable"}
        rollout = controller.send("POST", "/releases", wish).json()
        root = controller.get("/root").body
        async with fake_device(broker.url, "pi-1", topic_root=topic_root) as device:
            announced = await device.announcement("1.0.0")
            await device.report()
            await device.update(announced, Phase.ACCEPTED)
            await until(lambda: controller.get("/devices/pi-1/events").status == 200)
            await asyncio.to_thread(controller.kill)
            # said while there is no controller: the broker keeps it
            await device.update(announced, Phase.SUCCEEDED)
            await asyncio.to_thread(controller.start)
            events = "/devices/pi-1/events"
            await until(lambda: len(controller.get(events).json()["items"]) == 2)
            assert [item["event"]["seq"] for item in controller.get(events).json()["items"]] == [1, 2]
        assert controller.get("/root").body == root
        again = controller.get(f"/rollouts/{rollout['id']}").json()["rollout"]
        # the last word of its only device may have completed it, which is one revision more
        assert again["id"] == rollout["id"]
        assert again["revision"] - rollout["revision"] in {0, 1}
        assert controller.get("/packages").json()["items"][0]["channels"] == ["stable"]


async def test_a_restart_with_another_public_url_moves_what_is_announced(
    broker: Broker, tmp_path: Path, topic_root: str
) -> None:
    data = tmp_path / "data"
    with controller_process(data, broker.url, topic_root=topic_root) as controller:
        assert controller.push(make_package(tmp_path, "tacho", "1.0.0", {"a": "a"})).status == 201
        wish = {"package": "tacho", "version": "1.0.0", "channel": "stable"}
        rollout = controller.send("POST", "/releases", wish).json()
        assert controller.stop() == 0
    moved = ["--public-url", "https://updates.example.com"]
    with controller_process(data, broker.url, topic_root=topic_root, arguments=moved) as controller:

        def now_at() -> Announcement:
            return decode(message.payload, Announcement)

        async with connect(settings(broker.url, f"look-{tmp_path.name}", clean_start=True)) as link:
            await link.subscribe([Topics(topic_root).release("stable", "tacho")])
            (message,) = await take(link, 1)
            while now_at().revision == rollout["revision"]:  # looked before it was published
                (message,) = await take(link, 1)
        assert (now_at().rollout, now_at().revision) == (rollout["id"], rollout["revision"] + 1)
        assert now_at().repository == ["https://updates.example.com"] != rollout["repository"]
        said = "1 rollout is announced anew: devices fetch from another place"
        assert controller.log_text().count(said) == 1
        controller.restart()
        again = controller.get(f"/rollouts/{rollout['id']}").json()["rollout"]
        assert (again["revision"], again["repository"]) == (now_at().revision, now_at().repository)
        assert controller.log_text().count(said) == 1


# How it ends


async def test_it_ends_at_once_though_somebody_watches(broker: Broker, tmp_path: Path, topic_root: str) -> None:
    with controller_process(tmp_path / "data", broker.url, topic_root=topic_root) as controller:
        watcher = http.client.HTTPConnection("127.0.0.1", controller.port, timeout=20)
        watcher.request("GET", "/api/v1/watch")
        watched = watcher.getresponse()
        assert watched.readline().startswith(b":")
        idle = http.client.HTTPConnection("127.0.0.1", controller.port, timeout=20)
        idle.request("GET", "/healthz")
        idle.getresponse().read()
        assert idle.sock is not None
        begun = time.monotonic()
        assert await asyncio.to_thread(controller.stop) == 0
        took = time.monotonic() - begun
        assert took < STOPS_WITHIN_S / 2, f"{took:.1f} s"
        watched.read()  # the stream ends, and in good order
        log = controller.log_text()
        assert log.rstrip().endswith("stopped")
        assert "ERROR" not in log
        assert "Traceback" not in log
        async with connect(settings(broker.url, f"look-{tmp_path.name}", clean_start=True)) as link:
            await link.subscribe([Topics(topic_root).controller_status()])
            (message,) = await take(link, 1)
        assert decode(message.payload, Presence).online is False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_embedded_broker_ends_with_it(tmp_path: Path, number: signal.Signals) -> None:
    port = free_port()
    arguments = ["--embedded-broker", "--embedded-port", str(port)]
    with controller_process(tmp_path / "data", None, arguments=arguments) as controller:
        assert answers("127.0.0.1", port)
        begun = time.monotonic()
        os.kill(controller.pid, number)
        assert controller.ended() == 0
        assert time.monotonic() - begun < STOPS_WITHIN_S
    assert not answers("127.0.0.1", port)


def test_a_signal_while_it_starts_leaves_nothing_running(tmp_path: Path) -> None:
    port = free_port()
    arguments = ["--embedded-broker", "--embedded-port", str(port)]
    with controller_process(tmp_path / "data", None, arguments=arguments, started=False) as controller:
        controller.launch()
        controller.until(lambda: answers("127.0.0.1", port))
        os.kill(controller.pid, signal.SIGTERM)
        assert controller.ended() == 0
    assert not answers("127.0.0.1", port)


def test_the_first_start_makes_keys_that_only_the_owner_reads(controller: ControllerProcess) -> None:
    keys = controller.data / "keys"
    found: dict[str, Any] = {str(path.relative_to(keys)): path.stat().st_mode & 0o777 for path in keys.rglob("*")}
    assert {name.partition("/")[0] for name in found} == {"offline", "online"}
    assert all(mode == (0o700 if "/" not in name else 0o600) for name, mode in found.items())
    assert not (controller.data / "api-token").exists()


def test_a_controller_that_was_killed_leaves_no_broker_in_the_way(tmp_path: Path) -> None:
    port = str(free_port())
    arguments = ("--embedded-broker", "--embedded-port", port)
    with controller_process(tmp_path / "data", None, arguments=arguments) as controller:
        controller.kill()
        controller.start()
        assert controller.call("GET", "/healthz").status == 200


async def test_an_embedded_broker_that_died_is_started_again_with_what_it_kept(tmp_path: Path) -> None:
    port = free_port()
    url = f"mqtt://127.0.0.1:{port}"
    arguments = ("--embedded-broker", "--embedded-port", str(port))
    pid_file = tmp_path / "data" / "broker" / "mosquitto.pid"
    with controller_process(tmp_path / "data", None, arguments=arguments) as controller:
        async with connect(settings(url, "writer")) as link:
            await link.publish("kept", b"still here", retain=True)
            # the broker saves with each change, and what a kill costs is the last ones
            for number in range(3):
                await link.publish("last", b"%d" % number, retain=True)
        first = pid_file.read_text()
        os.kill(int(first), signal.SIGKILL)
        await asyncio.to_thread(controller.until, lambda: pid_file.read_text() != first and answers("127.0.0.1", port))
        async with connect(settings(url, "reader")) as link:
            await link.subscribe(["kept"])
            assert [message.payload for message in await take(link, 1)] == [b"still here"]
        await asyncio.to_thread(controller.until, lambda: controller.health() == 200)
        said = [line for line in controller.log_text().splitlines() if "the embedded broker" in line]
        assert len(said) == 1, said
        assert "was ended by signal 9; it is started again in 1 s" in said[0]
        assert controller.stop() == 0
    assert not answers("127.0.0.1", port)
