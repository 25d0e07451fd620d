"""Where things are below the agent's root folder. The only place that joins these names."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from schemas.layout import release_folder
from schemas.names import PACKAGE_PATTERN, matches

CURRENT: Final = "current"
MANIFEST_SUFFIX: Final = ".json"
RENDERED_SUFFIX: Final = ".rendered.json"
FIXED_MTIME: Final = 315_532_800
"""1980-01-01 in seconds: every installed file's time, so that a changed one shows without reading it."""
WRITE_BITS: Final = 0o222
PLAIN_MODE: Final = 0o444


@dataclass(frozen=True, slots=True)
class PackageFolders:
    """One package's folders.

    releases/{version}+{digest}/   one whole tree a release, never changed once it is there
    staging/{version}+{digest}/    a tree being built; whatever is found here at a start is a leftover
    manifests/{version}+{digest}.json           the plain signed manifest
    manifests/{version}+{digest}.rendered.json  what the templates gave
    current → releases/…           the switch is one rename of this link
    state/                         what survives updates
    kept/                          copies of files that were changed on the device
    """

    root: Path

    @property
    def releases(self) -> Path:
        """One tree a release."""
        return self.root / "releases"

    @property
    def staging(self) -> Path:
        """Trees being built."""
        return self.root / "staging"

    @property
    def manifests(self) -> Path:
        """Manifests of the releases that are here."""
        return self.root / "manifests"

    @property
    def current(self) -> Path:
        """The link to the running release."""
        return self.root / CURRENT

    @property
    def state(self) -> Path:
        """What survives updates."""
        return self.root / "state"

    @property
    def kept(self) -> Path:
        """Copies of changed files."""
        return self.root / "kept"

    def release(self, version: str, manifest: str) -> Path:
        """A release's tree."""
        return self.releases / release_folder(version, manifest)

    def manifest(self, version: str, manifest: str) -> Path:
        """A release's plain manifest."""
        return self.manifests / f"{release_folder(version, manifest)}{MANIFEST_SUFFIX}"

    def rendered(self, version: str, manifest: str) -> Path:
        """Sizes and hashes of a release's rendered templates."""
        return self.manifests / f"{release_folder(version, manifest)}{RENDERED_SUFFIX}"


@dataclass(frozen=True, slots=True)
class DeviceFolders:
    """Everything below the root folder that is not one package's."""

    root: Path

    @property
    def objects(self) -> Path:
        """Contents by sha256, hard-linked into releases."""
        return self.root / "objects"

    @property
    def packages(self) -> Path:
        """One folder a package."""
        return self.root / "packages"

    @property
    def trash(self) -> Path:
        """What was taken out of use by a rename and is being deleted."""
        return self.root / "trash"

    def object(self, sha256: str, mode: int = PLAIN_MODE) -> Path:
        """A content's file. Read-only modes other than 0444 have a file of their own: a mode belongs to the inode."""
        name = sha256 if mode == PLAIN_MODE else f"{sha256}.{mode:o}"
        return self.objects / sha256[:2] / name

    def package(self, name: str) -> PackageFolders:
        """One package's folders; a name that the contract does not allow is an error of the caller."""
        if not matches(PACKAGE_PATTERN, name):
            raise ValueError(f"not a package name: {name!r}")
        return PackageFolders(self.packages / name)


def installed_mode(mode: int) -> int:
    """The mode that a packed file has on the device: without write bits, readable by its owner."""
    return mode & ~WRITE_BITS | 0o400
