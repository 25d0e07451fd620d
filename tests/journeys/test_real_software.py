"""A whole Python environment, thousands of files with compiled libraries, on three agents at once.

Installed, updated by one dependency, broken on purpose and rolled back; after each step every file is compared
with the source. The source is `examples/environment` around this project's own site-packages.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from functools import partial
from pathlib import Path

import pytest

from controller.packaging.package_creator import PackageCreator
from schemas.messages import Phase
from tests.support.wholeness import reported_version
from tests.support.world import World

ROOT = Path(__file__).parents[2]
LAY_OUT = ROOT / "examples" / "environment" / "lay_out.py"
LEFT_OUT = (
    *("moto*", "boto*", "mypy*", "*__mypyc*", "sympy", "cfnlint", "faker", "numpy*"),
    *("playwright*", "schemathesis*", "jsonschema_rs*", "hypothesis*", "pip*"),
    *("obstore*", "apprise*", "setuptools*", "pkg_resources*", "graphql*", "ast_serialize*"),
    *("sqlalchemy*", "pygments*", "greenlet*", "securesystemslib*", "_pytest*", "rich*", "testcontainers*", "uv-*"),
)
"""Large packages without which there are still files of every kind, in thousands."""
WHEELS = ROOT / ".venv" / "wheels"
PACKAGE = "environment"
AGENTS = ("pi-1", "pi-2", "pi-3")
BOUND_S = 180.0

pytestmark = [pytest.mark.long(96), pytest.mark.journey, pytest.mark.broker, pytest.mark.timeout(600)]


def site_packages() -> Path:
    return Path(sysconfig.get_paths()["purelib"])


def replace_msgspec(source: Path, wheel: Path) -> None:
    """Put another version of one compiled dependency into a source."""
    site = source / "site"
    for old in site.glob("msgspec*"):
        shutil.rmtree(old)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)


def break_compiled_library(source: Path) -> Path:
    """Cut a compiled library of the new dependency to half its length; gives its path in the release."""
    (library,) = (source / "site" / "msgspec").glob("_core*.so")
    os.truncate(library, library.stat().st_size // 2)
    return library.relative_to(source)


def fingerprint(folder: Path) -> dict[str, str]:
    """Path to hash of every file, with what executes marked, and of every link where it leads to."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_file():
            executes = "x" if path.stat().st_mode & 0o111 else "-"
            found[name] = f"{executes} {hashlib.sha256(path.read_bytes()).hexdigest()}"
        elif not any(path.iterdir()):
            found[name] = "empty folder"
    return found


def build(source: Path, version: str, out: Path) -> Path:
    return PackageCreator(source).build(version=version, platform="any", out=out).path


def is_online(world: World, device: str) -> bool:
    return world.device(device).online


def assert_everywhere(world: World, source: Path, version: str) -> None:
    """Every device runs this version, and has every file of it and no other."""
    wanted = fingerprint(source)
    del wanted["flotilla.toml"]
    for device in AGENTS:
        world.wait(
            lambda device=device: reported_version(world, device, PACKAGE) == version, f"{device} to report {version}"
        )
        current = (world.root(device) / "packages" / PACKAGE / "current").resolve(strict=True)
        assert fingerprint(current) == wanted, f"{device} does not have the files of {version}"


def test_an_environment_is_installed_updated_broken_and_rolled_back(world: World, tmp_path: Path) -> None:
    (wheel,) = WHEELS.glob("msgspec-*.whl")
    first, second, broken = (tmp_path / "sources" / version for version in ("1.0.0", "1.1.0", "1.2.0"))
    subprocess.run([sys.executable, LAY_OUT, second, *LEFT_OUT], check=True, timeout=60, capture_output=True)
    shutil.copytree(second, first, symlinks=True)
    replace_msgspec(first, wheel)
    shutil.copytree(second, broken, symlinks=True)
    library = break_compiled_library(broken)
    assert len(fingerprint(second)) > 2000

    world.start_controller()
    for device in AGENTS:
        world.add_agent(device, settings={PACKAGE: {"python": sys.executable}})
        world.start_agent(device, ready=False)
    for device in AGENTS:
        world.wait(partial(is_online, world, device), f"{device} to be online")

    received: dict[str, dict[str, int]] = {}
    for source, ends_as, runs in (
        (first, Phase.SUCCEEDED, first),
        (second, Phase.SUCCEEDED, second),
        (broken, Phase.ROLLED_BACK, second),
    ):
        version = source.name
        world.publish(build(source, version, tmp_path / "built"))
        for device in AGENTS:
            end = world.wait_for_end(device, version, BOUND_S)
            assert end.phase is ends_as, end
            update = world.device(device).update
            assert update is not None
            assert update.wire_bytes is not None
            received.setdefault(version, {})[device] = update.wire_bytes
        assert_everywhere(world, runs, runs.name)

    for device in AGENTS:
        share = received["1.1.0"][device] / received["1.0.0"][device]
        assert share < 0.25, f"{device}: the second version cost {share:.0%} of the first"
        error = world.last_words(device)[-1].error
        assert error is not None
        assert error.code == "health.command"
        # the loader refuses a cut library or dies of it, depending on where the cut is
        assert "SIGBUS" in error.message or "msgspec" in error.log_tail, f"no word of {library}: {error}"
    print({version: max(of.values()) for version, of in received.items()})
