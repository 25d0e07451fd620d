"""Makes and publishes signed metadata (TUF specification 1.0, chapters 4 and 6).

Everything of an edition is signed in memory before the first file is written, and nothing that is written
can be seen until the timestamp is replaced, which is one rename: a missing key, a full disk or a kill leaves the
repository as it was. Version numbers only grow. Why the lifetimes are what they are: docs/decisions/0006.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from controller.repository.files import write_whole
from controller.repository.keys import KeyStore
from controller.repository.metadata import ROLE_PREFIX, TIMESTAMP_FILE, TrustedMetadata, file_name
from controller.repository.place import place_of
from controller.repository.tuf_api import (
    CryptoSigner,
    DelegatedRole,
    Delegations,
    JSONSerializer,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from schemas.errors import PublisherError
from schemas.layout import MAX_METADATA_BYTES, package_role, package_target_pattern

TOP_ROLES: Final = (Root.type, Targets.type, Snapshot.type, Timestamp.type)
_SERIALIZER: Final = JSONSerializer(compact=True)


@dataclass(frozen=True, kw_only=True)
class Lifetimes:
    """How long new signatures are good for."""

    root: timedelta = timedelta(days=3650)
    targets: timedelta = timedelta(days=365)
    package: timedelta = timedelta(days=365)
    snapshot: timedelta = timedelta(days=365)
    timestamp: timedelta = timedelta(days=14)

    def of(self, role: str) -> timedelta:
        """The lifetime for a role's name."""
        own: timedelta = getattr(self, role) if role in TOP_ROLES else self.package
        return own

    def is_due(self, role: str, expires: datetime, now: datetime) -> bool:
        """Whether no more than a third of the lifetime is left."""
        return expires - now <= self.of(role) / 3


class Edition:
    """The next state of the metadata, collected and then published at once.

    Whoever makes one holds the repository's lock from before `current` was read until it is published.
    """

    def __init__(self, current: TrustedMetadata, keys: KeyStore, lifetimes: Lifetimes, now: datetime) -> None:
        self._folder = current.folder
        self._current = current
        self._root = current.root.signed
        self._keys = keys
        self._lifetimes = lifetimes
        self._now = now
        self._roles: dict[str, Metadata[Targets]] = {}
        self._longer: dict[str, datetime] = {}
        self._own_targets: Metadata[Targets] | None = None
        self._with_snapshot = False

    @property
    def _targets(self) -> Metadata[Targets]:
        """The role of targets as it will be; only copied when it changes, as with many packages that takes long."""
        return self._own_targets or self._current.targets

    def _changing_targets(self) -> Metadata[Targets]:
        if self._own_targets is None:
            self._own_targets = copy.deepcopy(self._current.targets)
        return self._own_targets

    def put(
        self, package: str, name: str, length: int, sha256: str, custom: Mapping[str, object] | None = None
    ) -> None:
        """Have the package's role vouch for a target; the package gets a role and a key if it has none.

        Args:
            custom: what else is signed for it (TUF specification 4.5, `custom`).

        Raises:
            TrustError: `trust.keys`, for a new package where the key of targets is not there.
        """
        role = self._package(package)
        if role is None:
            role = self._delegate(package)
        role.signed.targets[name] = TargetFile(
            length=length,
            hashes={"sha256": sha256},
            path=name,
            unrecognized_fields={"custom": dict(custom)} if custom else None,
        )

    def remove(self, package: str, name: str) -> None:
        """Have the package's role no longer vouch for a target."""
        role = self._package(package)
        if role is not None:
            role.signed.targets.pop(name, None)

    def renew(self, role: str, until: datetime | None = None) -> None:
        """Sign a role again though nothing changed in it, to be good for its lifetime or longer."""
        if until is not None:
            self._longer[role] = until
        if role == Targets.type:
            self._roles[role] = self._changing_targets()
        elif role == Snapshot.type:
            self._with_snapshot = True
        elif role != Timestamp.type:
            self._package(role.removeprefix(ROLE_PREFIX))

    def publish(self) -> list[str]:
        """Sign and write what has changed; the timestamp always is new and comes last.

        Returns:
            The names of the roles that were signed.

        Raises:
            TrustError: `trust.keys`; nothing has changed then.
            PublisherError: `package.limit`, where metadata grows beyond what devices read; nothing has changed.
            OperatorError: `disk.full` or `disk.io`; nothing that anybody reads has changed.
        """
        files: list[tuple[str, bytes]] = []
        signed: list[str] = []
        snapshot = copy.deepcopy(self._current.snapshot)
        for role, data in sorted(self._roles.items()):
            delegator = self._root if role == Targets.type else self._targets.signed
            snapshot.signed.meta[f"{role}.json"] = self._sign(data, role, delegator, files)
            signed.append(role)
        for name, meta in snapshot.signed.meta.items():
            # Devices read the snapshot at every update: for packages it says the version only, which the role's own
            # signature covers (TUF specification 4.4; docs/decisions/0011).
            if name.startswith(ROLE_PREFIX):
                meta.hashes = meta.length = None
        timestamp = copy.deepcopy(self._current.timestamp)
        if signed or self._with_snapshot:
            timestamp.signed.snapshot_meta = self._sign(snapshot, Snapshot.type, self._root, files)
            signed.append(Snapshot.type)
        self._sign(timestamp, Timestamp.type, self._root, files)
        signed.append(Timestamp.type)
        write_edition(self._folder, files)
        return signed

    def _package(self, package: str) -> Metadata[Targets] | None:
        role = package_role(package)
        if role not in self._roles:
            known = self._current.package(package)
            if known is None:
                return None
            self._roles[role] = copy.deepcopy(known)
        return self._roles[role]

    def _delegate(self, package: str) -> Metadata[Targets]:
        role = package_role(package)
        # Before a key is made: a refused push leaves nothing behind.
        self._signer(Targets.type, self._root)
        key = self._keys.create(role).public_key
        targets = self._changing_targets().signed
        if targets.delegations is None:
            targets.delegations = Delegations(keys={}, roles={})
        roles = targets.delegations.roles
        if roles is None:
            raise ValueError("targets delegates to hash bins, which Flotilla never makes")
        roles[role] = DelegatedRole(
            name=role, keyids=[], threshold=1, terminating=True, paths=[package_target_pattern(package)]
        )
        targets.add_key(key, role)
        self._roles[Targets.type] = self._targets
        # Version 0, because signing counts up.
        self._roles[role] = Metadata(Targets(version=1))
        self._roles[role].signed.version = 0
        return self._roles[role]

    def _sign(
        self, data: Metadata[Any], role: str, delegator: Root | Targets, files: list[tuple[str, bytes]]
    ) -> MetaFile:
        signer = self._signer(role, delegator)
        data.signed.version += 1
        expires = self._now + self._lifetimes.of(role)
        data.signed.expires = max(expires, self._longer.get(role, expires))
        content = signed_bytes(data, signer)
        version = data.signed.version
        files.append((TIMESTAMP_FILE if role == Timestamp.type else file_name(role, version), content))
        return MetaFile.from_data(version, content, ["sha256"])

    def _signer(self, role: str, delegator: Root | Targets) -> CryptoSigner:
        return self._keys.signer(role, delegator.get_delegated_role(role).keyids)


def signed_bytes(data: Metadata[Any], *signers: CryptoSigner) -> bytes:
    """Metadata with the signatures of exactly these keys, as it is served.

    Raises:
        PublisherError: `package.limit`.
    """
    data.signatures.clear()
    for signer in signers:
        data.sign(signer, append=True)
    content = data.to_bytes(_SERIALIZER)
    if len(content) > MAX_METADATA_BYTES:
        raise PublisherError(
            "package.limit",
            f"the signed list of {data.signed.type} would have {len(content)} bytes, over {MAX_METADATA_BYTES}; "
            "delete releases that nobody needs",
        )
    return content


def write_edition(folder: Path, files: list[tuple[str, bytes]]) -> None:
    """Write metadata files in their order, each of them durable before the next.

    Where the repository is kept at a URL too, all of them are put there just before the timestamp is replaced.
    """
    place = place_of(folder.parent)
    for name, content in files:
        if name == TIMESTAMP_FILE and place is not None:
            place.put_edition(files)
        write_whole(folder / name, content)


def create_metadata(folder: Path, keys: KeyStore, lifetimes: Lifetimes, now: datetime) -> None:
    """Make the first version of everything: keys, root, empty targets, snapshot and timestamp.

    Goes on where an earlier call was interrupted; the keys and the root that it made are kept.
    """
    signers = {role: keys.create(role) for role in TOP_ROLES}
    files: list[tuple[str, bytes]] = []
    if not (folder / file_name(Root.type, 1)).exists():
        root = Root(expires=now + lifetimes.root, consistent_snapshot=True)
        for role, signer in signers.items():
            root.add_key(signer.public_key, role)
        files.append((file_name(Root.type, 1), signed_bytes(Metadata(root), signers[Root.type])))
    targets = signed_bytes(Metadata(Targets(expires=now + lifetimes.targets)), signers[Targets.type])
    meta = {f"{Targets.type}.json": MetaFile.from_data(1, targets, ["sha256"])}
    snapshot = signed_bytes(Metadata(Snapshot(expires=now + lifetimes.snapshot, meta=meta)), signers[Snapshot.type])
    timestamp = Timestamp(expires=now + lifetimes.timestamp, snapshot_meta=MetaFile.from_data(1, snapshot, ["sha256"]))
    files.append((file_name(Targets.type, 1), targets))
    files.append((file_name(Snapshot.type, 1), snapshot))
    files.append((TIMESTAMP_FILE, signed_bytes(Metadata(timestamp), signers[Timestamp.type])))
    write_edition(folder, files)


def longer_timestamp(current: TrustedMetadata, keys: KeyStore, expires: datetime) -> bytes:
    """The current timestamp with another expiry, for a file that travels slowly; it is not published."""
    twin = Metadata(
        Timestamp(
            version=current.timestamp.signed.version,
            expires=expires,
            snapshot_meta=copy.deepcopy(current.timestamp.signed.snapshot_meta),
        )
    )
    return signed_bytes(
        twin, keys.signer(Timestamp.type, current.root.signed.get_delegated_role(Timestamp.type).keyids)
    )


def renew_root(current: TrustedMetadata, keys: KeyStore, lifetimes: Lifetimes, now: datetime) -> None:
    """Publish the next root version, good for a whole lifetime, with the same keys. Raises as `publish` does."""
    root = copy.deepcopy(current.root)
    signer = keys.signer(Root.type, root.signed.get_delegated_role(Root.type).keyids)
    _publish_root(current.folder, root, lifetimes, now, signer)


def replace_root_key(current: TrustedMetadata, keys: KeyStore, lifetimes: Lifetimes, now: datetime) -> None:
    """Publish the next root version with a new root key; the old one signs it too, so that devices follow.

    Raises as `publish` does. The new key is stored before the root that names it and takes the old one's place
    after; `KeyStore.signer` finds it in between too.
    """
    root = copy.deepcopy(current.root)
    keyids = list(root.signed.get_delegated_role(Root.type).keyids)
    old = keys.signer(Root.type, keyids)
    new = keys.create_next(Root.type)
    root.signed.add_key(new.public_key, Root.type)
    for keyid in keyids:
        root.signed.revoke_key(keyid, Root.type)
    _publish_root(current.folder, root, lifetimes, now, old, new)
    keys.adopt_next(Root.type)


def _publish_root(
    folder: Path, root: Metadata[Root], lifetimes: Lifetimes, now: datetime, *signers: CryptoSigner
) -> None:
    root.signed.version += 1
    root.signed.expires = now + lifetimes.root
    name, content = file_name(Root.type, root.signed.version), signed_bytes(root, *signers)
    write_whole(folder / name, content)
    place = place_of(folder.parent)
    if place is not None:
        place.put_root(name, content)
