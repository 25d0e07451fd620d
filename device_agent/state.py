"""What survives updates: a package's state folder, and its first content from the release."""

import contextlib
import errno
import os
import pwd
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from device_agent.durability import disk_errors
from device_agent.layout import PackageFolders
from device_agent.objects import ObjectStore
from schemas.errors import DeviceError
from schemas.manifest import Manifest
from schemas.paths import is_under, parents_of

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def seed_state(
    folders: PackageFolders, manifest: Manifest, objects: ObjectStore, flush: Callable[[], None] = os.sync
) -> list[str]:
    """Give each state path that does not exist yet what the release packs there; gives the paths that were made.

    A path appears whole, by one rename, so that what an application finds there is never half a
    beginning. A path with nothing packed becomes an empty folder. What exists is left alone, whatever it is.

    Args:
        flush: makes what was written survive a power cut; called before each rename, because a path that is there
            is never looked at again.

    Raises:
        DeviceError: `disk.full`, `disk.io`, or `conflict.local_changes` where a link stands in the way: the
            package's own account may write there, so the agent does not follow what it put.
    """
    made: list[str] = []
    with disk_errors(f"prepare the state of {manifest.package}"):
        folders.state.mkdir(parents=True, exist_ok=True)
        for path in manifest.state:
            name = path.rpartition("/")[2]
            with _parent_of(folders.state, path) as parent:
                if _is_there(name, parent):
                    continue
                seed = folders.staging / "state"
                if os.path.lexists(seed):
                    shutil.rmtree(seed) if seed.is_dir() else seed.unlink()
                folders.staging.mkdir(exist_ok=True)
                _plant(seed, path, manifest, objects)
                _give_to_service_user(seed, manifest)
                flush()
                os.rename(seed, name, dst_dir_fd=parent)  # a path could be led elsewhere meanwhile
            made.append(path)
    return made


@contextmanager
def _parent_of(state: Path, path: str) -> Iterator[int]:
    """The folder that `path` is to be in, opened one level after the other so that no link is ever followed.

    Folders that are missing are made.
    """
    here = os.open(state, _FOLDER)
    try:
        for parent in parents_of(path):
            name = parent.rpartition("/")[2]
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, dir_fd=here)
            try:
                there = os.open(name, _FOLDER, dir_fd=here)
            except OSError as error:
                if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                    raise
                raise DeviceError(
                    "conflict.local_changes", f"{state / parent} is not a folder, but state is to be kept below it"
                ) from error
            os.close(here)
            here = there
        yield here
    finally:
        os.close(here)


def _is_there(name: str, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _plant(seed: Path, path: str, manifest: Manifest, objects: ObjectStore) -> None:
    files = [entry for entry in manifest.files if is_under(entry.path, path)]
    if not any(entry.path == path for entry in files):
        seed.mkdir()
    for folder in manifest.directories:
        if is_under(folder.path, path):
            (seed / folder.path[len(path) :].lstrip("/")).mkdir(parents=True, exist_ok=True)
    for entry in files:
        target = seed if entry.path == path else seed / entry.path[len(path) + 1 :]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(objects.path(entry), target)
        target.chmod(entry.mode)
    # deepest first, and once nothing is to be put into them any more
    for folder in sorted(manifest.directories, key=lambda e: e.path, reverse=True):
        if is_under(folder.path, path):
            (seed / folder.path[len(path) :].lstrip("/")).chmod(folder.mode)


def _give_to_service_user(seed: Path, manifest: Manifest) -> None:
    """Where root keeps services that all run as one other account, state belongs to that account."""
    users = {service.user for service in manifest.services if service.command is not None}
    if os.geteuid() != 0 or len(users) != 1 or None in users:
        return
    try:
        account = pwd.getpwnam(users.pop() or "")
    except KeyError:
        return  # starting the service will say so
    for path in (seed, *seed.rglob("*")):
        os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)
