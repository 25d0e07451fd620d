"""The agent as a service: its unit, its first configuration, what it tells systemd, what `check` finds."""

import contextlib
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from device_agent.cli.main import main
from device_agent.config import AgentConfig, BrokerAuth, DevicePolicy
from device_agent.config_file import load_config
from device_agent.diagnosis import Finding, examine, summary
from device_agent.install_service import UNIT, agent_command, config_text, install, unit_text
from device_agent.logs import line
from device_agent.owner_rules import Gate
from device_agent.sdnotify import READY, WATCHDOG, Notifier
from device_agent.version import VERSION
from schemas.errors import OperatorError

FULL = AgentConfig(
    id="pi-7",
    root=Path("/data/flotilla"),
    broker="mqtts://b.example:8883",
    channel="beta",
    packages=["tacho"],
    repositories=["https://r.example"],
    trusted_root=Path("/etc/flotilla/root.json"),
    topic_root="plant/flotilla",
    broker_auth=BrokerAuth(username="pi-7", password_file=Path("/etc/flotilla/password"), ca=Path("/etc/ca.pem")),
    tags={"site": 'har"bour'},
    facts={"rack": 3, "spare": True},
    settings={"tacho": {"port": 80, "na.me": "x"}},
    policy=DevicePolicy(
        local_changes="keep-copy",
        services="supervisor",
        install_paths={"tacho": Path("/srv/tacho")},
        windows=["sat,sun 01:00-06:00", "22:00-05:00"],
        fetch_outside_windows=True,
        longest_postponement_s=60,
        reach_broker_s=0,
        max_bytes_per_s=2048,
    ),
    gate=Gate(temperature_c=70, throttled=False),
)


@pytest.mark.parametrize("config", [AgentConfig(id="pi-1"), FULL])
def test_the_first_configuration_says_what_was_given(config: AgentConfig, tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(config_text(config))
    assert load_config(file, {}, host_name="other") == config


def test_the_unit_starts_this_very_agent_with_this_configuration() -> None:
    unit = unit_text(command=["/opt/flotilla/bin/flotilla-agent"], config=Path("/etc/flotilla/agent.toml"))
    assert "ExecStart=/opt/flotilla/bin/flotilla-agent launch --config /etc/flotilla/agent.toml\n" in unit
    assert {"Type=notify", "WatchdogSec=90", "Restart=always"} <= set(unit.splitlines())
    assert "@" not in unit
    assert Path(agent_command()[0]).is_absolute()


@pytest.mark.parametrize("path", ["/with space/agent.toml", "/quo'te", "/dol$lar", "/line\nbreak"])
def test_a_path_that_a_unit_cannot_hold_is_refused(path: str) -> None:
    with pytest.raises(OperatorError, match="a unit needs a path without"):
        unit_text(command=["/bin/x"], config=Path(path))


def test_a_percent_sign_is_not_a_specifier() -> None:
    assert "--config /a%%b\n" in unit_text(command=["/bin/x"], config=Path("/a%b"))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_understands_every_line_of_the_unit(tmp_path: Path) -> None:
    (tmp_path / UNIT).write_text(unit_text(command=["/bin/true"], config=Path("/etc/flotilla/agent.toml")))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / UNIT)], capture_output=True, text=True, check=False
    )
    assert UNIT not in done.stderr, done.stderr


def test_the_unit_leaves_the_launcher_what_it_needs() -> None:
    from device_agent import agent_launcher  # noqa: PLC0415  # beside its only use

    lines = unit_text(command=["/bin/true"], config=Path("/etc/flotilla/agent.toml")).splitlines()
    # only the launcher is heard, and only it is told to end: it passes both on
    assert {"NotifyAccess=main", "KillMode=mixed"} <= set(lines)
    assert "TimeoutStopSec=60" in lines
    assert agent_launcher.STOP_S < 60
    # it changes the link below the root folder, and starts what lies there
    forbidden = ("ProtectSystem=", "ReadOnlyPaths=", "NoExecPaths=", "ProtectHome=", "MemoryDenyWriteExecute=yes")
    assert not [line for line in lines if line.startswith(forbidden)]


def test_both_files_are_written_and_a_configuration_that_exists_is_kept(tmp_path: Path) -> None:
    units, file = tmp_path / "units", tmp_path / "etc/agent.toml"
    units.mkdir()
    said = list(
        install(unit="[Unit]\n", config_file=file, config_text="id = 'a'\n", unit_folder=units, marker=tmp_path / "no")
    )
    assert (units / UNIT).read_text() == "[Unit]\n"
    assert file.read_text() == "id = 'a'\n"
    assert said[0] == f"wrote {file}"
    assert "systemd is not init here" in said[-1]
    said = list(
        install(unit="[Unit]\n", config_file=file, config_text="id = 'b'\n", unit_folder=units, marker=tmp_path / "no")
    )
    assert said[0] == f"kept {file}"
    assert file.read_text() == "id = 'a'\n"


def test_a_configuration_is_its_owners_alone(tmp_path: Path) -> None:
    """It holds settings, and what is rendered with them is no file for everybody either."""
    file = tmp_path / "agent.toml"
    left = tmp_path / ".agent.toml.new"
    left.write_text("cut off")
    left.chmod(0o644)
    again = partial(install, unit="", config_file=file, config_text="", unit_folder=tmp_path / "none", marker=tmp_path)
    assert next(again()) == f"wrote {file}"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert next(again()) == f"kept {file}"
    file.chmod(0o644)
    assert next(again()) == f"kept {file}; other accounts can read it, `chmod 600 {file}` if it holds secrets"


def test_check_says_that_others_can_read_the_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(f"id = 'a'\nroot = '{tmp_path}/root'\nbroker = 'mqtt://127.0.0.1:1'\n[settings.tacho]\nkey = 'x'\n")
    for mode, told in ((0o644, True), (0o600, False)):
        file.chmod(mode)
        main(["check", "--config", str(file)])
        line_of_it = capsys.readouterr().out.splitlines()[0]
        assert line_of_it.startswith("ok  configuration: ")
        assert (f"`chmod 600 {file}`" in line_of_it) is told


def test_without_systemd_only_the_configuration_is_written(tmp_path: Path) -> None:
    said = list(
        install(
            unit="", config_file=tmp_path / "a.toml", config_text="", unit_folder=tmp_path / "none", marker=tmp_path
        )
    )
    assert len(said) == 2
    assert "no systemd" in said[1]


def test_where_systemd_is_init_the_agent_is_enabled_and_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = fake_systemctl(tmp_path, monkeypatch, status=0)
    said = list(
        install(unit="", config_file=tmp_path / "a.toml", config_text="", unit_folder=tmp_path, marker=tmp_path)
    )
    assert record.read_text().splitlines() == ["daemon-reload", f"enable {UNIT}", f"restart {UNIT}"]
    assert "is enabled and runs" in said[-1]


def test_what_systemd_says_no_to_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_systemctl(tmp_path, monkeypatch, status=1)
    with pytest.raises(OperatorError, match="systemctl daemon-reload: it does not like that"):
        list(install(unit="", config_file=tmp_path / "a.toml", config_text="", unit_folder=tmp_path, marker=tmp_path))


def fake_systemctl(folder: Path, monkeypatch: pytest.MonkeyPatch, *, status: int) -> Path:
    program, record = folder / "bin/systemctl", folder / "record"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$*" >> {record}\necho it does not like that >&2\nexit {status}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return record


@pytest.mark.parametrize(
    "abstract", [False, pytest.param(True, marks=pytest.mark.skipif(sys.platform != "linux", reason="Linux only"))]
)
def test_systemd_is_told_what_it_wants_to_know(abstract: bool, tmp_path: Path) -> None:
    name = f"flotilla-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("\0" + name if abstract else name)
        systemd.settimeout(5)
        environment = {"NOTIFY_SOCKET": "@" + name if abstract else name, "WATCHDOG_USEC": "90000000"}
        notifier = Notifier(environment, pid=7)
        notifier.tell(READY, WATCHDOG)
        notifier.status("all is well")
        assert systemd.recv(100) == b"READY=1\nWATCHDOG=1"
        assert systemd.recv(100) == b"STATUS=all is well"
        assert notifier.watchdog_s == 90


def test_without_systemd_nothing_is_told_and_nothing_fails(tmp_path: Path) -> None:
    assert Notifier({}).watchdog_s is None
    Notifier({}).tell(READY)
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).tell(READY)
    other = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "8"}
    assert Notifier(other, pid=7).watchdog_s is None
    assert Notifier({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "many"}).watchdog_s is None


def test_an_entry_of_the_log_is_one_line_that_can_be_split_again() -> None:
    entry = line("staged", 'said "no"\nand went', package="tacho", empty="", none=None, count=0)
    assert str(entry) == 'action=staged package=tacho count=0 message="said \\"no\\" and went"'


@contextlib.contextmanager
def answering(status: int, body: bytes, date: str | None = None) -> Iterator[str]:
    """A web server that gives one answer to everything."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(status)
            if date:
                self.send_header("Date", date)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


async def findings(config: AgentConfig) -> dict[str, Finding]:
    return {one.name: one for one in await examine(config)}


async def test_what_is_wrong_is_found_one_line_each(tmp_path: Path) -> None:
    (tmp_path / "root.json").write_text("{}")
    with answering(404, b"") as url:
        config = AgentConfig(
            id="pi-1",
            root=tmp_path / "new",
            broker="mqtt://127.0.0.1:1",
            repositories=[url, "http://127.0.0.1:1/x"],
            trusted_root=tmp_path / "root.json",
        )
        found = await findings(config)
    assert list(found) == ["broker", "repository", "trusted root", "disk", "clock"]
    assert [name for name, one in found.items() if one.ok] == ["disk", "clock"]
    assert "no connection" in found["broker"].text
    assert "/metadata/timestamp.json answers 404" in found["repository"].text
    assert "127.0.0.1:1/x" in found["repository"].text
    assert found["trusted root"].text.endswith("root.json: is not TUF metadata")
    assert all("\n" not in one.text for one in found.values())
    assert summary(list(found.values())).startswith("broker: mqtt://127.0.0.1:1: no connection")
    assert not (tmp_path / "new").exists()


async def test_a_clock_that_differs_from_the_repositorys_is_found(tmp_path: Path) -> None:
    with answering(200, b'{"signed":{}}', "Wed, 01 Jan 2020 00:00:00 GMT") as url:
        found = await findings(AgentConfig(id="pi-1", root=tmp_path, broker="mqtt://127.0.0.1:1", repositories=[url]))
    assert found["repository"].ok
    assert not found["clock"].ok
    assert "away from the repository's" in found["clock"].text
    assert "set trusted_root in agent.toml" in found["trusted root"].text


async def test_a_web_page_is_no_repository(tmp_path: Path) -> None:
    with answering(200, b"<html>") as url:
        found = await findings(AgentConfig(id="pi-1", root=tmp_path, broker="mqtt://127.0.0.1:1", repositories=[url]))
    assert "is not signed metadata" in found["repository"].text


def test_the_version_as_text_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert capsys.readouterr().out == f"flotilla-agent {VERSION}\n"
    assert main(["version", "--json"]) == 0
    assert f'"agent": "{VERSION}"' in capsys.readouterr().out


@pytest.mark.parametrize(
    "command", ["run", "launch", "status", "install", "rollback", "hold", "check", "install-service", "version"]
)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"usage: flotilla-agent {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["status", "--root", "{tmp}/none"], 1, "no agent has ever run there"),
        (["status", "--config", "{tmp}/none.toml"], 1, "no such file"),
        (["install", "{tmp}/none.flotilla"], 2, "no such file"),
        (["rollback", "../x"], 2, "is not a package name"),
        (["run", "--channel", "No"], 1, "--channel: must be"),
        (["run", "--trusted-root", "{tmp}/none.json", "--root", "{tmp}/r"], 1, "cannot be read"),
        (["run", "--tag", "x"], 2, "write KEY=VALUE"),
    ],
)
def test_a_mistake_is_one_line_and_a_status(
    words: list[str], code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [word.replace("{tmp}", str(tmp_path)) for word in words]
    assert main([*given, "--id", "pi-1"]) == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("flotilla-agent: ")
    assert said in lines[0]


def test_check_says_what_is_wrong_with_the_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "agent.toml").write_text("chanel = 'x'")
    assert main(["check", "--config", str(tmp_path / "agent.toml")]) == 1
    out = capsys.readouterr().out
    assert out.startswith("BAD configuration: ")
    assert "did you mean `channel`?" in out


def test_printing_the_unit_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["install-service", "--print", "--config", str(tmp_path / "agent.toml")]) == 0
    assert "Type=notify" in capsys.readouterr().out
    assert not (tmp_path / "agent.toml").exists()
