"""What the agent finds out about the device by itself.

Each fact is read on its own and left out where it cannot be found out: a board without a serial number
is still a board. Values are plain text, numbers or booleans, as `Reported.facts` carries them.
"""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from device_agent.version import VERSION
from schemas.messages import FactValue

_MAX_BYTES: Final = 64 * 1024
_SYSCTL_S: Final = 2.0

# What a 32-bit Python on a 64-bit kernel really runs: Raspberry Pi OS comes like this, and its programs
# are 32-bit ones although uname says aarch64.
_NARROW: Final = {"aarch64": "armv7l", "arm64": "armv7l", "x86_64": "i686", "amd64": "i686"}
_SPELLED: Final = {"amd64": "x86_64", "AMD64": "x86_64"}


def gather_facts(root: Path, added: Mapping[str, FactValue]) -> dict[str, FactValue]:
    """Every fact that there is, `added` (the owner's) last and winning.

    Args:
        root: the folder whose free disk space counts.
    """
    sources: dict[str, Callable[[], FactValue]] = {
        "model": model,
        "serial": serial,
        "platform": device_platform,
        "os": os_name,
        "python": platform.python_version,
        "agent_version": lambda: VERSION,
        "disk_free": lambda: disk_free(root),
        "memory": memory,
        "boot_id": boot_id,
    }
    facts: dict[str, FactValue] = {}
    for name, source in sources.items():
        try:
            value = source()
        except (OSError, ValueError, KeyError, subprocess.SubprocessError):
            continue
        if value not in (None, ""):
            facts[name] = value
    return {**facts, **added}


def device_platform(*, system: str = sys.platform, machine: str | None = None, wide: bool = sys.maxsize > 2**32) -> str:
    """The platform whose packages run here, e.g. `linux-aarch64`, `linux-armv7l`, `linux-x86_64`, `macos-arm64`."""
    kernel = machine if machine is not None else os.uname().machine
    kernel = _SPELLED.get(kernel, kernel)
    if not wide:
        kernel = _NARROW.get(kernel, kernel)
    return f"{'macos' if system == 'darwin' else system}-{kernel}".lower()


def model(firmware: Path = Path("/proc/device-tree"), dmi: Path = Path("/sys/class/dmi/id")) -> str:
    """The board, e.g. `Raspberry Pi 4 Model B Rev 1.4`; a PC's product name; else the machine type."""
    return _text(firmware / "model") or _text(dmi / "product_name") or os.uname().machine


def serial(firmware: Path = Path("/proc/device-tree"), cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The board's serial number, or an empty string. A PC's is readable by root only and is not asked for."""
    found = _text(firmware / "serial-number")
    if found:
        return found
    lines = [line.partition(":") for line in _text(cpuinfo).splitlines()]
    return next((value.strip() for key, _, value in lines if key.strip() == "Serial"), "")


def os_name(release: Path = Path("/etc/os-release")) -> str:
    """The operating system's own name, e.g. `Debian GNU/Linux 12 (bookworm)`."""
    lines = [line.partition("=") for line in _text(release).splitlines()]
    pretty = next((value for key, _, value in lines if key == "PRETTY_NAME"), "")
    return pretty.strip().strip("\"'") or f"{platform.system()} {platform.release()}"


def disk_free(folder: Path) -> int:
    """Free bytes where `folder` is, or will be."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def memory() -> int:
    """Physical memory, bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def boot_id() -> str:
    """A text that changes with every boot of the machine."""
    found = _text(Path("/proc/sys/kernel/random/boot_id"))
    if not found and sys.platform == "darwin":
        done = subprocess.run(  # the only documented source on macOS
            ["sysctl", "-n", "kern.bootsessionuuid"], capture_output=True, text=True, check=True, timeout=_SYSCTL_S
        )
        found = done.stdout.strip()
    return found.lower()[:64]


def _text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            raw = stream.read(_MAX_BYTES)
    except OSError:
        return ""
    # device tree strings end with a zero byte
    return "".join(c for c in raw.decode(errors="replace").rstrip("\0 \n") if c.isprintable() or c == "\n")
