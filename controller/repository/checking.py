"""Looks at single stored files for any byte that is not as it was written: metadata and rows of the index."""

import hashlib
import re
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Engine, select
from tuf.api.exceptions import RepositoryError

from controller.database import from_db, reading
from controller.repository.index import Entry, release_values, tag_values
from controller.repository.metadata import ROLE_PREFIX, TIMESTAMP_FILE, parse_metadata, read_metadata
from controller.repository.storage import Storage
from controller.repository.tables import release_tags, releases
from controller.repository.tuf_api import JSONSerializer, Metadata, Root, Snapshot, Targets, Timestamp
from schemas.errors import TrustError, one_line
from schemas.layout import METADATA, TARGETS
from schemas.manifest import Manifest

_NAME: Final = re.compile(r"([1-9][0-9]{0,9})\.([a-z0-9-]{1,80})\.json")
_SERIALIZER: Final = JSONSerializer(compact=True)
_SAME: Final = ("manifest", "target", "version_key", "newest_first", "prerelease", "description", "size", "files")
"""Columns that follow from the manifest. How large the packed contents were does not."""


def metadata_files(folder: Path) -> list[Path]:
    """All of them, superseded ones too, roots first and packages' roles last: the order in which they vouch."""
    order = {Root.type: 0, TIMESTAMP_FILE: 1, Targets.type: 2, Snapshot.type: 3}

    def place(path: Path) -> tuple[int, str]:
        match = _NAME.fullmatch(path.name)
        return order.get(match[2] if match else path.name, 4), path.name

    return sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=place)


def check_metadata(name: str, data: bytes, root: Metadata[Root], targets: Metadata[Targets] | None) -> None:
    """Whether these are, byte for byte, what was signed under this name.

    Args:
        root, targets: trusted ones, whose keys count; the targets only for packages' roles.

    Raises:
        TrustError: `trust.metadata`.
    """
    match = _NAME.fullmatch(name)
    if match is None and name != TIMESTAMP_FILE:
        raise TrustError("trust.metadata", f"metadata/{name}: no metadata is called so; remove it")
    role = match[2] if match else Timestamp.type
    kinds: dict[str, Any] = {Root.type: Root, Timestamp.type: Timestamp, Snapshot.type: Snapshot}
    loaded: Metadata[Any] = parse_metadata(kinds.get(role, Targets), data, name)
    if match and loaded.signed.version != int(match[1]):
        raise TrustError("trust.metadata", f"metadata/{name}: it calls itself version {loaded.signed.version}")
    # Signatures cover what is signed and not how it is written down, nor how they are themselves.
    is_plain = all(sig.signature == sig.signature.lower() for sig in loaded.signatures.values())
    if loaded.to_bytes(_SERIALIZER) != data or not is_plain:
        raise TrustError("trust.metadata", f"metadata/{name}: it is not written as it was")
    if role == Root.type:
        return  # the chain of roots vouches for each of them
    delegator = targets if role.startswith(ROLE_PREFIX) else root
    if delegator is None:
        return
    if isinstance(delegator.signed, Targets) and role not in _delegated(delegator.signed):
        return  # of a push that was cut off: nothing refers to it, and garbage collection takes it
    try:
        delegator.signed.verify_delegate(role, loaded.signed_bytes, loaded.signatures)
    except (RepositoryError, ValueError) as error:
        raise TrustError("trust.metadata", f"metadata/{name}: {one_line(error)}") from error


def _delegated(targets: Targets) -> Container[str]:
    return (targets.delegations.roles or {}) if targets.delegations is not None else {}


def damaged_metadata(
    folder: Path, root: Metadata[Root], targets: Metadata[Targets] | None
) -> Iterator[tuple[Path, TrustError]]:
    """Every file, superseded or not, that is not what was signed."""
    for path in metadata_files(folder):
        try:
            check_metadata(path.name, read_metadata(path), root, targets)
        except TrustError as error:
            if path.exists():
                yield path, error


def newest_targets(folder: Path, root: Metadata[Root]) -> Metadata[Targets] | None:
    """The latest whole version of the targets role, where the metadata as a whole cannot be read."""
    names = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    for _, path in sorted((one for one in names if one[1].name.endswith(f".{Targets.type}.json")), reverse=True):
        try:
            data = read_metadata(path)
            check_metadata(path.name, data, root, None)
            return parse_metadata(Targets, data, path.name)
        except TrustError:
            continue
    return None


def damaged_targets(storage: Storage) -> Iterator[tuple[str, str]]:
    """Manifests that have not the hash in their names, of deleted releases too: path and what is wrong."""
    for path in sorted(storage.targets.iterdir()):
        sha256, _, rest = path.name.partition(".")
        if path.name.startswith(".") or not rest:
            continue
        try:
            if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
                yield f"{TARGETS}/{path.name}", "does not have the hash in its name"
        except FileNotFoundError:
            continue
        except OSError as error:
            yield f"{TARGETS}/{path.name}", f"cannot be read: {error.strerror}"


class Rows:
    """The index's rows beside what they should be."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def difference(self, entry: Entry, manifest: Manifest, manifest_sha256: str, target: str) -> list[str]:
        """Names of the columns and tables in which a release's row is not what its signed manifest says."""
        with reading(self._engine) as connection:
            row = connection.execute(select(releases).where(releases.c.id == entry.id)).mappings().one_or_none()
            if row is None:
                return []
            found = connection.execute(select(release_tags).where(release_tags.c.release_id == entry.id)).mappings()
            tags = sorted((dict(one) for one in found), key=lambda one: str(one["tag"]))
        expected = release_values(
            manifest,
            manifest_sha256=manifest_sha256,
            target=target,
            packed=row["packed"],
            now=from_db(row["created_at"]),
        )
        wrong = [name for name in _SAME if row[name] != expected[name]]
        expected_tags = tag_values(entry.id, {**expected, "created_at": row["created_at"]}, manifest.tags)
        if row["tags"] != expected["tags"] or tags != expected_tags:
            wrong.append("tags")
        return wrong


def metadata_path(path: Path) -> str:
    """The path below the repository's folder."""
    return f"{METADATA}/{path.name}"
