"""Private keys: one Ed25519 key a role, in files, those needed every day apart from those that are not.

keys/offline/root.pem, targets.pem          may live elsewhere; see docs/repository.md
keys/online/snapshot.pem, timestamp.pem, package-NAME.pem
"""

from collections.abc import Collection
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from controller.repository.files import disk_errors, sync_folder, write_private
from controller.repository.tuf_api import CryptoSigner, Root, Targets
from schemas.errors import TrustError, one_line

OFFLINE_ROLES: Final = (Root.type, Targets.type)
MAX_KEY_BYTES: Final = 16 * 1024


class KeyStore:
    """The keys in one folder."""

    def __init__(self, folder: Path) -> None:
        """Make the folder where it is missing, readable by its owner only."""
        self._offline = folder / "offline"
        self._online = folder / "online"
        with disk_errors(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for part in (self._offline, self._online):
                part.mkdir(mode=0o700, exist_ok=True)

    def path(self, role: str) -> Path:
        """Where the key of a role belongs."""
        return (self._offline if role in OFFLINE_ROLES else self._online) / f"{role}.pem"

    def has(self, role: str) -> bool:
        """Whether the key of a role is there."""
        return self.path(role).is_file()

    def create(self, role: str) -> CryptoSigner:
        """The key of a role, made now unless it is there.

        Raises:
            TrustError: `trust.keys`, for a file that is no such key.
            OperatorError: `disk.full` or `disk.io`.
        """
        if not self.has(role):
            write_private(self.path(role), CryptoSigner.generate_ed25519().private_bytes)
        return self._load(self.path(role))

    def signer(self, role: str, keyids: Collection[str]) -> CryptoSigner:
        """The key of a role, which is one of those that the metadata names.

        Raises:
            TrustError: `trust.keys`, for a key that is missing or another one.
        """
        self._finish_replacing(role, keyids)
        if not self.has(role):
            hint = "put the offline keys back for this" if role in OFFLINE_ROLES else "restore it from the backup"
            raise TrustError("trust.keys", f"the key of {role!r} is not at {one_line(self.path(role))}; {hint}")
        signer = self._load(self.path(role))
        if signer.public_key.keyid not in keyids:
            raise TrustError(
                "trust.keys",
                f"the key at {one_line(self.path(role))} is not the one that the metadata names for {role!r}",
            )
        return signer

    def create_next(self, role: str) -> CryptoSigner:
        """The key that is to replace the role's: an interrupted replacement's, else a new one. Raises as `create`."""
        path = self._next_path(role)
        if not path.is_file():
            write_private(path, CryptoSigner.generate_ed25519().private_bytes)
        return self._load(path)

    def adopt_next(self, role: str) -> None:
        """Put the key of `create_next` in the old one's place. Raises `OperatorError`, `disk.full` or `disk.io`."""
        path = self._next_path(role)
        with disk_errors(path):
            path.replace(self.path(role))
            sync_folder(path.parent)

    def _finish_replacing(self, role: str, keyids: Collection[str]) -> None:
        """The metadata may name the new key already when a replacement was interrupted."""
        path = self._next_path(role)
        if path.is_file() and self._load(path).public_key.keyid in keyids:
            self.adopt_next(role)

    def _next_path(self, role: str) -> Path:
        return self.path(role).with_suffix(".next.pem")

    @staticmethod
    def _load(path: Path) -> CryptoSigner:
        try:
            with path.open("rb") as file:
                key = load_pem_private_key(file.read(MAX_KEY_BYTES), password=None)
        except OSError as error:
            raise TrustError("trust.keys", f"the key at {one_line(path)} cannot be read: {error.strerror}") from error
        except (ValueError, TypeError) as error:  # TypeError: the file wants a password
            raise TrustError("trust.keys", f"the file at {one_line(path)} is not an unencrypted PEM key") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise TrustError("trust.keys", f"the key at {one_line(path)} is not an Ed25519 key")
        return CryptoSigner(key)
