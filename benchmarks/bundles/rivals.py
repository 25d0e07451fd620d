"""What other tools make of the same pair, where they are installed."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

Sizes = dict[str, int | None]


def measure(old: Path, new: Path, old_tar: Path, new_tar: Path, work: Path) -> Sizes:
    """Bytes to send, by tool; None for a tool that is not installed or gave up."""
    out = work / "rival"

    def run(*command: object, timeout: float = 1800) -> bool:
        found = subprocess.run([str(part) for part in command], capture_output=True, timeout=timeout, check=False)
        return found.returncode == 0

    def sized(*command: object) -> int | None:
        return out.stat().st_size if run(*command) else None

    tools: dict[str, tuple[str, Callable[[], int | None]]] = {
        "zstd --patch-from": (
            "zstd",
            lambda: sized("zstd", "-q", "-f", "-19", "--long=31", "--patch-from", old_tar, new_tar, "-o", out),
        ),
        "xdelta3": ("xdelta3", lambda: sized("xdelta3", "-f", "-9", "-B", 2**29, "-e", "-s", old_tar, new_tar, out)),
        "bsdiff": ("bsdiff", lambda: sized("bsdiff", old_tar, new_tar, out)),
        "detools": (
            "detools",
            lambda: sized(sys.executable, "-m", "detools", "create_patch", "-c", "lzma", old_tar, new_tar, out),
        ),
        "rsync": ("rsync", lambda: _rsync(old, new, work)),
        "casync": ("casync", lambda: _casync(run, old, new, work)),
        "ostree": ("ostree", lambda: _ostree(run, old, new, work)),
    }
    sizes: Sizes = {}
    for name, (command, measured) in tools.items():
        there = shutil.which(command) or (Path(sys.executable).parent / command).exists()
        print(f"    {name} …" if there else f"    {name} is not installed: left out", file=sys.stderr)
        out.unlink(missing_ok=True)
        try:
            sizes[name] = measured() if there else None
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            print(f"    {name} gave up: {error}", file=sys.stderr)
            sizes[name] = None
    return sizes


def _rsync(old: Path, new: Path, work: Path) -> int | None:
    target = work / "rsynced"
    shutil.copytree(old, target)
    command = ["rsync", "-a", "-z", "--checksum", "--delete", "--no-whole-file", "--stats", f"{new}/", f"{target}/"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=1800).stdout
    found = [line.split(":")[1].strip() for line in said.splitlines() if line.startswith("Total bytes sent")]
    shutil.rmtree(target)
    return int(found[0].replace(",", "").replace(".", "")) if found else None


def _casync(run: Callable[..., bool], old: Path, new: Path, work: Path) -> int | None:
    store = work / "casync"
    if not run("casync", "make", f"--store={store}", work / "old.caidx", old):
        return None
    before = {path for path in store.rglob("*") if path.is_file()}
    if not run("casync", "make", f"--store={store}", work / "new.caidx", new):
        return None
    fresh = {path for path in store.rglob("*") if path.is_file()} - before
    return sum(path.stat().st_size for path in fresh) + (work / "new.caidx").stat().st_size


def _ostree(run: Callable[..., bool], old: Path, new: Path, work: Path) -> int | None:
    repo, delta = work / "ostree", work / "delta"
    good = run("ostree", "init", "--mode=archive", f"--repo={repo}")
    for name, folder in (("old", old), ("new", new)):
        good = good and run("ostree", "commit", f"--repo={repo}", f"--branch={name}", f"--tree=dir={folder}")
    generate = ("ostree", "static-delta", "generate", f"--repo={repo}", "--from=old", "--to=new", "--inline")
    good = good and run(*generate, f"--filename={delta}")
    return delta.stat().st_size if good else None
