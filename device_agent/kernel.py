"""What the kernel's files say about the device's health. What is not there, or cannot be read, is unknown.

Sources: the thermal zones that describe the processor; on a Raspberry Pi the firmware's word on voltage and
throttling, by the hwmon driver `rpi_volt` and by the attribute `get_throttled` of the firmware's driver
(https://www.raspberrypi.com/documentation/computers/os.html#get_throttled: bit 0 under-voltage now, bit 1 frequency
capped now, bit 2 throttled now, bit 3 soft temperature limit now; from bit 16 on the same since the start).
"""

from pathlib import Path
from typing import Final

from device_agent.facts import disk_free
from device_agent.gate import Readings

_UNDER_VOLTAGE: Final = 0x1
_SLOWED: Final = 0x2 | 0x4 | 0x8
_PROCESSOR: Final = ("cpu", "soc", "x86_pkg", "core", "bcm", "package")
"""How thermal zones of processors are called (`cpu-thermal` on a Pi); others belong to batteries, radios or nothing."""
_LOWEST_C, _HIGHEST_C = -60.0, 200.0
_MAX_BYTES: Final = 64 * 1024
_FIRMWARE: Final = "sys/devices/platform/soc/soc:firmware/get_throttled"


def read_health(folder: Path, *, clock_behind_s: float | None = None, root: Path = Path("/")) -> Readings:
    """Everything that can be read now; blocks for moments.

    Args:
        folder: whose free disk space counts.
        clock_behind_s: as the clock's owner has it.
        root: where `sys` and `proc` are.
    """
    flags = _throttled_flags(root)
    under_voltage = _alarm(root)
    if under_voltage is None and flags is not None:
        under_voltage = bool(flags & _UNDER_VOLTAGE)
    return Readings(
        disk_free=_free(folder),
        memory_free=_available(root),
        temperature_c=_temperature(root),
        under_voltage=under_voltage,
        throttled=bool(flags & _SLOWED) if flags is not None else None,
        clock_behind_s=clock_behind_s,
    )


def _free(folder: Path) -> int | None:
    try:
        return disk_free(folder)
    except OSError:
        return None


def _available(root: Path) -> int | None:
    for line in _text(root / "proc/meminfo").splitlines():
        name, _, rest = line.partition(":")
        amount = rest.strip().partition(" ")[0]
        if name == "MemAvailable" and amount.isdecimal():
            return int(amount) * 1024
    return None


def _temperature(root: Path) -> float | None:
    found = []
    for zone in _children(root / "sys/class/thermal", "thermal_zone"):
        kind = _text(zone / "type").strip().lower()
        if not any(word in kind for word in _PROCESSOR):
            continue
        try:
            degrees = int(_text(zone / "temp")) / 1000
        except ValueError:
            continue
        if _LOWEST_C < degrees < _HIGHEST_C:  # a sensor that is broken or asleep says anything
            found.append(degrees)
    return max(found, default=None)


def _alarm(root: Path) -> bool | None:
    for monitor in _children(root / "sys/class/hwmon", "hwmon"):
        if _text(monitor / "name").strip() == "rpi_volt":
            said = _text(monitor / "in0_lcrit_alarm").strip()
            if said in ("0", "1"):
                return said == "1"
    return None


def _throttled_flags(root: Path) -> int | None:
    try:
        return int(_text(root / _FIRMWARE).strip(), 16)
    except ValueError:
        return None


def _children(folder: Path, prefix: str) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.name.startswith(prefix))
    except OSError:
        return []


def _text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return stream.read(_MAX_BYTES).decode("ascii", "replace")
    except OSError:
        return ""
