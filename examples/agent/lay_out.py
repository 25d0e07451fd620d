"""Lays out the source folder of the agent's own package around a wheel of the agent."""

import re
import shutil
import sys
from pathlib import Path

APP = Path(__file__).with_name("app")


def lay_out(destination: Path, wheel: Path, lock: Path | None = None) -> Path:
    """Copy `app/`, the wheel and what pins its dependencies; the version is the wheel's. Returns the folder.

    Args:
        lock: a requirements file whose versions count, hashes left out.
    """
    shutil.copytree(APP, destination)
    (destination / "wheels").mkdir()
    shutil.copy2(wheel, destination / "wheels")
    pins = re.findall(r"^[A-Za-z0-9_.-]+==[^\s;\\]+(?: *;[^\\\n]*)?", lock.read_text() if lock else "", re.MULTILINE)
    (destination / "constraints.txt").write_text("".join(f"{pin.strip()}\n" for pin in pins))
    (destination / "requirements.txt").write_text(f"--constraint constraints.txt\n./wheels/{wheel.name}\n")
    project = destination / "flotilla.toml"
    version = wheel.name.split("-")[1]
    named = re.compile(r'^version = "[^"]*"$', re.MULTILINE)
    project.write_text(named.sub(f'version = "{version}"', project.read_text(), count=1))
    return destination


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit("usage: lay_out.py DESTINATION WHEEL [LOCK]")
    if Path(sys.argv[1]).exists():
        sys.exit(f"lay_out.py: {sys.argv[1]} exists; name a new folder")
    print(lay_out(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) == 4 else None))
