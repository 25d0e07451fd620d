"""Checks everything that is stored against what was signed, and every signature against the root."""

import hashlib
import os
import re
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Final

from controller.packaging.package_file import Progress, distinct_contents
from controller.repository.bundle_files import BundleFiles
from controller.repository.checking import Rows, damaged_metadata, damaged_targets, metadata_path, newest_targets
from controller.repository.index import Entry, Index
from controller.repository.manifests import read_plain_manifest
from controller.repository.metadata import TrustedMetadata, read_roots, verified_roots
from controller.repository.packing import DamagedError, check_object
from controller.repository.place_check import check_place
from controller.repository.records import Problem
from controller.repository.refresh import expiries
from controller.repository.storage import Storage
from controller.repository.tables import STORED
from controller.repository.tuf_api import Metadata, TargetFile, Targets
from schemas.errors import FlotillaError, OperatorError
from schemas.layout import METADATA, object_path, target_name, target_path
from schemas.manifest import decode_manifest

_AT_ONCE: Final = 64


def verify(
    storage: Storage, index: Index, rows: Rows, now: datetime, progress: Progress | None = None
) -> list[Problem]:
    """See `PackageRepository.verify`. Takes no lock: releases that are deleted meanwhile are not reported."""
    problems = _check_metadata(storage)
    try:
        trusted = TrustedMetadata(storage.metadata)
        signed = trusted.all_targets()
    except FlotillaError as error:
        if _file_of(error) not in {problem.file for problem in problems}:
            problems.append(Problem(code=error.code, where=METADATA, message=str(error), file=_file_of(error)))
        return problems
    problems.extend(
        Problem(
            code="trust.expired", where=METADATA, message=f"the role {role!r} expired at {expires:%Y-%m-%d %H:%M} UTC"
        )
        for role, expires in expiries(trusted)
        if expires <= now
    )
    entries = {entry.target_name: entry for entry in index.entries(STORED)}
    # Added after the metadata was read, or deleted before the index was: no problems, only in motion.
    present = TrustedMetadata(storage.metadata).all_targets()
    problems.extend(_unsigned(entry) for name, entry in entries.items() if name not in signed and name not in present)
    problems.extend(_unknown(name) for name in signed if name not in entries and name in present)
    needed = _Needed(rows)
    for name, target in signed.items():
        try:
            needed.look(storage, name, target, entries.get(name))
        except FlotillaError as error:
            path = target_path(target.hashes.get("sha256", ""), name)
            problems.append(Problem(code=error.code, where=name, message=str(error), file=path))
    named = {problem.file for problem in problems}
    problems.extend(
        Problem(code="data.bad", where=path, message=f"{what}; no release needs it, remove the file", file=path)
        for path, what in damaged_targets(storage)
        if path not in named
    )
    problems.extend(needed.problems)
    problems.extend(BundleFiles(storage).verify({entry.manifest for entry in entries.values()}))
    problems.extend(_check_objects(storage, needed, progress))
    problems.extend(check_place(storage.place))
    return problems


def _check_metadata(storage: Storage) -> list[Problem]:
    """Every metadata file by itself, superseded ones too: a device may be reading them."""
    try:
        root = verified_roots(read_roots(storage.metadata))
    except FlotillaError as error:
        return [Problem(code=error.code, where=METADATA, message=str(error), file=_file_of(error))]
    targets: Metadata[Targets] | None
    try:
        targets = TrustedMetadata(storage.metadata).targets
    except FlotillaError:
        targets = newest_targets(storage.metadata, root)
    return [
        Problem(code=error.code, where=metadata_path(path), message=str(error), file=metadata_path(path))
        for path, error in damaged_metadata(storage.metadata, root, targets)
    ]


def _file_of(error: FlotillaError) -> str:
    """The metadata file that a message begins with."""
    match = re.match(rf"{METADATA}/[a-z0-9.-]+\.json", error.message)
    return match[0] if match else ""


class _Needed:
    """What the manifests name.

    Attributes:
        objects: plain hash to plain size and the first release that needs it.
        problems: what is wrong in the index.
    """

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self.objects: dict[str, tuple[int, str]] = {}
        self.problems: list[Problem] = []

    def look(self, storage: Storage, name: str, target: TargetFile, entry: Entry | None) -> None:
        """Read a manifest and compare it with the index. Raises `FlotillaError`."""
        plain = read_plain_manifest(storage, name, target)
        manifest = decode_manifest(plain)
        if target_name(manifest.package, manifest.version, manifest.platform) != name:
            raise OperatorError("data.bad", f"the manifest calls itself {manifest.package} {manifest.version}")
        digest = hashlib.sha256(plain).hexdigest()
        if entry is not None:
            wrong = self._rows.difference(entry, manifest, digest, target.hashes["sha256"])
            if wrong:
                what = f"the index has another {', '.join(wrong)} than the signed manifest; restore the database"
                self.problems.append(Problem(code="data.bad", where=name, message=what))
        for sha256, size in distinct_contents(manifest):
            self.objects.setdefault(sha256, (size, name))


def _check_objects(storage: Storage, needed: _Needed, progress: Progress | None) -> list[Problem]:
    """Read every object once, on all cores."""
    files = dict(storage.all_objects())
    sizes = {sha256: _size_of(path) for sha256, path in files.items()}
    total, done = sum(sizes.values()), 0
    problems: list[Problem] = []
    waiting: deque[tuple[str, Future[str]]] = deque()
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1), thread_name_prefix="verify") as pool:
        todo = iter(files.items())
        while True:
            while len(waiting) < _AT_ONCE and (item := next(todo, None)) is not None:
                sha256, path = item
                size = needed.objects[sha256][0] if sha256 in needed.objects else None
                waiting.append((sha256, pool.submit(_problem_of, path, sha256, size)))
            if not waiting:
                break
            sha256, future = waiting.popleft()
            if problem := future.result():
                problems.append(_damaged(sha256, problem, needed))
            done += sizes[sha256]
            if progress is not None:
                progress(done, total)
    for sha256, (_, name) in needed.objects.items():
        if sha256 not in files and not storage.object_file(sha256).exists():
            problems.append(
                Problem(
                    code="data.bad",
                    where=object_path(sha256),
                    message=f"is missing and {name} needs it; push that again",
                    file=object_path(sha256),
                )
            )
    return problems


def _problem_of(path: Path, sha256: str, size: int | None) -> str:
    try:
        with path.open("rb") as file:
            check_object(file, sha256, size)
    except FileNotFoundError:
        return ""  # collected meanwhile
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except DamagedError as error:
        return str(error)
    return ""


def _damaged(sha256: str, problem: str, needed: _Needed) -> Problem:
    where = object_path(sha256)
    if sha256 not in needed.objects:
        return Problem(code="data.bad", where=where, message=f"{problem}; no release needs it, remove the file")
    name = needed.objects[sha256][1]
    return Problem(
        code="data.bad", where=where, message=f"{problem}; remove the file and push {name} again", file=where
    )


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _unsigned(entry: Entry) -> Problem:
    return Problem(
        code="trust.unsigned",
        where=entry.target_name,
        message="the index has it but the signed metadata does not; push it again",
    )


def _unknown(name: str) -> Problem:
    return Problem(
        code="release.unknown",
        where=name,
        message="the signed metadata has it but the index does not; restore the database that belongs to this folder",
    )
