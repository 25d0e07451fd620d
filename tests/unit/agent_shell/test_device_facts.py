"""What the agent finds out by itself, the time it goes by, and whom it trusts."""

import errno
import json
import os
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import pytest

from device_agent import facts, timekeeping, trust, trusted_root
from device_agent.config import AgentConfig, DevicePolicy
from device_agent.device import Device
from device_agent.gate import Readings
from device_agent.timekeeping import KeptClock, local_zone
from device_agent.trusted_root import adopt_trusted_root, load_trusted_root
from device_agent.updates import Install, Release
from device_agent.version import VERSION
from schemas.errors import DeviceError, OperatorError, TrustError
from schemas.messages import Desired
from schemas.names import PLATFORM_PATTERN, matches
from tests.unit.agent_shell.fakes import NOW

ROOT_METADATA = json.dumps({"signed": {"_type": "root"}, "signatures": []}).encode()


def test_facts_are_those_of_the_contract_and_the_owners_win(tmp_path: Path) -> None:
    found = facts.gather_facts(tmp_path / "not/there/yet", {"rack": 3, "os": "mine"})
    assert {"model", "platform", "os", "python", "agent_version", "disk_free", "memory", "boot_id"} <= set(found)
    assert (found["rack"], found["os"], found["agent_version"]) == (3, "mine", VERSION)
    assert isinstance(found["disk_free"], int)
    assert found["disk_free"] > 0
    assert matches(PLATFORM_PATTERN, str(found["platform"]))


def test_a_fact_that_cannot_be_found_out_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> int:
        raise OSError("no such thing")

    monkeypatch.setattr(facts, "memory", broken)
    assert "memory" not in facts.gather_facts(tmp_path, {})


@pytest.mark.parametrize(
    ("system", "machine", "wide", "platform"),
    [
        ("linux", "aarch64", True, "linux-aarch64"),
        ("linux", "aarch64", False, "linux-armv7l"),
        ("linux", "armv6l", False, "linux-armv6l"),
        ("linux", "x86_64", True, "linux-x86_64"),
        ("linux", "AMD64", True, "linux-x86_64"),
        ("darwin", "arm64", True, "macos-arm64"),
    ],
)
def test_the_platform_is_what_programs_run_on(system: str, machine: str, wide: bool, platform: str) -> None:
    assert facts.device_platform(system=system, machine=machine, wide=wide) == platform


def test_a_pis_model_and_serial_come_from_its_device_tree(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"Raspberry Pi 4 Model B Rev 1.4\0")
    (tmp_path / "serial-number").write_bytes(b"10000000abcdef01\0")
    assert facts.model(tmp_path, tmp_path) == "Raspberry Pi 4 Model B Rev 1.4"
    assert facts.serial(tmp_path) == "10000000abcdef01"
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nSerial\t\t: 00000000deadbeef\n")
    assert facts.serial(tmp_path / "none", cpuinfo) == "00000000deadbeef"
    (tmp_path / "os-release").write_text('NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n')
    assert facts.os_name(tmp_path / "os-release") == "Debian GNU/Linux 12 (bookworm)"


def test_the_version_is_the_distributions() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    assert project["version"] == VERSION


def test_the_device_is_described_with_what_it_was_told(tmp_path: Path) -> None:
    config = AgentConfig(
        id="pi-1", root=tmp_path, packages=["camera"], tags={"site": "a"}, settings={"tacho": {"port": 80}}
    )
    release = Release(version="1.0.0", manifest="0" * 64, installed_at=NOW)
    device = Device(
        config,
        desired=lambda: Desired(rev=1, channel="beta", tags={"site": "b"}, pins={"radio": "2.0.0"}),
        installs=lambda: {"tacho": Install(package="tacho", current=release)},
        zone=lambda: UTC,
    )
    device.note_check("ok")
    view, profile = device.view(), device.profile()
    assert (view.channel, view.tags, view.every_package) == ("beta", {"site": "b"}, False)
    assert view.followed_packages() == {"camera", "radio", "tacho"}
    assert view.facts["check"] == "ok"
    assert (profile.tags, profile.settings, profile.agent_version) == (
        {"site": "b"},
        {"tacho": {"port": "80"}},
        VERSION,
    )
    assert profile.platform == facts.device_platform()


def test_what_is_known_of_the_devices_health_is_among_its_facts(tmp_path: Path) -> None:
    weather = [Readings(temperature_c=61.4, under_voltage=True), Readings()]
    device = Device(
        AgentConfig(id="pi-1", root=tmp_path, facts={"under_voltage": "never"}),
        desired=lambda: None,
        installs=dict,
        zone=lambda: UTC,
        readings=lambda: weather.pop(0),
    )
    assert device.facts().items() >= {"temperature_c": 61, "under_voltage": "never"}.items()
    assert "temperature_c" not in device.facts()


def test_the_owners_windows_count_for_the_start_unless_they_are_for_the_switch_only(tmp_path: Path) -> None:
    for anytime, windows in ((False, 1), (True, 0)):
        policy = DevicePolicy(windows=["22:00-05:00"], fetch_outside_windows=anytime)
        config = AgentConfig(id="pi-1", root=tmp_path, policy=policy)
        device = Device(config, desired=lambda: None, installs=dict, zone=lambda: UTC)
        assert len(device.view().windows) == windows
        assert len(config.rules().windows) == 1


def test_the_clock_does_not_go_behind_what_was_proven(tmp_path: Path) -> None:
    assert abs((KeptClock(tmp_path).now() - datetime.now(UTC)).total_seconds()) < 5
    assert KeptClock(tmp_path).behind_s == 0
    proven = datetime.now(UTC) + timedelta(days=3)
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata/last-seen").write_text(proven.isoformat())
    assert KeptClock(tmp_path).now() == proven
    assert KeptClock(tmp_path).behind_s == pytest.approx(3 * 86_400, abs=5)
    (tmp_path / "metadata/last-seen").write_text("nonsense")
    assert KeptClock(tmp_path).behind_s == 0


def test_the_proven_time_is_where_the_trust_store_notes_it() -> None:
    assert timekeeping.LAST_SEEN == trust.LAST_SEEN


def test_the_local_zone(tmp_path: Path) -> None:
    assert local_zone("Asia/Tokyo") == ZoneInfo("Asia/Tokyo")
    assert local_zone(":Asia/Tokyo") == ZoneInfo("Asia/Tokyo")
    assert local_zone("No/Where", tmp_path / "none") is UTC
    assert local_zone(None, tmp_path / "none") is UTC
    (tmp_path / "localtime").write_bytes(b"no zone")
    assert local_zone(None, tmp_path / "localtime") is UTC


def test_a_disk_that_refuses_the_trusted_root_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_file(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    given = tmp_path / "root.json"
    given.write_bytes(ROOT_METADATA)
    monkeypatch.setattr(trusted_root, "write_file", write_file)
    with pytest.raises(DeviceError) as refused:
        adopt_trusted_root(tmp_path / "agent", given)
    assert refused.value.code == "disk.full"


def test_the_trusted_root_is_taken_once_and_never_replaced(tmp_path: Path) -> None:
    given, device = tmp_path / "root.json", tmp_path / "device"
    given.write_bytes(ROOT_METADATA)
    assert "trusting" in adopt_trusted_root(device, given)
    assert adopt_trusted_root(device, given) == ""
    given.write_bytes(ROOT_METADATA + b" ")
    assert "that stays in force" in adopt_trusted_root(device, given)
    assert load_trusted_root(device) == ROOT_METADATA
    given.unlink()
    assert adopt_trusted_root(device, given) == ""
    assert adopt_trusted_root(device, None) == ""


def test_without_a_trusted_root_nothing_can_be_installed(tmp_path: Path) -> None:
    assert "nothing can be installed" in adopt_trusted_root(tmp_path, None)
    with pytest.raises(TrustError, match="trusts nobody yet"):
        load_trusted_root(tmp_path)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, "cannot be read: No such file"),
        (b"no json", "is not TUF metadata"),
        (b'{"signed":{"_type":"targets"}}', "is TUF metadata of type 'targets', not root"),
        (b"[]", "is not TUF metadata"),
        (b" " * (9 * 1024 * 1024), "is too large"),
    ],
)
def test_a_file_that_is_no_trusted_root_is_refused_and_not_kept(
    content: bytes | None, line: str, tmp_path: Path
) -> None:
    given = tmp_path / "root.json"
    if content is not None:
        given.write_bytes(content)
    with pytest.raises(OperatorError) as caught:
        adopt_trusted_root(tmp_path / "device", given)
    assert str(caught.value).startswith(f"trusted_root {given}: {line}")
    assert not (tmp_path / "device").exists()


def test_time_goes_on_where_the_machine_stays_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passed = 1000.0
    monkeypatch.setattr(timekeeping, "time", SimpleNamespace(monotonic=lambda: passed))
    proven = datetime.now(UTC) + timedelta(days=3)
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata/last-seen").write_text(proven.isoformat())
    clock = KeptClock(tmp_path)
    assert clock.now() == proven
    for seconds in (7, 3600, 7200):
        passed = 1000.0 + seconds
        assert clock.now() == proven + timedelta(seconds=seconds)
    assert clock.behind_s == pytest.approx(3 * 86_400 + 7200, abs=5)


def test_what_is_proven_while_the_agent_runs_counts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, later = KeptClock(tmp_path), datetime.now(UTC) + timedelta(days=1)
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata/last-seen").write_text(later.isoformat())
    assert clock.now() < later  # not asked for at every look
    monkeypatch.setattr(timekeeping, "LOOK_EVERY_S", 0)
    assert clock.now() == later
    (tmp_path / "metadata/last-seen").write_text("2025-06-01T00:00:00+00:00")
    assert clock.now() == later
