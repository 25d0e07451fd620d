"""A signed repository in memory, of which every part can be made wrong on purpose."""

import copy
import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # public, but not marked so
from tuf.api.metadata import (  # type: ignore[attr-defined]  # the same
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from schemas.errors import NetworkError
from schemas.layout import package_role, package_target_pattern

NOW = datetime(2030, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


class SignedRepository:
    """Roles are plain objects that a test may change; `publish` signs them all and makes `files`.

    Attributes:
        files: name below `metadata/` to bytes, as a server would have it.
        expires: for each role's name, how long after `now` it is good for.
    """

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now
        self.files: dict[str, bytes] = {}
        self.expires: dict[str, timedelta] = {}
        self.keys = {role: CryptoSigner.generate_ed25519() for role in ("root", "timestamp", "snapshot", "targets")}
        self.packages: dict[str, Targets] = {}
        self.root = Root(consistent_snapshot=True)
        for role, key in self.keys.items():
            self.root.add_key(key.public_key, role)
        self.targets = Targets(delegations=Delegations(keys={}, roles={}))
        self.snapshot = Snapshot()
        self.timestamp = Timestamp()
        self.root_bytes = self._sign("root", self.root)
        self.trusted = self.root_bytes

    def package(self, name: str) -> Targets:
        """The role of a package."""
        role = package_role(name)
        if name not in self.packages:
            self.keys[role] = CryptoSigner.generate_ed25519()
            delegations = self.targets.delegations
            assert delegations is not None
            assert delegations.roles is not None
            delegations.roles[role] = DelegatedRole(role, [], 1, True, paths=[package_target_pattern(name)])
            self.targets.add_key(self.keys[role].public_key, role)
            self.packages[name] = Targets()
        return self.packages[name]

    def add(self, package: str, target: str, content: bytes, **fields: Any) -> None:
        """Have a package's role sign a target."""
        made: dict[str, Any] = {"length": len(content), "hashes": {"sha256": hashlib.sha256(content).hexdigest()}}
        self.package(package).targets[target] = TargetFile(**{**made, **fields}, path=target)

    def publish(self) -> None:
        """Sign everything anew."""
        self.files[f"{self.root.version}.root.json"] = self.root_bytes
        meta = {}
        for role, targets in [("targets", self.targets), *((package_role(n), r) for n, r in self.packages.items())]:
            meta[f"{role}.json"] = self._put(role, targets)
        self.snapshot.meta = meta
        self.timestamp.snapshot_meta = self._put("snapshot", self.snapshot)
        self.files["timestamp.json"] = self._sign("timestamp", self.timestamp)
        everything: list[Any] = [self.targets, *self.packages.values(), self.snapshot, self.timestamp]
        for signed in everything:
            signed.version += 1

    def rotate_root(self, *, signed_by: CryptoSigner | None = None) -> None:
        """Publish the next root, with a new timestamp key; `signed_by` instead of the present root key."""
        old = self.keys["timestamp"]
        self.root.revoke_key(old.public_key.keyid, "timestamp")
        self.keys["timestamp"] = CryptoSigner.generate_ed25519()
        self.root.add_key(self.keys["timestamp"].public_key, "timestamp")
        self.root.version += 1
        data = Metadata(copy.deepcopy(self.root))
        data.sign(signed_by or self.keys["root"])
        self.root_bytes = data.to_bytes()

    def twin_of_timestamp(self, longer: timedelta) -> bytes:
        """The published timestamp again, with the same version and another expiry."""
        twin = Metadata[Timestamp].from_bytes(self.files["timestamp.json"])
        twin.signed.expires = self.now + longer
        twin.sign(self.keys["timestamp"])
        return twin.to_bytes()

    def _put(self, role: str, signed: Any) -> MetaFile:
        content = self._sign(role, signed)
        self.files[f"{signed.version}.{role}.json"] = content
        return MetaFile.from_data(signed.version, content, ["sha256"])

    def _sign(self, role: str, signed: Any) -> bytes:
        signed.expires = self.now + self.expires.get(role, 10 * DAY)
        data = Metadata(signed)
        data.sign(self.keys[role])
        content: bytes = data.to_bytes()
        return content


def reader(files: dict[str, bytes], asked: list[str] | None = None) -> Callable[[str, int], bytes]:
    """Reads metadata as the agent wants to."""

    def read(name: str, limit: int) -> bytes:
        if asked is not None:
            asked.append(name)
        if name not in files:
            raise NetworkError("fetch.not_found", f"{name}: not found")
        if len(files[name]) > limit:
            raise NetworkError("fetch.limit", f"{name}: too long")
        return files[name]

    return read
