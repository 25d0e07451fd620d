"""The release store: stages whole trees, switches between them, removes what is not needed any more.

Everything a rename can do is done by a rename; whatever is deleted is renamed into the trash first, so
that nothing half-deleted ever stands where something looks for it. See docs/durability.md for what is
flushed before what.
"""

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path

import msgspec

from device_agent.clearing import kept_too_long
from device_agent.durability import (
    FreeSpace,
    Space,
    disk_errors,
    flush_file_system,
    free_space,
    remove_link,
    replace_link,
)
from device_agent.interruption import harmless
from device_agent.layout import MANIFEST_SUFFIX, RENDERED_SUFFIX, DeviceFolders, PackageFolders
from device_agent.local_changes import Change, Rendered, find_changes
from device_agent.objects import ObjectStore, sha256_of
from device_agent.trees import build_tree, current_release, finish_tree, link_content, release_link
from schemas.errors import DeviceError, PublisherError
from schemas.manifest import Manifest, decode_manifest
from schemas.names import PACKAGE_PATTERN, matches

_rendered = msgspec.json.Decoder(dict[str, Rendered])


class ReleaseStore:
    """Releases on the disk. All methods block and raise `DeviceError` `disk.full` or `disk.io`."""

    def __init__(self, root: Path, *, space: FreeSpace = free_space, flush: Callable[[Path], None] = flush_file_system):
        """
        Args:
            root: the agent's folder.
            space: tells what is free.
            flush: writes a whole file system to the disk.
        """
        self.folders = DeviceFolders(root.absolute())
        self.objects = ObjectStore(self.folders)
        self._space = space
        self._flush = flush

    def package(self, name: str) -> PackageFolders:
        """Where a package's releases are."""
        return self.folders.package(name)

    def room(self) -> Space:
        """What is free on the disk."""
        with disk_errors(f"ask for the free space of {self.folders.root}"):
            return self._space(self.folders.root)

    def stage(self, manifest: Manifest, sha256: str, plain: bytes, render: Callable[[Path], None]) -> None:
        """Build the release's tree beside the running one; its contents are in the object store.

        Afterwards the tree and its manifest are complete, flushed, and nothing uses them yet.

        Args:
            sha256: of the plain manifest.
            plain: the plain manifest, kept beside the tree.
            render: writes the templates' targets into the folder it is given.
        """
        folders = self.package(manifest.package)
        release = folders.release(manifest.version, sha256)
        building = folders.staging / release.name
        with disk_errors(f"stage {manifest.package} {manifest.version}"):
            self.discard(folders.staging)
            build_tree(building, manifest, self.objects)
        render(building)
        with disk_errors(f"stage {manifest.package} {manifest.version}"):
            rendered = _seal_rendered(building, manifest)
            finish_tree(building, manifest)
            folders.manifests.mkdir(exist_ok=True)
            folders.manifest(manifest.version, sha256).write_bytes(plain)
            folders.rendered(manifest.version, sha256).write_bytes(msgspec.json.encode(rendered))
            self.discard(release)
            folders.releases.mkdir(exist_ok=True)
            building.rename(release)
            with harmless():
                self._flush(self.folders.root)
        self.objects.seal(manifest)

    def manifest(self, package: str, version: str, sha256: str) -> Manifest:
        """The manifest of a release that is here. It was verified before it was kept."""
        with disk_errors(f"read the manifest of {package} {version}"):
            plain = self.package(package).manifest(version, sha256).read_bytes()
        return decode_manifest(plain)

    def manifests(self) -> list[Manifest]:
        """The manifests of all releases that are here. One that cannot be read keeps nothing."""
        found = []
        with disk_errors("read the manifests"):
            for path in sorted(self.folders.packages.glob("*/manifests/*.json")):
                if not path.name.endswith(RENDERED_SUFFIX):
                    with contextlib.suppress(PublisherError):
                        found.append(decode_manifest(path.read_bytes()))
        return found

    def changes(self, manifest: Manifest, sha256: str) -> list[Change]:
        """Where a release's tree is not as it was staged."""
        release = self.package(manifest.package).release(manifest.version, sha256)
        return find_changes(release, manifest, self.rendered(manifest, sha256))

    def rendered(self, manifest: Manifest, sha256: str) -> Mapping[str, Rendered]:
        """What a release's templates gave, by target; nothing where that cannot be read any more."""
        path = self.package(manifest.package).rendered(manifest.version, sha256)
        with disk_errors(f"read {path}"):
            content = path.read_bytes() if path.exists() else b"{}"
        try:
            return _rendered.decode(content)
        except msgspec.MsgspecError:
            return {}

    def put(self, content: Path, path: Path, temporary: Path) -> None:
        """Link a content to `path`, whatever is there, by one rename. Raises `OSError`."""
        self.discard(temporary)
        link_content(content, temporary)
        temporary.replace(path)

    def check_tree(self, package: str, version: str, sha256: str) -> None:
        """Raise `DeviceError` `disk.io` where a release's tree is not there."""
        folders = self.package(package)
        if not folders.release(version, sha256).is_dir():
            raise DeviceError("disk.io", f"the tree of {package} {version} is gone from {folders.releases}")

    def point_to(self, package: str, version: str, sha256: str) -> None:
        """The switch: one atomic, durable rename of the current link. The tree must be there."""
        self.check_tree(package, version, sha256)
        folders = self.package(package)
        release = folders.release(version, sha256)
        with disk_errors(f"switch to {package} {version}"):
            replace_link(folders.current, release_link(release))

    def point_nowhere(self, package: str) -> None:
        """Nothing of the package is installed any more."""
        folders = self.package(package)
        with disk_errors(f"take {package} out of use"):
            if folders.root.is_dir():
                remove_link(folders.current)

    def running(self, package: str) -> str | None:
        """The name of the folder that the current link points to, or None."""
        with disk_errors(f"read the current link of {package}"):
            return current_release(self.package(package))

    def sweep(self, package: str, keep: Iterable[tuple[str, str]]) -> None:
        """Remove the package's trees and manifests except those to `keep`, given as version and manifest hash.

        What the current link points to stays in any case.
        """
        folders = self.package(package)
        kept = {folders.release(version, sha256).name for version, sha256 in keep}
        with disk_errors(f"remove old releases of {package}"):
            kept |= {current_release(folders) or ""}
            self.discard(folders.staging)
            for tree in _children(folders.releases):
                if tree.name not in kept:
                    self.discard(tree)
            for file in _children(folders.manifests):
                if file.name.removesuffix(RENDERED_SUFFIX).removesuffix(MANIFEST_SUFFIX) not in kept:
                    file.unlink()

    def drop_copies(self, package: str, now: datetime) -> None:
        """Remove the copies of local changes that are too many, too large or too old."""
        with disk_errors(f"remove old copies of local changes of {package}"):
            for copy in kept_too_long(self.package(package).kept, now):
                self.discard(copy)

    def packages(self) -> list[str]:
        """Packages that have a folder here, installed or not. What else somebody put there is none of ours."""
        with disk_errors("list the packages"):
            found = _children(self.folders.packages)
            return [path.name for path in found if matches(PACKAGE_PATTERN, path.name) and path.is_dir()]

    def empty_trash(self) -> None:
        """Delete what was taken out of use."""
        with disk_errors("empty the trash"):
            for path in _children(self.folders.trash):
                _delete(path)

    def flush(self) -> None:
        """Everything written so far survives a power cut."""
        with disk_errors("flush the disk"):
            self._flush(self.folders.root)

    def discard(self, path: Path) -> None:
        """Take out of use by a rename what is there, if anything is; `empty_trash` deletes it. Raises `OSError`."""
        if not os.path.lexists(path):
            return
        self.folders.trash.mkdir(exist_ok=True)
        path.rename(Path(tempfile.mkdtemp(dir=self.folders.trash)) / path.name)


def _seal_rendered(folder: Path, manifest: Manifest) -> dict[str, Rendered]:
    found = {}
    for template in manifest.templates:
        path = folder / template.target
        looks = path.lstat()
        mode = stat.S_IMODE(looks.st_mode)
        found[template.target] = Rendered(size=looks.st_size, sha256=sha256_of(path), mode=mode)
    return found


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _delete(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink()
        return
    _open_up(path)
    shutil.rmtree(path)


def _open_up(folder: Path) -> None:
    # a release may have folders without the read or write bit, which only root could empty
    folder.chmod(0o700)
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                _open_up(Path(entry.path))
