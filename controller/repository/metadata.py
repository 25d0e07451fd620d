"""Reads the repository's own TUF metadata and verifies it from the first root down.

What lies in the folder is not believed just because it lies there: it is about to be signed again, and a
change that somebody made to the files would get a good signature that way. Expiry is not looked at,
because whoever holds the keys is the one to renew what has expired.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any, Final, TypeVar

from tuf.api.exceptions import RepositoryError

from controller.repository.records import ReleaseRecord
from controller.repository.tuf_api import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
from schemas.errors import TrustError, one_line
from schemas.layout import MAX_METADATA_BYTES, package_role, target_name

ROLE_PREFIX: Final = package_role("x").removesuffix("x")
TIMESTAMP_FILE: Final = f"{Timestamp.type}.json"

Signed = TypeVar("Signed", Root, Timestamp, Snapshot, Targets)


class TrustedMetadata:
    """The metadata that the timestamp in a folder leads to, all of it signed by the right keys.

    Attributes:
        roots: the plain bytes of every root version, first to last.
        root, timestamp, snapshot, targets: the top-level roles.
        timestamp_bytes: the timestamp as it was read.
    """

    def __init__(self, folder: Path) -> None:
        """Read and verify the top-level roles.

        Raises:
            TrustError: `trust.metadata`, with the file that is missing, malformed or not signed as it should be.
        """
        self.folder = folder
        self.roots = read_roots(folder)
        self.root: Metadata[Root] = verified_roots(self.roots)
        self.timestamp_bytes = read_metadata(folder / TIMESTAMP_FILE)
        self.timestamp: Metadata[Timestamp] = self._verified(
            Timestamp, self.timestamp_bytes, Timestamp.type, self.root, TIMESTAMP_FILE
        )
        self.snapshot: Metadata[Snapshot] = self._load(
            Snapshot, Snapshot.type, self.timestamp.signed.snapshot_meta, self.root
        )
        self.targets: Metadata[Targets] = self._load(Targets, Targets.type, self._meta(Targets.type), self.root)
        self._packages: dict[str, Metadata[Targets]] = {}

    def packages(self) -> list[str]:
        """Names of the packages that have a role, in the order they came."""
        delegations = self.targets.signed.delegations
        roles = delegations.roles if delegations is not None else None
        return [role.removeprefix(ROLE_PREFIX) for role in roles or {}]

    def package(self, name: str) -> Metadata[Targets] | None:
        """The role of a package; None where it has none yet.

        Raises:
            TrustError: `trust.metadata`.
        """
        role = package_role(name)
        if name not in self._packages:
            delegations = self.targets.signed.delegations
            if delegations is None or role not in (delegations.roles or {}):
                return None
            self._packages[name] = self._load(Targets, role, self._meta(role), self.targets)
        return self._packages[name]

    def target(self, package: str, name: str) -> TargetFile | None:
        """What is signed for a target name of a package, if anything. Raises as `package` does."""
        role = self.package(package)
        return role.signed.targets.get(name) if role is not None else None

    def release(self, record: ReleaseRecord) -> tuple[str, TargetFile]:
        """The target name of a release, and what is signed for it.

        Raises:
            TrustError: `trust.unsigned`, or as `package` does.
        """
        name = target_name(record.package, record.version, record.platform)
        signed = self.target(record.package, name)
        if signed is None:
            raise TrustError("trust.unsigned", f"the signed metadata does not name {record.key}")
        return name, signed

    def all_targets(self) -> dict[str, TargetFile]:
        """Every signed target by its name. Raises as `package` does."""
        found: dict[str, TargetFile] = {}
        for name in self.packages():
            role = self.package(name)
            if role is not None:
                found.update(role.signed.targets)
        return found

    def file_names(self) -> dict[str, str]:
        """The current file of every role but root and timestamp, by the role's name."""
        names = {Snapshot.type: file_name(Snapshot.type, self.timestamp.signed.snapshot_meta.version)}
        for key, meta in self.snapshot.signed.meta.items():
            role = key.removesuffix(".json")
            names[role] = file_name(role, meta.version)
        return names

    def _meta(self, role: str) -> MetaFile:
        meta = self.snapshot.signed.meta.get(f"{role}.json")
        if meta is None:
            raise TrustError("trust.metadata", f"metadata/: the snapshot does not name the role {role!r}")
        return meta

    def _load(self, kind: type[Signed], role: str, meta: MetaFile, delegator: Metadata[Any]) -> Metadata[Signed]:
        name = file_name(role, meta.version)
        data = read_metadata(self.folder / name)
        try:
            meta.verify_length_and_hashes(data)
        except RepositoryError as error:
            raise TrustError("trust.metadata", f"metadata/{name}: {one_line(error)}") from error
        loaded = self._verified(kind, data, role, delegator, name)
        if loaded.signed.version != meta.version:
            raise TrustError("trust.metadata", f"metadata/{name}: it calls itself version {loaded.signed.version}")
        return loaded

    @staticmethod
    def _verified(kind: type[Signed], data: bytes, role: str, delegator: Metadata[Any], name: str) -> Metadata[Signed]:
        loaded = parse_metadata(kind, data, name)
        try:
            delegator.signed.verify_delegate(role, loaded.signed_bytes, loaded.signatures)
        except (RepositoryError, ValueError) as error:
            raise TrustError("trust.metadata", f"metadata/{name}: {one_line(error)}") from error
        return loaded


def file_name(role: str, version: int) -> str:
    """The name of a role's file in `metadata/` by the rule of consistent snapshots (TUF specification 6.2)."""
    return f"{version}.{role}.json"


def read_roots(folder: Path) -> tuple[bytes, ...]:
    """Every root version from the first on; empty where there is none.

    Raises:
        TrustError: `trust.metadata`, where one cannot be read.
    """
    roots: list[bytes] = []
    while (path := folder / file_name(Root.type, len(roots) + 1)).exists():
        roots.append(read_metadata(path))
    return tuple(roots)


@lru_cache(maxsize=8)
def verified_roots(roots: tuple[bytes, ...]) -> Metadata[Root]:
    """The last root, each one before it having vouched for the next (TUF specification 5.3). Do not change it.

    Raises:
        TrustError: `trust.metadata`.
    """
    current: Metadata[Root] | None = None
    for number, data in enumerate(roots, start=1):
        name = file_name(Root.type, number)
        loaded = parse_metadata(Root, data, name)
        try:
            result = loaded.signed.get_root_verification_result(
                current.signed if current is not None else None, loaded.signed_bytes, loaded.signatures
            )
        except ValueError as error:
            raise TrustError("trust.metadata", f"metadata/{name}: {one_line(error)}") from error
        if not result or loaded.signed.version != number:
            raise TrustError("trust.metadata", f"metadata/{name}: it is not signed by the keys of root")
        current = loaded
    if current is None:
        raise TrustError("trust.metadata", f"metadata/{file_name(Root.type, 1)} is missing; restore it from the backup")
    return current


def read_metadata(path: Path) -> bytes:
    """A metadata file's bytes, of bounded size. Raises `TrustError` (`trust.metadata`)."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_METADATA_BYTES + 1)
    except FileNotFoundError as error:
        raise TrustError("trust.metadata", f"metadata/{path.name} is missing; restore it from the backup") from error
    except OSError as error:
        raise TrustError("trust.metadata", f"metadata/{path.name} cannot be read: {error.strerror}") from error
    if len(data) > MAX_METADATA_BYTES:
        raise TrustError("trust.metadata", f"metadata/{path.name} is over {MAX_METADATA_BYTES} bytes")
    return data


def parse_metadata(kind: type[Signed], data: bytes, name: str) -> Metadata[Signed]:
    """Metadata of a kind, its signatures not looked at yet. Raises `TrustError` (`trust.metadata`)."""
    try:
        loaded: Metadata[Signed] = Metadata.from_bytes(data)
    except RepositoryError as error:
        raise TrustError("trust.metadata", f"metadata/{name}: {one_line(error)}") from error
    if not isinstance(loaded.signed, kind):
        raise TrustError("trust.metadata", f"metadata/{name}: it is of type {loaded.signed.type!r}")
    return loaded
