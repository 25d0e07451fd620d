"""Puts files right from another copy of the repository. Only what is proven right before ever takes a place.

Objects and manifests are proven by the hashes in their names, metadata by the keys that this repository's own
root names, with the version in the file's name. What cannot be proven stays as it is and is told.
"""

import hashlib
import io
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import PurePosixPath
from typing import Final

import msgspec

from controller.repository.checking import check_metadata, metadata_files, newest_targets
from controller.repository.files import disk_errors, write_whole
from controller.repository.metadata import (
    TIMESTAMP_FILE,
    TrustedMetadata,
    file_name,
    parse_metadata,
    read_metadata,
    read_roots,
    verified_roots,
)
from controller.repository.mirrors import Mirror
from controller.repository.packing import DamagedError, check_object
from controller.repository.records import Problem
from controller.repository.storage import Storage
from controller.repository.tuf_api import Metadata, Root, Snapshot, Targets, Timestamp
from schemas.errors import FlotillaError, TrustError
from schemas.layout import (
    MAX_FILE_BYTES,
    MAX_MANIFEST_PACKED,
    MAX_METADATA_BYTES,
    METADATA,
    OBJECTS,
    TARGETS,
)

_FIRST: Final = (f".{Root.type}.json", TIMESTAMP_FILE, f".{Targets.type}.json", f".{Snapshot.type}.json")
"""Each of these helps to prove what comes after."""
_SNAPSHOT: Final = re.compile(rf"([1-9][0-9]{{0,9}})\.{Snapshot.type}\.json")
_ROUNDS: Final = 6
_OBJECT_LIMIT: Final = MAX_FILE_BYTES + MAX_FILE_BYTES // 128 + 64 * 1024


class Repaired(msgspec.Struct, frozen=True, kw_only=True):
    """What `repair` did: paths below the folder that were put right, and of the others why not."""

    mended: list[str]
    left: dict[str, str]


def repair_all(
    storage: Storage,
    mirror: Mirror,
    *,
    verify: Callable[[], list[Problem]],
    locked: Callable[[], AbstractContextManager[None]],
) -> Repaired:
    """Look for what is wrong and fetch it again, until nothing more comes right. Raises as `repair`.

    Args:
        verify: finds what is wrong.
        locked: holds the repository's lock.
    """
    mended: list[str] = []
    # What is behind damaged metadata is found when that is right again.
    for _ in range(_ROUNDS):
        # Reads everything, so without the lock: pushes go on meanwhile.
        problems = verify()
        with locked():
            done = repair(storage, problems, mirror)
        mended += done.mended
        if not done.mended:
            break
    return Repaired(mended=mended, left=done.left)


def repair(storage: Storage, problems: list[Problem], mirror: Mirror) -> Repaired:
    """Fetch again what is damaged or missing. Under the repository's lock.

    Raises:
        OperatorError: `disk.full` or `disk.io`; what was mended until then is whole.
        NetworkError: `fetch.unreachable`, likewise.
    """
    mended: list[str] = []
    left: dict[str, str] = {}
    todo = list(dict.fromkeys(problem.file for problem in problems if problem.file))
    for path in sorted(todo, key=lambda one: (_rank(one), one)):
        try:
            _mend(storage, path, mirror)
        except (TrustError, DamagedError) as error:
            left[path] = str(error)
        else:
            mended.append(path)
    return Repaired(mended=mended, left=left)


def _rank(path: str) -> int:
    return next((number for number, end in enumerate(_FIRST) if path.endswith(end)), len(_FIRST))


def _mend(storage: Storage, path: str, mirror: Mirror) -> None:
    """One file. Raises `DamagedError` or `TrustError` where the mirror's copy is not what belongs there."""
    folder, name = PurePosixPath(path).parts[0], PurePosixPath(path).name
    if folder == OBJECTS:
        sha256 = name.removesuffix(".zst")
        packed = _read(mirror, path, _OBJECT_LIMIT)
        check_object(io.BytesIO(packed), sha256, None)
        with disk_errors(storage.folder), storage.staging() as staging:
            staging.write(sha256, packed)
            staging.publish([sha256])
    elif folder == TARGETS:
        sha256, _, target = name.partition(".")
        packed = _read(mirror, path, MAX_MANIFEST_PACKED)
        if hashlib.sha256(packed).hexdigest() != sha256:
            raise DamagedError("the mirror's copy is damaged too")
        storage.write_target(sha256, target, packed)
    elif folder == METADATA:
        if name == TIMESTAMP_FILE and _is_right(storage):
            return  # replaced meanwhile, perhaps by a newer one than the mirror's
        data = _read(mirror, path, MAX_METADATA_BYTES)
        _prove(storage, name, data, mirror)
        with storage.putting({path: data}):
            write_whole(storage.folder / path, data)
    else:
        raise DamagedError("is made again by the controller; remove it")


def _read(mirror: Mirror, path: str, limit: int) -> bytes:
    found = mirror.read(path, limit)
    if found is None:
        raise DamagedError("the mirror has none that is right")
    return found


def _prove(storage: Storage, name: str, data: bytes, mirror: Mirror) -> None:
    """Whether metadata is what was signed under this name. Raises `TrustError` (`trust.metadata`)."""
    folder = storage.metadata
    if name.endswith(_FIRST[0]):
        _prove_root(storage, int(name.partition(".")[0]), data, mirror)
        return
    root = verified_roots(read_roots(folder))
    check_metadata(name, data, root, _targets(storage, root))
    if name == TIMESTAMP_FILE:
        # What the keys of this root signed and is of this state or a later one.
        _refuse_older(storage, parse_metadata(Timestamp, data, name))


def _prove_root(storage: Storage, number: int, data: bytes, mirror: Mirror) -> None:
    """All trust begins with roots: this one must lead to keys by which something was signed that is here.

    Where other roots are damaged too, the mirror's stand in for them.
    """
    here = list(read_roots(storage.metadata))
    if number > len(here) + 1:
        raise TrustError("trust.metadata", f"metadata/{number}.root.json: roots before it are missing")
    here[number - 1 : number] = [data]
    names = [f"{METADATA}/{file_name(Root.type, version)}" for version in range(1, len(here) + 1)]
    others = [mirror.read(name, MAX_METADATA_BYTES) or b"" for name in names]
    for chain in (here, others):
        if chain[number - 1] == data and _leads_to_what_is_here(storage, tuple(chain)):
            return
    raise TrustError("trust.metadata", f"metadata/{number}.root.json: the mirror's does not lead to what is here")


def _leads_to_what_is_here(storage: Storage, roots: tuple[bytes, ...]) -> bool:
    try:
        root = verified_roots(roots)
    except FlotillaError:
        return False
    for path in metadata_files(storage.metadata):
        role = path.name.removesuffix(".json").rpartition(".")[2]
        if role in (Timestamp.type, Snapshot.type, Targets.type):
            with suppress(FlotillaError):
                check_metadata(path.name, read_metadata(path), root, None)
                return True
    return False


def _targets(storage: Storage, root: Metadata[Root]) -> Metadata[Targets] | None:
    try:
        return TrustedMetadata(storage.metadata).targets
    except FlotillaError:
        return newest_targets(storage.metadata, root)


def _is_right(storage: Storage) -> bool:
    """Whether the timestamp is as it was signed, and leads to all the rest."""
    try:
        root = TrustedMetadata(storage.metadata).root
        check_metadata(TIMESTAMP_FILE, read_metadata(storage.metadata / TIMESTAMP_FILE), root, None)
    except FlotillaError:
        return False
    return True


def _refuse_older(storage: Storage, timestamp: Metadata[Timestamp]) -> None:
    """A mirror that lags behind would take releases back that devices know of."""
    versions = [int(match[1]) for path in storage.metadata.iterdir() if (match := _SNAPSHOT.fullmatch(path.name))]
    if timestamp.signed.snapshot_meta.version < max(versions, default=0):
        raise TrustError(
            "trust.metadata", f"metadata/{TIMESTAMP_FILE}: the mirror's is of an older state than what is here"
        )
