"""Builds a release's tree beside the running one: links to contents, folders, links, links to state."""

import errno
import shutil
from pathlib import Path
from typing import Final

from device_agent.interruption import check_interrupted
from device_agent.layout import PackageFolders
from device_agent.objects import ObjectStore
from schemas.manifest import DirectoryEntry, Manifest
from schemas.paths import is_under, parents_of

_CANNOT_LINK: Final = frozenset({errno.EMLINK, errno.EPERM, errno.EXDEV, errno.EOPNOTSUPP})
"""ext4 allows 65 000 links to one file, which a store of many empty `__init__.py` could reach."""

_DEFAULT_MODE: Final = 0o755


def in_state(manifest: Manifest, path: str) -> bool:
    """Whether a path of the release lies in state, so that the tree has no file there."""
    return any(is_under(path, state) for state in manifest.state)


def build_tree(folder: Path, manifest: Manifest, objects: ObjectStore) -> None:
    """Make a release's tree, without what its templates give. Raises `OSError`.

    Args:
        folder: does not exist yet; as deep below the package's folder as `releases/NAME`.
    """
    _make_folders(folder, manifest)
    for entry in manifest.files:
        check_interrupted()
        if not in_state(manifest, entry.path):
            link_content(objects.path(entry), folder / entry.path)
    for link in manifest.links:
        (folder / link.path).symlink_to(link.target)
    for path in manifest.state:
        (folder / path).symlink_to(state_target(path))


def finish_tree(folder: Path, manifest: Manifest) -> None:
    """Give folders their modes, deepest first, once nothing is to be put into them any more. Raises `OSError`."""
    for entry in sorted(_folders_of_tree(manifest), key=lambda e: e.path, reverse=True):
        if entry.mode != _DEFAULT_MODE:
            (folder / entry.path).chmod(entry.mode)


def state_target(path: str) -> str:
    """What the link at a state path points to. Relative, so that the root folder can be moved."""
    up_to_package = "../" * (path.count("/") + 2)
    return f"{up_to_package}state/{path}"


def release_link(release: Path) -> str:
    """What the current link points to for a release's tree."""
    return f"{release.parent.name}/{release.name}"


def current_release(folders: PackageFolders) -> str | None:
    """The name of the release that the current link points to; None where there is no link. Raises `OSError`."""
    try:
        return folders.current.readlink().name
    except FileNotFoundError:
        return None


def _folders_of_tree(manifest: Manifest) -> list[DirectoryEntry]:
    return [entry for entry in manifest.directories if not in_state(manifest, entry.path)]


def _make_folders(folder: Path, manifest: Manifest) -> None:
    leaves = [
        *(e.path for e in manifest.files if not in_state(manifest, e.path)),
        *(e.path for e in manifest.links),
        *(e.target for e in manifest.templates),
        *manifest.state,
    ]
    wanted = {parent for path in leaves for parent in parents_of(path)}
    for entry in _folders_of_tree(manifest):
        wanted |= {entry.path, *parents_of(entry.path)}
    folder.mkdir(parents=True)
    folder.chmod(_DEFAULT_MODE)
    for path in sorted(wanted):
        (folder / path).mkdir()
        (folder / path).chmod(_DEFAULT_MODE)  # whatever the umask is


def link_content(content: Path, path: Path) -> None:
    """Give a content another name; a copy where the file system has no more links to give. Raises `OSError`."""
    try:
        path.hardlink_to(content)
    except OSError as error:
        if error.errno not in _CANNOT_LINK:
            raise
        shutil.copy2(content, path)
