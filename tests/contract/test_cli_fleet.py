"""The command line about the fleet: devices, rollouts, the live view, and what an operator decides."""

import asyncio
import json
import os
import re
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from controller.cli.common import time_text
from controller.demo.processes import program
from controller.rollouts.short_ids import TIME_PART
from schemas.messages import InstalledPackage, Phase, Progress
from tests.support.broker import Broker
from tests.support.command import Finished, flotilla
from tests.support.controller import ControllerProcess, controller_process
from tests.support.fake_device import FakeDevice, fake_device
from tests.support.links import until
from tests.support.repository import make_package

pytestmark = pytest.mark.broker

Run = Callable[..., Finished]
NO_ROLLOUT = "0198a1b2-c3d4-7e5f-8a6b-0123456789ab"
BOUND_S = 20
NEW_YORK = timezone(timedelta(hours=-5))


@pytest.fixture
def run(controller: ControllerProcess) -> Run:
    """`flotilla` at the shared controller."""
    return lambda *arguments: flotilla(*arguments, env={"FLOTILLA_URL": controller.url})


@pytest.fixture
def name(unique: Callable[[str], str]) -> str:
    return unique("pkg")


@pytest.fixture
def channel(unique: Callable[[str], str]) -> str:
    return unique("ch")


@pytest.fixture
def pushed(controller: ControllerProcess, tmp_path: Path, name: str) -> str:
    assert controller.push(make_package(tmp_path, name, "1.0.0", {"a": name})).status == 201
    return name


@pytest.fixture
async def device(
    controller: ControllerProcess, broker: Broker, channel: str, unique: Callable[[str], str]
) -> AsyncIterator[FakeDevice]:
    """A device that is online and known to the controller."""
    async with fake_device(broker.url, unique("pi"), topic_root=controller.topic_root, channel=channel) as fake:
        await fake.report(tags={"site": "roof"})
        await until(lambda: controller.get(f"/devices/{fake.id}").json().get("channel") == channel)
        yield fake


async def test_devices_and_one_of_them_are_shown(
    run: Run, controller: ControllerProcess, device: FakeDevice, channel: str
) -> None:
    installed = InstalledPackage(
        version="1.0.0",
        manifest="a" * 64,
        installed_at=datetime.now(UTC),
        previous="0.9.0",
        phase=Phase.SUCCEEDED,
        rollout=None,
    )
    await device.say(Phase.FETCHING, progress=Progress(bytes_done=1024, bytes_total=4096))
    await device.say(Phase.SUCCEEDED, detail={"wire_bytes": 512})
    await device.report(tags={"site": "roof"}, packages={"tacho": installed})
    await until(lambda: controller.get(f"/devices/{device.id}").json()["packages"])

    listed = {one["id"]: one for one in run("devices", "--json").json()}
    assert listed[device.id]["packages"]["tacho"]["version"] == "1.0.0"
    row = next(line for line in run("devices").text.splitlines() if line.startswith(device.id))
    assert row.split()[1] == "yes"
    assert "tacho 1.0.0" in row
    assert channel in row
    assert run("devices").text.split()[:2] == ["DEVICE", "ONLINE"]
    assert len(run("devices", "--limit", "1", "--json").json()) == 1

    one = run("device", device.id, "--json").json()
    assert one["device"]["id"] == device.id
    assert [taken["event"]["phase"] for taken in one["events"]] == ["fetching", "succeeded"]
    text = run("device", device.id).text
    for words in (
        f"{device.id}: online",
        f"channel {channel}, agent 0.0.0-fake",
        "tags    site=roof",
        "model=pi4, platform=linux-aarch64",
        "runs    tacho 1.0.0 (succeeded) since",
        "before it 0.9.0",
        "1.0 KiB of 4.0 KiB",
        "wire_bytes=512",
    ):
        assert words in text, text


async def test_what_a_device_waits_for_and_what_it_was_told_are_shown(
    run: Run, controller: ControllerProcess, device: FakeDevice
) -> None:
    update = "0198a1b2-c3d4-7e5f-8a6b-00000000000a"
    detail = {"reason": "not ready", "because": "the robot moves", "until": "2026-03-01T13:00:00Z"}
    await device.say(Phase.DEFERRED, update=update, detail=detail)
    await device.say(Phase.DEFERRED, detail={"reason": "hold"}, package="camera")
    await until(lambda: len(controller.get(f"/devices/{device.id}/events").json()["items"]) == 2)
    assert controller.get(f"/devices/{device.id}/desired").json()["rev"] == 0
    assert "waits   camera 1.0.0: held by its owner" in run("device", device.id).text
    run("tell", device.id, "--hold", "--pin", "tacho=1.0.0")
    text = run("device", device.id).text
    for words in (
        "waits   tacho 1.0.0: not ready (the robot moves), until 2026-03-01",
        "waits   camera 1.0.0: held by an operator",
        "hold    it starts no update",
        "pinned  tacho stays at 1.0.0",
    ):
        assert words in text, text
    row = next(line for line in run("devices").text.splitlines() if line.startswith(device.id))
    assert "on hold, tacho pinned at 1.0.0" in row
    assert run("device", device.id, "--json").json()["told"]["pins"] == {"tacho": "1.0.0"}
    await device.say(Phase.SUCCEEDED, update=update)
    await until(lambda: len(controller.get(f"/devices/{device.id}/events").json()["items"]) == 3)
    assert "waits   tacho" not in run("device", device.id).text


async def test_a_rollout_says_why_its_devices_are_deferred_and_until_when(
    run: Run, controller: ControllerProcess, device: FakeDevice, pushed: str, channel: str
) -> None:
    rollout = run("release", pushed, "1.0.0", "--channel", channel, "--json").json()["id"]
    announced = await device.announcement("1.0.0")
    detail = {"reason": "window", "until": "2026-03-01T13:00:00Z"}
    await device.say(Phase.DEFERRED, rollout=announced.rollout, package=pushed, detail=detail)
    await until(lambda: controller.get(f"/rollouts/{rollout}").json()["rollout"]["verdicts"] == {"deferred": 1})
    waits = f"window, until {time_text(datetime(2026, 3, 1, 13, tzinfo=UTC))}"
    text = run("rollout", rollout).text
    assert f"deferred 1 ({waits})" in text.splitlines()
    (row,) = [line for line in text.splitlines() if line.startswith(device.id)]
    assert row.endswith(f"{pushed} 1.0.0 deferred: {waits}")
    seen = controller.get(f"/rollouts/{rollout}").json()["devices"]["items"][0]["update"]["waits"]
    assert seen == {"reason": "window", "because": "", "until": "2026-03-01T13:00:00Z"}


async def test_a_rollout_is_shown_with_its_failures(
    run: Run, controller: ControllerProcess, device: FakeDevice, pushed: str, channel: str
) -> None:
    rollout = run("release", pushed, "1.0.0", "--channel", channel, "--json").json()["id"]
    announced = await device.announcement("1.0.0")
    await device.update(announced, Phase.ACCEPTED, Phase.ROLLED_BACK, from_version="0.9.0")
    await until(lambda: controller.get(f"/rollouts/{rollout}").json()["rollout"]["verdicts"] == {"rolled_back": 1})

    detail = run("rollout", rollout, "--json").json()
    assert detail["failures"][0]["code"] == "health.http"
    text = run("rollout", rollout).text
    assert text.startswith(f"{pushed} 1.0.0 on channel {channel}: ")
    for words in ("rolled_back 1", device.id, "0.9.0", "1 x health.http: no answer", "  | last line"):
        assert words in text, text
    rows = [line for line in run("rollouts").text.splitlines() if line.startswith(rollout)]
    assert len(rows) == 1
    assert rows[0].split()[1:4] == [pushed, "1.0.0", channel]
    assert rollout in [one["id"] for one in run("rollouts", "--json", "--limit", "1000").json()]


def heard(device: FakeDevice, state: str) -> bool:
    return state in [one.state.value for one in device.announcements]


async def test_an_operator_pauses_resumes_halts_and_reverts(
    run: Run, device: FakeDevice, pushed: str, channel: str
) -> None:
    rollout = run("release", pushed, "1.0.0", "--channel", channel, "--json").json()["id"]
    for command, state in (("pause", "paused"), ("resume", "active"), ("halt", "halted"), ("revert", "reverted")):
        text = run(command, rollout).text
        assert text.startswith(f"{pushed} 1.0.0 on channel {channel} is {state}"), text
        assert (f"flotilla revert {rollout[:TIME_PART]}" in text) is (state in ("paused", "halted")), text
        await device.until(partial(heard, device, state))
    shown = run("rollout", rollout[:-6]).text
    assert re.search(r"^reverted since \S+ \S+, by local:loopback$", shown, re.MULTILINE), shown
    assert "reverted by somebody at the controller's machine" in shown
    assert "pending" not in shown
    assert "wait" not in shown
    assert run("revert", rollout, "--json").json()["state"] == "reverted"
    assert "reverted" in run("resume", rollout).complaint()
    assert run("rollout", rollout, "--json").json()["rollout"]["state"] == "reverted"


PLAN = """
on_failure = "halt"

[[wave]]
devices = 1
max_failures = 0

[[wave]]
upto = 100
approval = true
"""


async def test_a_plan_is_followed_approved_and_shown(
    run: Run, device: FakeDevice, pushed: str, channel: str, tmp_path: Path
) -> None:
    plan = tmp_path / "mine.toml"
    plan.write_text(PLAN)
    text = run("release", pushed, "1.0.0", "--channel", channel, "--plan", str(plan)).text
    assert "plan mine: 1 device → everybody; wave 1 of 2 (1 device): waits for 1 pending" in text
    announced = await device.announcement("1.0.0")
    assert "does not wait for anybody" in run("approve", announced.rollout).complaint()
    await device.update(announced, Phase.ACCEPTED, Phase.SUCCEEDED)
    await until(lambda: "awaiting approval" in run("rollout", announced.rollout).text)
    text = run("rollout", announced.rollout).text
    for words in ("WAVE  WHO", "1     1 device   proven", f"flotilla approve {announced.rollout}", device.id):
        assert words in text, text
    top = run("top", announced.rollout).text
    assert f"{pushed} 1.0.0 on {channel}" in top
    assert "awaiting approval" in top
    assert channel in run("top", "--limit", "50").text
    assert run("approve", announced.rollout, "--json").json()["wave"] == 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--plan", "reckless"), "neither a file nor one of"),
        (("--wave", "upto=5,soak=ten"), "soak"),
        (("--wave", "upto=50", "--wave", "upto=5"), "wave 2"),
        (("--plan", "canary", "--wave", "upto=5"), "--plan"),
        (("--on-failure", "halt"), "--wave"),
        (("--set", "--plan", "canary"), "set"),
    ],
)
def test_a_plan_that_cannot_be_gets_one_line(run: Run, options: tuple[str, ...], says: str) -> None:
    assert says in run("release", "tacho", "1.0.0", "--channel", "stable", *options).complaint()


async def test_an_operator_asks_and_tells_a_device(run: Run, device: FakeDevice, pushed: str) -> None:
    assert run("ask", device.id, "report").text.startswith(f"asked {device.id} to report")
    sent = run("ask", device.id, "rollback", "--package", pushed, "--expires", "60", "--json").json()
    await device.until(lambda: len(device.commands) == 2)
    assert [(one.verb.value, one.args) for one in device.commands] == [
        ("report", {}),
        ("rollback", {"package": pushed}),
    ]
    assert device.commands[1].id == sent["id"]
    assert "--package NAME" in run("ask", device.id, "rollback").complaint()
    assert "--package goes with" in run("ask", device.id, "report", "--package", "tacho").complaint()
    unknown = run("ask", device.id, "retry", "--package", "nobodys")
    assert "neither the device nor the repository has a package nobodys" in unknown.stderr

    options = ("--channel", "beta", "--pin", "tacho=1.0.0", "--tag", "site=cellar", "--hold")
    assert run("tell", device.id, *options).text == (
        f"told {device.id}, revision 1: channel beta, tag site=cellar, pin tacho=1.0.0, hold, and nothing else\n"
    )
    row = next(line for line in run("devices").text.splitlines() if line.startswith(device.id))
    assert "on hold, tacho pinned at 1.0.0, channel beta, tags site=cellar" in row
    shown = run("device", device.id).text
    assert "told    to follow channel beta\ntold    to have the tags site=cellar\n" in shown
    assert run("tell", device.id).text == (
        f"told {device.id}, revision 2: nothing special any more\n"
        "not any more: channel beta, tag site=cellar, pin tacho=1.0.0, hold\n"
    )
    await device.until(lambda: [one.rev for one in device.desired] == [1, 2])
    first, second = device.desired
    assert (first.channel, first.pins, first.tags, first.hold) == (
        "beta",
        {"tacho": "1.0.0"},
        {"site": "cellar"},
        True,
    )
    assert (second.channel, second.pins, second.tags, second.hold) == (None, None, None, None)
    assert "--pin" in run("tell", device.id, "--pin", "tacho").complaint()
    assert "--pin tacho: 'newest' is not a SemVer" in run("tell", device.id, "--pin", "tacho=newest").complaint()
    assert "channel" in run("tell", device.id, "--channel", "No Good").complaint()


@pytest.mark.parametrize(
    "at", [datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))), datetime(9999, 12, 31, 23, tzinfo=NEW_YORK)]
)
async def test_no_word_of_a_device_takes_the_sight_of_it_away(
    run: Run, controller: ControllerProcess, device: FakeDevice, pushed: str, at: datetime
) -> None:
    async with watching(controller) as watch:
        rollout = run("release", pushed, "1.0.0", "--channel", device.channel, "--json").json()["id"]
        announced = await device.announcement("1.0.0")
        await device.say(Phase.ACCEPTED, rollout=announced.rollout, package=pushed, at=at)
        progress = Progress(bytes_done=10**400, bytes_total=10**400)
        await device.say(Phase.FETCHING, rollout=announced.rollout, package=pushed, at=at, progress=progress)
        await device.report(seq=device.seq, facts={"disk_free": 10**400}, at=at)
        await line_of(watch, "fetching")
    await until(lambda: controller.get(f"/devices/{device.id}").json()["facts"] == {"disk_free": 10**400})
    for command in (("devices",), ("device", device.id), ("rollouts",), ("rollout", rollout), ("top", rollout)):
        said = run(*command)
        assert (said.status, said.stderr) == (0, ""), command
    for path in ("/", "/devices", f"/devices/{device.id}", f"/rollouts/{rollout}"):
        assert controller.call("GET", path, headers={"Accept": "text/html"}).status == 200, path


async def test_devices_that_are_gone_are_forgotten_and_none_while_one_is_there(
    run: Run, controller: ControllerProcess, broker: Broker, channel: str, unique: Callable[[str], str]
) -> None:
    gone, other = unique("pi"), unique("pi")

    def shown() -> set[str]:
        return {gone, other} & {line.split()[0] for line in run("devices").text.splitlines() if line}

    async with fake_device(broker.url, gone, topic_root=controller.topic_root, channel=channel) as fake:
        await fake.report()
        await until(lambda: controller.get(f"/devices/{gone}").json().get("channel") == channel)
    async with fake_device(broker.url, other, topic_root=controller.topic_root, channel=channel) as fake:
        await fake.report()
        await until(lambda: controller.get(f"/devices/{other}").json().get("channel") == channel)
        await until(lambda: not controller.get(f"/devices/{gone}").json()["online"])
        refused = run("forget", gone, other).complaint()
        assert f"{other}: there, and back with the next word; stop the agent first; nothing was forgotten" in refused
        assert shown() == {gone, other}
    await until(lambda: not controller.get(f"/devices/{other}").json()["online"])
    nobody = unique("pi")
    assert f"no device {nobody} has been heard of" in run("forget", gone, nobody).complaint()
    assert shown() == {gone, other}
    said = "".join(f"forgot {one}; should it speak again, it is a new device\n" for one in (gone, other))
    assert run("forget", gone, other, gone).text == said
    assert shown() == set()
    assert f"no device {gone} has been heard of" in run("forget", gone, "--yes").complaint()
    assert "device.forget" in run("audit").text


def test_the_beginning_of_a_rollout_s_id_is_enough_where_no_other_begins_so(
    run: Run, pushed: str, channel: str
) -> None:
    rollout = run("release", pushed, "1.0.0", "--channel", channel, "--json").json()["id"]
    beginning = rollout[:-6]
    assert run("pause", beginning, "--json").json()["id"] == rollout
    assert pushed in run("top", beginning).text
    for command in ("resume", "halt", "cancel"):
        run(command, beginning)
    assert run("rollout", beginning, "--json").json()["rollout"]["state"] == "halted"
    other = run("release", pushed, "1.0.0", "--channel", f"{channel}-2", "--json").json()["id"]
    line = run("halt", rollout[:1]).complaint()
    assert "begins several rollouts" in line
    assert line.strip().endswith("see: flotilla rollouts")
    assert run("rollout", other, "--json").json()["rollout"]["state"] == "active"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("device", "nobody"), "nobody"),
        (("device", "../packages"), "../packages"),
        (("device", "a/b"), "a/b"),
        (("rollout", NO_ROLLOUT), NO_ROLLOUT),
        (("rollout", "x"), "there is no rollout x; those that there are: flotilla rollouts"),
        (("pause", NO_ROLLOUT), NO_ROLLOUT),
        (("ask", "nobody", "report"), "nobody"),
        (("tell", "nobody", "--hold"), "nobody"),
    ],
)
def test_what_is_not_there_gets_one_line(run: Run, arguments: tuple[str, ...], says: str) -> None:
    assert says in run(*arguments).complaint()


# The live view


@asynccontextmanager
async def watching(
    controller: ControllerProcess, *options: str, warning: str | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """`flotilla watch` as a process that is connected, and has warned of this before."""
    watch = await asyncio.create_subprocess_exec(
        program("flotilla"),
        "watch",
        *options,
        env={**os.environ, "FLOTILLA_URL": controller.url, "TZ": "UTC", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert watch.stderr is not None
        if warning is not None:
            assert warning.encode() in await asyncio.wait_for(watch.stderr.readline(), BOUND_S)
        assert b"watching" in await asyncio.wait_for(watch.stderr.readline(), BOUND_S)
        yield watch
    finally:
        if watch.returncode is None:
            watch.kill()
        await watch.communicate()


async def line_of(watch: asyncio.subprocess.Process, word: str) -> str:
    """The next line with this word in it."""
    assert watch.stdout is not None
    async with asyncio.timeout(BOUND_S):
        while True:
            line = (await watch.stdout.readline()).decode()
            assert line, "it ended"
            if word in line:
                return line


async def test_watch_shows_events_as_they_come(
    controller: ControllerProcess, run: Run, device: FakeDevice, pushed: str, channel: str
) -> None:
    async with watching(controller) as watch:
        run("release", pushed, "1.0.0", "--channel", channel)
        announced = await device.announcement("1.0.0")
        assert f"rollout {pushed} 1.0.0 on {channel}: active" in await line_of(watch, pushed)
        await device.update(announced, Phase.ACCEPTED, Phase.FAILED)
        accepted = await line_of(watch, "accepted")
        assert f"{device.id}" in accepted
        assert f"{pushed} 1.0.0" in accepted
        assert "health.http: no answer" in await line_of(watch, "failed")
        # counts have changed meanwhile, which is no line of its own
        assert re.match(rf"\d{{4}}-\d\d-\d\d \S+  rollout {pushed} .*: complete", await line_of(watch, "rollout"))
        watch.send_signal(2)
        _, stderr = await asyncio.wait_for(watch.communicate(), BOUND_S)
        assert (watch.returncode, stderr.strip()) == (130, b"flotilla: interrupted")


async def test_watch_prints_one_object_a_line_and_only_what_is_asked_for(
    controller: ControllerProcess, broker: Broker, device: FakeDevice, unique: Callable[[str], str]
) -> None:
    arguments = ("--json", "--device", device.id, "--package", "wanted")
    async with watching(controller, *arguments) as watch:
        async with fake_device(broker.url, unique("pi"), topic_root=controller.topic_root) as other:
            await other.say(Phase.ACCEPTED, package="wanted")
        await device.say(Phase.ACCEPTED, package="unwanted")
        said = await device.say(Phase.ACCEPTED, package="wanted")
        await device.say(Phase.SUCCEEDED, package="wanted")
        lines = [json.loads(await line_of(watch, "{")) for _ in range(2)]
    first: dict[str, Any] = lines[0]
    assert (first["kind"], first["device"], first["update"]) == ("update", device.id, said.update)
    assert [line["phase"] for line in lines] == ["accepted", "succeeded"]


async def test_watch_says_that_a_device_is_not_known_and_waits_for_it(
    controller: ControllerProcess, broker: Broker, unique: Callable[[str], str]
) -> None:
    name = unique("pi")
    unheard = f"no device {name} has been heard of"
    async with (
        watching(controller, "--device", name, warning=unheard) as watch,
        fake_device(broker.url, name, topic_root=controller.topic_root) as device,
    ):
        await device.say(Phase.ACCEPTED)
        assert name in await line_of(watch, "accepted")


async def test_watch_goes_on_when_the_controller_was_restarted(
    broker: Broker, tmp_path: Path, topic_root: str, unique: Callable[[str], str]
) -> None:
    with controller_process(tmp_path / "data", broker.url, topic_root=topic_root) as own:
        async with (
            watching(own, "--json") as watch,
            fake_device(broker.url, unique("pi"), topic_root=topic_root) as device,
        ):
            seen = await device.say(Phase.ACCEPTED)
            assert json.loads(await line_of(watch, '"kind":"update"'))["update"] == seen.update
            await asyncio.to_thread(own.stop)
            assert f"{own.url} ended the live view" in await line_of(watch, '"answers":false')
            missed = await device.say(Phase.SUCCEEDED)
            await asyncio.to_thread(own.start)
            await line_of(watch, '"answers":true')
            assert json.loads(await line_of(watch, '"kind":"update"'))["update"] == missed.update
            await asyncio.to_thread(own.stop)
            await line_of(watch, '"answers":false')
            watch.send_signal(2)
            _, stderr = await asyncio.wait_for(watch.communicate(), BOUND_S)
    assert (watch.returncode, stderr.strip()) == (130, b"flotilla: interrupted")
