"""Lays out an installed Python environment as the source folder of a package."""

import shutil
import sys
import sysconfig
from pathlib import Path

APP = Path(__file__).with_name("app")


def lay_out(destination: Path, site_packages: Path, *without: str) -> Path:
    """Copy `app/` and, as its `site/`, an environment's packages; returns the folder.

    Byte code stays out, and so do paths files, which name folders of this machine, and what
    matches a pattern of `without`.
    """
    shutil.copytree(APP, destination)
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc", "*.pth", "direct_url.json", *without)
    shutil.copytree(site_packages, destination / "site", symlinks=True, ignore=ignore)
    return destination


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: lay_out.py DESTINATION [PATTERN TO LEAVE OUT]...")
    if Path(sys.argv[1]).exists():
        sys.exit(f"lay_out.py: {sys.argv[1]} exists; name a new folder")
    print(lay_out(Path(sys.argv[1]), Path(sysconfig.get_paths()["purelib"]), *sys.argv[2:]))
