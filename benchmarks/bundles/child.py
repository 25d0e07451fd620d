# ruff: noqa: PLC0415  # each act imports what it needs and no more: the memory of its process is measured
"""One measured act in a process of its own: `python -m benchmarks.bundles.child ACT …`. Says its cost as JSON.

The acts that devices do import what the agent's fetching process imports, so that the peak is that of a whole process.
"""

import contextlib
import json
import pickle
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def make(old: str, new: str, bundle: str, inside: str) -> None:
    """Make a bundle."""
    from benchmarks.bundles.pairs import files, manifest
    from controller.bundles import make_bundle

    before, after = Path(old), Path(new)
    contents = files(after) | files(before)
    cpu = time.process_time()
    made = make_bundle(
        manifest(before, "1.0.0"),
        manifest(after, "2.0.0"),
        lambda sha256: contents[sha256].open("rb"),
        Path(bundle),
        inside=inside == "inside",
    )
    for group in made.groups:
        print(f"    {group}", file=sys.stderr)
    _tell(seconds=made.seconds, cpu=time.process_time() - cpu, size=made.size)


def compress(tar: str, packed: str) -> None:
    """zstd -19."""
    from controller.bundles.packing import pack_zstd

    data = Path(tar).read_bytes()
    began, cpu = time.monotonic(), time.process_time()
    found = pack_zstd(data, level=19, window_log=23)
    cost = {"seconds": time.monotonic() - began, "cpu": time.process_time() - cpu}
    Path(packed).write_bytes(found)
    _tell(**cost, size=len(found))


def apply(bundle: str, known: str, folder: str) -> None:
    """Apply a bundle as the agent's fetching process does."""
    import tuf.ngclient
    import urllib3

    import device_agent.fetch_worker
    from device_agent.bundles import BundleReader
    from schemas.manifest import decode_manifest

    for module in (tuf.ngclient, urllib3, device_agent.fetch_worker):
        assert module.__name__ in sys.modules
    sources, old, new = pickle.loads(Path(known).read_bytes())  # noqa: S301  # written by the parent process
    old, new = decode_manifest(old), decode_manifest(new)
    base = _peak()

    @contextlib.contextmanager
    def store(sha256: str, _size: int) -> Iterator[BinaryIO]:
        with (Path(folder) / sha256).open("wb", buffering=0) as file:
            yield file

    def open_source(sha256: str) -> BinaryIO:
        return Path(sources[sha256]).open("rb", buffering=0)

    began, cpu = time.monotonic(), time.process_time()
    reader = BundleReader(old, new, open_source=open_source, store=store)
    with Path(bundle).open("rb") as file:
        while data := file.read(65_536):
            reader.take(data)
    reader.finish()
    _tell(seconds=time.monotonic() - began, cpu=time.process_time() - cpu, base=base)


def _tell(**cost: float) -> None:
    print(json.dumps({**cost, "peak": _peak()}))


def _peak() -> int:
    """Peak resident memory in KiB. `ru_maxrss` would count the parent too: it survives the start of a new program."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(*sys.argv[2:])
    elif sys.argv[1] == "compress":
        compress(*sys.argv[2:])
    else:
        apply(*sys.argv[2:])
