"""Services by systemd: the units' text, which calls are made, and what counts as failed."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from device_agent.seams import ReleaseContext
from device_agent.services import pick_service_manager
from device_agent.services.supervisor import Supervisor
from device_agent.services.systemd import SystemdServices
from device_agent.services.unit_file import quoted
from schemas.errors import DeviceError
from schemas.manifest import Service
from tests.unit.agent_leaves.builders import release_context
from tests.unit.agent_leaves.fake_clock import FakeClock
from tests.unit.agent_leaves.fake_systemd import FakeSystemd

WEB = Service(name="web", command=["sleep", "${settings.time}"], environment={"MODE": "a b"})
UNIT = "flotilla-tacho.web.service"


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSystemd:
    made = FakeSystemd(tmp_path / "systemd")
    monkeypatch.setenv("PATH", made.path)
    return made


def manager(fake: FakeSystemd, tmp_path: Path, clock: FakeClock | None = None) -> SystemdServices:
    return SystemdServices(tmp_path / "root", unit_folder=fake.units, clock=clock or FakeClock())


def context(tmp_path: Path) -> ReleaseContext:
    (tmp_path / "root").mkdir(exist_ok=True)
    return release_context(tmp_path, settings__time="100")


async def test_a_command_becomes_a_unit_that_is_enabled_and_started(fake: FakeSystemd, tmp_path: Path) -> None:
    services = manager(fake, tmp_path)
    await services.start([WEB], context(tmp_path))
    assert fake.calls() == [["daemon-reload"], ["enable", UNIT], ["restart", UNIT]]
    text = (fake.units / UNIT).read_text()
    for line in (
        "Type=exec",
        f"WorkingDirectory={tmp_path}/releases/1.0.0",
        f'ExecStart=":{shutil.which("sleep")}" "100"',
        'Environment="MODE=a b"',
        'Environment="FLOTILLA_VERSION=1.0.0"',
        "Restart=always",
        "TimeoutStopSec=10",
    ):
        assert line in text.splitlines()
    assert [p.name for p in fake.units.iterdir()] == [UNIT]
    assert await services.failed("tacho", [WEB]) == ""


async def test_starting_what_runs_changes_nothing_and_another_release_restarts_it(
    fake: FakeSystemd, tmp_path: Path
) -> None:
    first = context(tmp_path)
    await manager(fake, tmp_path).start([WEB], first)
    fake.calls()
    await manager(fake, tmp_path).start([WEB], first)
    assert fake.calls() == []
    other = tmp_path / "releases" / "1.1.0"
    other.mkdir()
    second = ReleaseContext(
        package="tacho", version="1.1.0", folder=other, state_folder=first.state_folder, values=first.values
    )
    await manager(fake, tmp_path).start([WEB], second)
    assert fake.calls() == [["daemon-reload"], ["enable", UNIT], ["restart", UNIT]]
    assert f"WorkingDirectory={other}" in fake.started_with(UNIT)


async def test_after_a_power_cut_between_writing_and_starting_the_unit_is_started(
    fake: FakeSystemd, tmp_path: Path
) -> None:
    here = context(tmp_path)
    await manager(fake, tmp_path).start([WEB], here)
    fake.calls()
    (tmp_path / "root/run/tacho.web.release").unlink()
    await manager(fake, tmp_path).start([WEB], here)
    assert fake.calls() == [["daemon-reload"], ["enable", UNIT], ["restart", UNIT]]


async def test_stop_and_remove_leave_nothing(fake: FakeSystemd, tmp_path: Path) -> None:
    services = manager(fake, tmp_path)
    await services.start([WEB], context(tmp_path))
    fake.calls()
    await services.stop("tacho", [WEB])
    assert fake.calls() == [["stop", UNIT]]
    assert (fake.units / UNIT).exists()
    await services.remove("tacho", [WEB])
    assert [call for call in fake.calls() if call[0] != "stop"] == [
        ["disable", UNIT],
        ["reset-failed", UNIT],
        ["daemon-reload"],
    ]
    assert not list(fake.units.iterdir())
    await services.remove("tacho", [WEB])
    assert fake.calls() == [["daemon-reload"]]


async def test_an_existing_unit_is_restarted_once_a_release_and_never_stopped(
    fake: FakeSystemd, tmp_path: Path
) -> None:
    fake.exists("lighttpd.service")
    services, here = manager(fake, tmp_path), context(tmp_path)
    httpd = Service(name="httpd", unit="lighttpd.service")
    await services.start([httpd], here)
    await services.start([httpd], here)
    assert fake.calls() == [["restart", "lighttpd.service"]]
    await services.stop("tacho", [httpd])
    await services.remove("tacho", [httpd])
    assert fake.calls() == [["daemon-reload"]]
    await services.start([httpd], here)
    assert fake.calls() == [["restart", "lighttpd.service"]]


async def test_what_cannot_be_started_is_told_with_systemds_words(fake: FakeSystemd, tmp_path: Path) -> None:
    with pytest.raises(DeviceError) as caught:
        await manager(fake, tmp_path).start([Service(name="x", unit="absent.service")], context(tmp_path))
    assert caught.value.code == "service.start"
    assert "Job for absent.service failed." in caught.value.message


async def test_a_program_that_is_not_there_is_told_before_a_unit_is_written(fake: FakeSystemd, tmp_path: Path) -> None:
    with pytest.raises(DeviceError) as caught:
        await manager(fake, tmp_path).start([Service(name="web", command=["./absent"])], context(tmp_path))
    assert caught.value.code == "service.unit"
    assert "'./absent' does not exist" in caught.value.message
    assert fake.calls() == []
    assert not list(fake.units.iterdir())


async def test_a_unit_of_another_agent_is_left_alone(fake: FakeSystemd, tmp_path: Path) -> None:
    await manager(fake, tmp_path).start([WEB], context(tmp_path))
    fake.calls()
    other = SystemdServices(tmp_path / "other", unit_folder=fake.units, clock=FakeClock())
    with pytest.raises(DeviceError) as caught:
        await other.start([WEB], context(tmp_path))
    assert caught.value.code == "service.unit"
    assert f"belongs to another agent, in {tmp_path}/root" in caught.value.message
    await other.stop("tacho", [WEB])
    assert fake.calls() == []


@pytest.mark.parametrize(
    ("properties", "says"),
    [
        ({"ActiveState": "active"}, ""),
        ({"ActiveState": "reloading"}, ""),
        (
            {"ActiveState": "failed", "SubState": "failed", "ExecMainCode": "1", "ExecMainStatus": "7"},
            f"service web ({UNIT}) is down: failed, failed; it ended with status 7",
        ),
        (
            {"ActiveState": "activating", "SubState": "auto-restart", "ExecMainCode": "2", "ExecMainStatus": "9"},
            f"service web ({UNIT}) is down: activating, auto-restart; it was ended by SIGKILL",
        ),
        ({"ActiveState": "inactive", "SubState": "dead"}, f"service web ({UNIT}) is down: inactive, dead"),
        (
            {"NRestarts": "3", "ExecMainCode": "1", "ExecMainStatus": "1"},
            f"service web ({UNIT}) keeps ending: 3 times within 60 s, last it ended with status 1",
        ),
    ],
)
async def test_a_service_that_is_down_or_keeps_ending_has_failed(
    fake: FakeSystemd, tmp_path: Path, properties: dict[str, str], says: str
) -> None:
    services = manager(fake, tmp_path)
    await services.start([WEB], context(tmp_path))
    assert await services.failed("tacho", [WEB]) == ""
    fake.set(UNIT, **properties)
    failed = await services.failed("tacho", [WEB])
    assert failed.startswith(says)
    assert bool(failed) == bool(says)


async def test_old_restarts_are_forgiven(fake: FakeSystemd, tmp_path: Path) -> None:
    clock = FakeClock()
    services = manager(fake, tmp_path, clock)
    await services.start([WEB], context(tmp_path))
    for count in ("2", "4", "6"):
        fake.set(UNIT, NRestarts=count)
        assert await services.failed("tacho", [WEB]) == ""
        clock.advance(61)


async def test_a_service_that_may_end_is_not_down_when_it_has(fake: FakeSystemd, tmp_path: Path) -> None:
    once = Service(name="web", command=["true"], restart="never")
    services = manager(fake, tmp_path)
    await services.start([once], context(tmp_path))
    fake.set(UNIT, ActiveState="inactive", SubState="dead", Result="success")
    assert await services.failed("tacho", [once]) == ""


async def test_output_comes_from_the_journal(fake: FakeSystemd, tmp_path: Path) -> None:
    fake.exists("a.service")
    services = manager(fake, tmp_path)
    assert services.output("tacho") == ""
    await services.start([WEB, Service(name="a", unit="a.service")], context(tmp_path))
    assert services.output("tacho") == f"line of a.service {UNIT}\n"
    assert manager(fake, tmp_path).output("tacho") == f"line of {UNIT}\n"


NASTY = [
    "plain",
    "",
    "two words",
    'quo"te',
    "apo'strophe",
    "back\\slash",
    "ends with \\",
    "line\nExecStartPre=/bin/evil\r\n[Service]",
    "tab\tbell\a",
    "100% %h %n",
    "$HOME ${HOME} $$",
    ";",
    "-x",
    "@",
    "ümlaut ☃",
    "#",
    "\\x41 \\n",
]


@pytest.mark.parametrize("text", NASTY)
def test_a_quoted_word_is_read_back_as_it_was(text: str) -> None:
    """Reads by the rules of systemd.syntax(7), written down here a second time."""
    word = quoted(text)
    assert word[0] == word[-1] == '"'
    assert "\n" not in word
    assert "\r" not in word
    escapes = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", '"': '"'}

    def unescape(found: re.Match[str]) -> str:
        return chr(int(found[1][1:], 16)) if found[1][0] == "x" else escapes[found[1]]

    inner = word[1:-1]
    assert not re.search(r'(?<!\\)(\\\\)*"', inner)
    read = re.sub(r"\\(x[0-9a-f]{2}|.)", unescape, inner)
    assert not re.search(r"(?<!%)%(%%)*(?!%)", read)
    assert read.replace("%%", "%") == text


async def test_values_cannot_add_lines_to_a_unit(fake: FakeSystemd, tmp_path: Path) -> None:
    here = context(tmp_path)
    values = {**here.values, "settings.time": "\n".join(NASTY)}
    evil = ReleaseContext(
        package="tacho", version="1.0.0", folder=here.folder, state_folder=here.state_folder, values=values
    )
    service = Service(name="web", command=["sleep", "${settings.time}"], environment={"X": "${settings.time}"})
    services = manager(fake, tmp_path)
    await services.start([WEB], here)
    lines = len((fake.units / UNIT).read_text().splitlines())
    await services.start([service], evil)
    text = (fake.units / UNIT).read_text()
    assert len(text.splitlines()) == lines - 1  # FLOTILLA_VERSION is not in this environment
    assert not re.search("^ExecStartPre", text, re.MULTILINE)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
async def test_systemd_itself_accepts_the_unit(fake: FakeSystemd, tmp_path: Path) -> None:
    service = Service(name="web", command=["sleep", *NASTY], environment={f"V{i}": t for i, t in enumerate(NASTY)})
    here = context(tmp_path)
    escaped = [argument.replace("$", "$$") for argument in service.command or []]
    service = Service(name="web", command=escaped)
    await manager(fake, tmp_path).start([service], here)
    told = subprocess.run(  # noqa: ASYNC221  # a test may block
        ["systemd-analyze", "verify", "--man=no", str(fake.units / UNIT)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert UNIT not in told.stderr, told.stderr


@pytest.mark.parametrize("name", ["A-B", "A.B"])
async def test_a_variable_that_systemd_would_drop_is_refused(fake: FakeSystemd, tmp_path: Path, name: str) -> None:
    service = Service(name="web", command=["true"], environment={name: "x"})
    with pytest.raises(DeviceError) as caught:
        await manager(fake, tmp_path).start([service], context(tmp_path))
    assert caught.value.code == "service.unit"
    assert repr(name) in caught.value.message


def test_the_manager_fits_the_machine(fake: FakeSystemd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "booted"
    assert isinstance(pick_service_manager(tmp_path, systemd_marker=marker), Supervisor)
    marker.mkdir()
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert isinstance(pick_service_manager(tmp_path, systemd_marker=marker), SystemdServices)
    assert isinstance(pick_service_manager(tmp_path, kind="supervisor", systemd_marker=marker), Supervisor)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert isinstance(pick_service_manager(tmp_path, systemd_marker=marker), Supervisor)
    assert isinstance(pick_service_manager(tmp_path, kind="systemd", systemd_marker=marker), SystemdServices)
