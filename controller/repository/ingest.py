"""Takes the contents of a package file into the object store, each distinct one once, packed on all cores."""

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO, Final

from controller.packaging.package_file import PackageReader, Progress
from controller.repository.files import CHUNK, disk_errors
from controller.repository.packing import pack, pack_stream
from controller.repository.storage import Staging, Storage

IN_MEMORY: Final = CHUNK
"""Contents up to this size are read whole and packed by worker threads; larger ones are packed as they are read."""
WAITING_BYTES: Final = 32 * CHUNK
"""Most plain bytes that wait for the worker threads."""
WAITING_FILES: Final = 256


def ingest(package: PackageReader, storage: Storage, progress: Progress | None = None) -> int:
    """Store every content of a package that is not there yet, and verify all of them.

    Objects appear only after the package file was found whole and right to its last byte, all of them flushed
    to the disk together before.

    Returns:
        The packed size in bytes of all contents together.

    Raises:
        PublisherError: `package.format`, when the package file is not whole; nothing was stored then.
        OperatorError: `disk.full` or `disk.io`.
    """
    sizes = {file.sha256: file.size for file in package.manifest.files}
    total, done = sum(sizes.values()), 0
    with storage.staging() as staging, disk_errors(storage.folder), _Packers(staging) as packers:
        reused = 0
        for sha256, size, stream in package.contents():
            known = storage.reuse(sha256, size)
            if known is not None:
                # The reader reads and verifies what is left of a content by itself.
                reused += known
            else:
                packers.take(sha256, size, stream)
            done += size
            if progress is not None and done < total:
                progress(done, total)
        packers.finish()
        staging.publish(packers.packed)
    if progress is not None:
        progress(total, total)
    return reused + sum(packers.packed.values())


class _Packers:
    """Worker threads that pack small contents while the next ones are read; what waits for them is bounded.

    Attributes:
        packed: hash to packed size of what is written.
    """

    def __init__(self, staging: Staging) -> None:
        self._staging = staging
        self._pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1), thread_name_prefix="pack")
        self._waiting: deque[tuple[str, int, Future[int]]] = deque()
        self._waiting_bytes = 0
        self.packed: dict[str, int] = {}

    def __enter__(self) -> "_Packers":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def take(self, sha256: str, size: int, stream: BinaryIO) -> None:
        """Pack one content, here or in a thread."""
        if size > IN_MEMORY:
            with self._staging.open(sha256) as destination:
                self.packed[sha256] = pack_stream(stream, size, destination)
            return
        future = self._pool.submit(self._pack, sha256, stream.read())
        self._waiting.append((sha256, size, future))
        self._waiting_bytes += size
        while self._waiting_bytes > WAITING_BYTES or len(self._waiting) > WAITING_FILES:
            self._await_oldest()

    def finish(self) -> None:
        """Wait for all that is still being packed; raises what went wrong."""
        while self._waiting:
            self._await_oldest()

    def _await_oldest(self) -> None:
        sha256, size, future = self._waiting.popleft()
        self.packed[sha256] = future.result()
        self._waiting_bytes -= size

    def _pack(self, sha256: str, plain: bytes) -> int:
        packed = pack(plain)
        self._staging.write(sha256, packed)
        return len(packed)
