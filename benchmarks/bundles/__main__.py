"""Makes and applies bundles of real releases, and holds what they cost against the bars and against other tools.

    python -m benchmarks.bundles                          the five pairs with bars
    python -m benchmarks.bundles numpy science            some of them
    python -m benchmarks.bundles --old A/ --new B/        two folders, or requirements (flask==3.0.0,jinja2==3.1.3)

Ends with 1 where a bar is missed. Applying and unpacking are the best of seven each, turn by turn in one run on the
same machine; making is held against zstd -19 by CPU time, which other work on the machine does not change.
"""

import argparse
import hashlib
import json
import pickle
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.bundles import rivals
from benchmarks.bundles.pairs import PAIRS, Pair, files, manifest, tree
from benchmarks.common import state_machine
from controller.bundles import make_manifest_patch
from device_agent.bundles import apply_manifest_patch
from schemas.manifest import encode_manifest

MAX_APPLY_KIB = 96 * 1024
MAX_MAKE_KIB = 1024 * 1024
MAX_MAKE_TIMES = 3
RUNS = 7
Row = tuple[str, float, float | None, str]
"""What, measured, at most, unit."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="*", help=f"of {', '.join(pair.name for pair in PAIRS)}; all by default")
    parser.add_argument("--old", help="a folder, or requirements with commas between them")
    parser.add_argument("--new", help="the same, to get to")
    parser.add_argument("--against", choices=("all", "none"), default="all", help="other tools to compare with")
    parser.add_argument("--no-inside", action="store_true", help="do not take deflated content apart")
    chosen = parser.parse_args()
    pairs = [pair for pair in PAIRS if not chosen.pairs or pair.name in chosen.pairs]
    if chosen.old and chosen.new:
        pairs = [Pair(name="given", old=tuple(chosen.old.split(",")), new=tuple(chosen.new.split(",")))]
    state_machine()
    missed = 0
    for pair in pairs:
        print(f"\n{pair.name}: {' '.join(pair.old)} -> {' '.join(pair.new)}")
        with tempfile.TemporaryDirectory() as work:
            rows, others = _measure(pair, Path(work), inside=not chosen.no_inside, compare=chosen.against == "all")
        for what, value, bar, unit in rows:
            verdict = "" if bar is None else f"at most {bar:>14,.10g}  {'ok' if value <= bar else 'MISSED'}"
            missed += bar is not None and value > bar
            print(f"  {what:<34}{value:>14,.10g} {unit:<4} {verdict}")
        for tool, size in others.items():
            print(f"  {tool:<34}{size:>14,} B" if size is not None else f"  {tool:<34}{'-':>14}")
        sys.stdout.flush()
    print(f"\n{missed} bars missed" if missed else "\nall bars met")
    return 1 if missed else 0


def _measure(pair: Pair, work: Path, *, inside: bool, compare: bool) -> tuple[list[Row], rivals.Sizes]:
    old, new = tree(pair.old), tree(pair.new)
    tars = {name: _tar(folder, work / f"{name}.tar") for name, folder in (("old", old), ("new", new))}
    packed, bundle = work / "new.tar.zst", work / "bundle"
    full = _child("compress", tars["new"], packed)
    made = _child("make", old, new, bundle, "inside" if inside else "plain")
    plain_old, plain_new = encode_manifest(manifest(old, "1.0.0")), encode_manifest(manifest(new, "2.0.0"))
    patch = make_manifest_patch(plain_old, plain_new)
    digest = hashlib.sha256(plain_new).hexdigest()
    assert apply_manifest_patch(plain_old, patch, size=len(plain_new), sha256=digest) == plain_new
    known = work / "known"
    known.write_bytes(pickle.dumps(({s: str(p) for s, p in files(old).items()}, plain_old, plain_new)))
    applied: list[dict[str, float]] = []
    unpacked: list[tuple[float, float]] = []
    for _ in range(RUNS):
        unpacked.append(_unpack(packed, work / "unpacked"))
        folder = work / "applied"
        folder.mkdir()
        applied.append(_child("apply", bundle, known, folder))
        shutil.rmtree(folder)
    peak = max(run["peak"] for run in applied)
    base = max(run["base"] for run in applied)
    rows: list[Row] = [
        ("full tar, zstd 19", full["size"], None, "B"),
        ("bundle", made["size"], pair.bar, "B"),
        *([("  best known before", float(pair.goal), None, "B")] if pair.goal else []),
        ("manifest difference", len(patch), None, "B"),
        ("bundle and manifest", made["size"] + len(patch), pair.total, "B"),
        ("apply: peak memory", peak, MAX_APPLY_KIB, "KiB"),
        ("  of it before the bundle", base, None, "KiB"),
        ("apply: time", round(min(run["seconds"] for run in applied), 3), round(min(unpacked)[0], 3), "s"),
        ("apply: CPU time", round(min(run["cpu"] for run in applied), 3), None, "s"),
        ("unpack the full tar: CPU time", round(min(cpu for _, cpu in unpacked), 3), None, "s"),
        ("make: CPU time", round(made["cpu"], 1), round(MAX_MAKE_TIMES * full["cpu"], 1), "s"),
        ("make: time", round(made["seconds"], 1), None, "s"),
        ("make: peak memory", made["peak"], MAX_MAKE_KIB, "KiB"),
    ]
    return rows, rivals.measure(old, new, tars["old"], tars["new"], work) if compare else {}


def _tar(folder: Path, path: Path) -> Path:
    options = ("--sort=name", "--owner=0", "--group=0", "--mtime=@0")
    subprocess.run(["tar", "-cf", path, *options, "-C", folder, "."], check=True, timeout=600)
    return path


def _unpack(packed: Path, folder: Path) -> tuple[float, float]:
    folder.mkdir()
    began, cpu = time.monotonic(), _children()
    subprocess.run(["tar", "--zstd", "-xf", packed, "-C", folder], check=True, timeout=600)
    cost = time.monotonic() - began, _children() - cpu
    shutil.rmtree(folder)
    return cost


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _child(*arguments: object) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.bundles.child", *map(str, arguments)]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=7200)
    print(said.stderr, end="", file=sys.stderr)
    cost: dict[str, float] = json.loads(said.stdout)
    return cost


if __name__ == "__main__":
    sys.exit(main())
