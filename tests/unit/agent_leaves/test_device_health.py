"""What is read of the device's health, with folders that look like the kernel's, and what the limits make of it."""

from pathlib import Path
from typing import Any

import pytest

from device_agent.gate import MIB, Limits, Readings, facts_of, trouble_with
from device_agent.kernel import read_health

LIMITS = Limits(
    disk_free_mib=10, memory_free_mib=20, temperature_c=80, under_voltage=True, throttled=True, clock_behind_s=3600
)


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def pi(root: Path, *, temperature: str = "48312", alarm: str = "0", throttled: str = "0") -> Path:
    """The files of a Raspberry Pi 4, besides zones and monitors of other things."""
    write(root, "sys/class/thermal/thermal_zone0/type", "cpu-thermal\n")
    write(root, "sys/class/thermal/thermal_zone0/temp", f"{temperature}\n")
    write(root, "sys/class/thermal/thermal_zone1/type", "battery\n")
    write(root, "sys/class/thermal/thermal_zone1/temp", "99000\n")
    write(root, "sys/class/hwmon/hwmon0/name", "cpu_thermal\n")
    write(root, "sys/class/hwmon/hwmon1/name", "rpi_volt\n")
    write(root, "sys/class/hwmon/hwmon1/in0_lcrit_alarm", f"{alarm}\n")
    write(root, "sys/devices/platform/soc/soc:firmware/get_throttled", f"{throttled}\n")
    write(root, "proc/meminfo", "MemTotal:        3884412 kB\nMemAvailable:     204800 kB\n")
    return root


def test_a_pis_files_are_understood(tmp_path: Path) -> None:
    found = read_health(tmp_path, root=pi(tmp_path), clock_behind_s=0.0)
    assert found.disk_free is not None
    assert found.disk_free > 0
    assert (found.memory_free, found.temperature_c) == (200 * MIB, 48.312)
    assert (found.under_voltage, found.throttled, found.clock_behind_s) == (False, False, 0.0)


@pytest.mark.parametrize(
    ("flags", "under_voltage", "throttled"),
    [
        ("50005", True, True),
        ("1", True, False),
        ("4", False, True),
        ("2", False, True),
        ("8", False, True),
        # it was so since the start, and is not any more
        ("d0000", False, False),
    ],
)
def test_the_firmwares_flags(tmp_path: Path, flags: str, under_voltage: bool, throttled: bool) -> None:
    root = pi(tmp_path, throttled=flags)
    (root / "sys/class/hwmon/hwmon1/in0_lcrit_alarm").unlink()
    found = read_health(tmp_path, root=root)
    assert (found.under_voltage, found.throttled) == (under_voltage, throttled)


def test_the_voltage_alarm_counts_where_there_is_one(tmp_path: Path) -> None:
    assert read_health(tmp_path, root=pi(tmp_path, alarm="1")).under_voltage is True


def test_what_is_absent_or_nonsense_is_unknown_and_no_trouble(tmp_path: Path) -> None:
    nothing = read_health(tmp_path, root=tmp_path / "none")
    assert (nothing.temperature_c, nothing.under_voltage, nothing.throttled) == (None, None, None)
    assert nothing.memory_free is None
    root = pi(tmp_path, temperature="255000", alarm="?", throttled="many")
    write(root, "proc/meminfo", "MemAvailable:  much kB\n")
    strange = read_health(tmp_path, root=root)
    assert (strange.temperature_c, strange.under_voltage, strange.throttled, strange.memory_free) == (None,) * 4
    assert trouble_with(Readings(), LIMITS, before=True) is None


@pytest.mark.parametrize(
    ("reading", "reason", "line"),
    [
        ({"temperature_c": 80.1}, "temperature", "80.1 °C, over 80 °C"),
        ({"under_voltage": True}, "under-voltage", "the power supply is too weak at this moment"),
        ({"throttled": True}, "throttled", "the processor is slowed down at this moment"),
        ({"memory_free": 20 * MIB - 1}, "memory", "19 MiB of memory are free, under 20"),
        ({"disk_free": 10 * MIB - 1}, "disk", "9 MiB of the disk are free, under 10"),
        ({"clock_behind_s": 3601.0}, "clock", "the clock is 3601 s behind what is proven, over 3600 s"),
    ],
)
def test_each_limit_is_held_and_can_be_lifted(reading: dict[str, Any], reason: str, line: str) -> None:
    now = Readings(**reading)
    found = trouble_with(now, LIMITS, before=True)
    assert found is not None
    assert (found.reason, found.reading) == (reason, line)
    assert trouble_with(now, Limits(), before=True) is None


def test_at_the_limit_all_is_well() -> None:
    now = Readings(temperature_c=80, memory_free=20 * MIB, disk_free=10 * MIB, clock_behind_s=3600)
    assert trouble_with(now, LIMITS, before=True) is None


def test_a_clock_that_is_behind_says_nothing_about_a_release_that_runs() -> None:
    assert trouble_with(Readings(clock_behind_s=9999), LIMITS, before=False) is None


def test_facts_are_coarse_and_only_those_that_are_known() -> None:
    now = Readings(memory_free=123 * MIB + 4567, temperature_c=48.6, throttled=False, disk_free=1)
    assert facts_of(now) == {"memory_free": 123 * MIB, "temperature_c": 49, "throttled": False}
    assert facts_of(Readings()) == {}
    assert facts_of(Readings(clock_behind_s=0.0)) == {}
