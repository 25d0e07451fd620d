"""The process that makes bundles: `python -m controller.repository.bundle_worker`, a `Job` on standard input.

It gives way to everything else on the machine, and ends with its standard input, that is at the latest with the
controller. Each bundle is in place before the next is begun; of one that is not whole nothing is left that counts.
"""

import contextlib
import hashlib
import io
import os
import resource
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import BinaryIO, Final

from controller.bundles import make_bundle, make_manifest_patch
from controller.packaging.whole_file import whole_file
from controller.repository.bundle_choice import is_worth_it
from controller.repository.bundle_files import BundleFiles
from controller.repository.bundle_jobs import Begun, Failed, Job, Line, Made, Progressed, Stored, encode, jobs
from controller.repository.files import disk_errors
from controller.repository.manifests import read_stored_manifest
from controller.repository.packing import HEADER_BYTES, DamagedError, plain_size, unpack_object
from controller.repository.storage import Staging, Storage
from schemas.bundles import BundleEntry, Content, ManifestPatch, ObjectsCost, contents, needed
from schemas.errors import FlotillaError, OperatorError, one_line
from schemas.layout import bundle_name, manifest_patch_name
from schemas.manifest import Manifest, decode_manifest
from schemas.routes import REQUEST_BYTES

NICENESS: Final = 10
MOST_MEMORY: Final = 2 * 1024**3
"""Bytes of data of any one process: a release that would take more goes without bundles."""
IN_MEMORY: Final = 16 * 1024 * 1024
"""Contents that are larger are unpacked to the disk."""
_TELL_EVERY_S: Final = 0.5


def main() -> None:
    """Do the job on standard input."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.nice(NICENESS)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, MOST_MEMORY))
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # what a library might print must not get between the lines
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    job = jobs.decode(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with, args=(sys.stdin.buffer,), daemon=True).start()
    Work(job, out).run()


def _end_with(pipe: BinaryIO) -> None:
    """The controller has ended, or wants no more of it: this process and those that it started are a group."""
    pipe.read()
    os.killpg(0, signal.SIGKILL)


class Work:
    """One job, in this process.

    Args:
        out: takes what there is to say, a line each.
    """

    def __init__(self, job: Job, out: BinaryIO) -> None:
        self._job = job
        self._out = out
        self._storage = Storage(Path(job.folder))
        self._files = BundleFiles(self._storage)
        self._scratch: Path | None = None
        self._told = 0.0

    def run(self) -> None:
        """Make every bundle; one that cannot be made does not keep the others from being made."""
        try:
            plain = read_stored_manifest(self._storage, self._job.to)
            new = decode_manifest(plain)
            self._files.begin(self._job.to.manifest, self._cost(contents(new)))
        except FlotillaError as error:
            self._say(Failed(number=None, code=error.code, message=error.message))
            return
        for number, source in enumerate(self._job.sources):
            self._say(Begun(number=number))
            try:
                self._say(self._make(number, source, plain, new))
            except FlotillaError as error:
                self._fail(number, error.code, error.message)
            except MemoryError:
                self._fail(number, "data.bad", f"it takes more than {MOST_MEMORY} bytes of memory to make")
            except Exception as error:  # noqa: BLE001  # one bundle's defect must not cost the others
                self._fail(number, "internal.error", f"{type(error).__name__}: {one_line(error, 200)}")

    def _fail(self, number: int, code: str, text: str) -> None:
        source = self._job.sources[number]
        # on a full disk it cannot be remembered either
        with contextlib.suppress(FlotillaError):
            self._files.note_failed(
                self._job.to.manifest, source.manifest if source else None, one_line(text), time.time()
            )
        self._say(Failed(number=number, code=code, message=text))

    def _make(self, number: int, source: Stored | None, plain: bytes, new: Manifest) -> Made:
        old_plain = None if source is None else read_stored_manifest(self._storage, source)
        old = None if old_plain is None else decode_manifest(old_plain)
        to, start = self._job.to.manifest, None if source is None else source.manifest
        cost = self._cost(needed(old, new))
        with self._storage.staging() as staging:
            self._scratch = staging.folder
            bundle = staging.folder / "bundle"
            made = make_bundle(old, new, self._content, bundle, progress=self._progress, workers=self._job.workers)
            objects = cost.packed + cost.count * REQUEST_BYTES
            if not is_worth_it(made.size, packed=cost.packed, count=cost.count):
                self._files.note_larger(to, start, made.size, objects)
                return Made(number=number, size=made.size, objects=objects, kept=False)
            patch, patch_file = self._patch(staging, start, old_plain, plain)
            named = bundle.rename(staging.folder / bundle_name(start, made.sha256))
            flush_file(named)
            entry = BundleEntry(source=start, size=made.size, sha256=made.sha256, objects=cost, manifest=patch)
            self._files.put(to, entry, [named, *([patch_file] if patch_file else [])])
        return Made(number=number, size=made.size, objects=objects, patch=patch.size if patch else 0, kept=True)

    def _patch(
        self, staging: Staging, start: str | None, old: bytes | None, new: bytes
    ) -> tuple[ManifestPatch | None, Path | None]:
        """The manifest's difference, where it is smaller than the manifest as it is signed."""
        if start is None or old is None:
            return None, None
        data = make_manifest_patch(old, new)
        whole = self._storage.target_file(self._job.to.target, self._job.to.name).stat().st_size
        if len(data) >= whole:
            return None, None
        sha256 = hashlib.sha256(data).hexdigest()
        path = staging.folder / manifest_patch_name(start, sha256)
        with whole_file(path) as file:
            file.write(data)
        return ManifestPatch(size=len(data), sha256=sha256), path

    def _cost(self, wanted: list[Content]) -> ObjectsCost:
        packed = 0
        for sha256, size in wanted:
            found = self._storage.object_size(sha256, size)
            if found is None:
                raise OperatorError("data.bad", f"object {sha256} is missing or damaged; push the release again")
            packed += found
        return ObjectsCost(count=len(wanted), packed=packed, plain=sum(size for _, size in wanted))

    def _content(self, sha256: str) -> BinaryIO:
        try:
            with self._storage.object_file(sha256).open("rb") as packed:
                # large ones go to the disk: what is held of them is for whoever packs them to say
                is_large = (plain_size(packed.read(HEADER_BYTES)) or 0) > IN_MEMORY
                packed.seek(0)
                plain: BinaryIO = tempfile.TemporaryFile(dir=self._scratch) if is_large else io.BytesIO()  # noqa: SIM115  # the reader closes it
                unpack_object(packed, sha256, plain)
            plain.seek(0)
        except OSError as error:
            raise OperatorError("data.bad", f"object {sha256} cannot be read: {error.strerror}") from error
        except DamagedError as error:
            raise OperatorError("data.bad", f"object {sha256} {error}; push the release again") from error
        return plain

    def _progress(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._told >= _TELL_EVERY_S:
            self._told = now
            self._say(Progressed(done=done, total=total))

    def _say(self, line: Line) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._out.write(encode(line) + b"\n")
            self._out.flush()


def flush_file(path: Path) -> None:
    """Have a file on the disk before it gets its place. Raises `OperatorError`, `disk.full` or `disk.io`."""
    with disk_errors(path), path.open("rb") as file:
        os.fsync(file.fileno())


if __name__ == "__main__":
    main()
