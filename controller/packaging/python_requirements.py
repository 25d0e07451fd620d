"""Puts the dependencies of a Python application into its package, for a platform other than this machine's.

uv chooses and unpacks wheels; nothing is compiled and no code of theirs runs. What uv writes about this machine
(paths, times, the interpreter in scripts) is taken out again, so that the same wheels give the same files.
"""

import base64
import csv
import hashlib
import io
import json
import os
import platform as this_machine
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

from controller.packaging.project import PythonTable
from schemas.errors import PublisherError, one_line
from schemas.names import ANY_PLATFORM

UV_PLATFORMS: Final = {
    "linux-aarch64": "aarch64-unknown-linux-gnu",
    "linux-x86_64": "x86_64-unknown-linux-gnu",
    "macos-arm64": "aarch64-apple-darwin",
    "macos-x86_64": "x86_64-apple-darwin",
}
"""Our platforms as uv's `--python-platform` calls them. uv has no name for 32-bit ARM (seen with 0.13)."""

UV_TIMEOUT_S: Final = 900.0

# direct_url.json (PEP 610) and uv_cache.json name paths and times of this machine.
_OF_THIS_MACHINE: Final = ("direct_url.json", "uv_cache.json")
_SHEBANG: Final = re.compile(rb"\A#!(?:/bin/sh\n'''exec' [^\n]*\n' '''|\S*/python[0-9.]*)[ \t]*\n")
_DEVICE_SHEBANG: Final = b"#!/usr/bin/env python3\n"


def install_requirements(
    source: Path, table: PythonTable, platform: str, destination: Path, *, timeout_s: float = UV_TIMEOUT_S
) -> None:
    """Unpack what the requirements file asks for into `destination`, the same on every machine.

    Args:
        source: the source folder; relative paths in the requirements file are relative to that file.
        table: the `[python]` table of its `flotilla.toml`.
        platform: the package's platform, e.g. `linux-aarch64`.
        destination: an empty folder.
        timeout_s: seconds that uv may take.

    Raises:
        PublisherError: `package.source`, with uv's reason on one line.
    """
    requirements = source / table.requirements
    if not requirements.is_file():
        raise PublisherError(
            "package.source", f"flotilla.toml: python.requirements: {one_line(table.requirements)!r} is not a file"
        )
    target = _uv_platform(table, platform)
    _run_uv(
        [
            *("pip", "install", "--target", str(destination), "--requirements", table.requirements),
            *("--python", sys.executable, "--python-version", table.version),
            *(("--python-platform", target) if target else ()),
            *("--only-binary", ":all:", "--no-compile-bytecode", "--no-progress", "--color", "never"),
        ],
        folder=source,
        what=table.requirements,
        timeout_s=timeout_s,
    )
    try:
        _make_reproducible(destination)
    except (OSError, ValueError) as error:
        raise PublisherError(
            "package.source", f"the files of {one_line(table.requirements)!r} cannot be used: {one_line(error)}"
        ) from error


def _uv_platform(table: PythonTable, platform: str) -> str:
    """uv's name for the platform; empty where it is this machine's own and uv has no name for it."""
    name = table.platforms.get(platform) or UV_PLATFORMS.get(platform)
    if name is not None:
        return name
    if platform == ANY_PLATFORM:
        raise PublisherError(
            "package.source",
            "flotilla.toml: python.requirements needs a platform to choose files for; "
            "set package.platform or give --platform, e.g. linux-aarch64",
        )
    if platform == "linux-armv7l" and _is_32_bit_arm():
        return ""
    raise PublisherError(
        "package.source",
        f"python.requirements: uv cannot choose files for {platform!r} on this machine; build on such a device, "
        "or name one of uv's platforms under [python.platforms]",
    )


def _is_32_bit_arm() -> bool:
    # A 64-bit kernel below a 32-bit system calls itself aarch64.
    return sys.platform == "linux" and sys.maxsize < 2**32 and this_machine.machine() in {"armv7l", "armv8l", "aarch64"}


def _run_uv(arguments: list[str], *, folder: Path, what: str, timeout_s: float) -> None:
    # Imported here because few packages need it.
    import uv  # noqa: PLC0415  # see above

    try:
        result = subprocess.run(
            [uv.find_uv_bin(), *arguments],
            cwd=folder,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError as error:
        raise PublisherError("package.source", "uv, which python.requirements needs, is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise PublisherError(
            "package.source", f"{one_line(what)!r}: uv was not done after {timeout_s:.0f} s; is the index reachable?"
        ) from error
    if result.returncode:
        reason = _uv_reason(result.stderr.decode(errors="replace"))
        raise PublisherError("package.source", f"{one_line(what)!r}: {reason}")


def _uv_reason(output: str) -> str:
    """What uv says is wrong, without its drawing and its hints."""
    lines = [re.sub(r"^\W+", "", line) for line in output.splitlines()]
    start = next((i for i, line in enumerate(lines) if line.startswith(("error:", "No solution"))), 0)
    end = next((i for i, line in enumerate(lines) if i > start and line.startswith("hint:")), len(lines))
    return one_line(" ".join(lines[start:end]).removeprefix("error: ") or "uv failed without a word")


def _make_reproducible(folder: Path) -> None:
    (folder / ".lock").unlink(missing_ok=True)
    for info in sorted(folder.glob("*.dist-info")):
        _refuse_editable(info)
        for name in _OF_THIS_MACHINE:
            (info / name).unlink(missing_ok=True)
    for script in sorted((folder / "bin").glob("*")):
        _free_script(script)
    for info in sorted(folder.glob("*.dist-info")):
        _rewrite_record(folder, info / "RECORD")


def _refuse_editable(info: Path) -> None:
    origin = info / "direct_url.json"
    if not origin.is_file():
        return
    data = json.loads(origin.read_bytes())
    if isinstance(data, dict) and isinstance(data.get("dir_info"), dict) and data["dir_info"].get("editable"):
        raise ValueError(f"{info.name.partition('-')[0]} is editable: it would stay on this machine; leave out '-e'")


def _free_script(script: Path) -> None:
    """Let a script ask for the device's Python instead of this machine's."""
    if script.is_symlink() or not script.is_file():
        return
    text = script.read_bytes()
    free = _SHEBANG.sub(_DEVICE_SHEBANG, text, count=1)
    if free != text:
        _replace(script, free)


def _rewrite_record(folder: Path, record: Path) -> None:
    """Bring a `RECORD` (PEP 376: path, hash, size) in line with the files that are there, sorted by path."""
    if not record.is_file():
        return
    rows = csv.reader(io.StringIO(record.read_text(encoding="utf-8"), newline=""))
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    for path in sorted({row[0] for row in rows if row}):
        file = folder / path
        if file == record:
            writer.writerow((path, "", ""))
        elif file.is_file():
            data = file.read_bytes()
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
            writer.writerow((path, f"sha256={digest}", len(data)))
    _replace(record, out.getvalue().encode())


def _replace(file: Path, data: bytes) -> None:
    """Write a new file in the place of `file`, which may be a hard link into uv's cache."""
    mode = file.stat().st_mode
    file.unlink()
    file.write_bytes(data)
    file.chmod(mode)
