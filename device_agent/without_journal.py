"""What runs while the journal cannot be opened: the services of what is installed, and nothing else.

A card that has become read-only, or is full, is no reason to stop what the device is there for. Which release of a
package runs is said by its `current` link, and what belongs to it by the manifest beside it: nothing is written.
"""

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from device_agent.agent_db import DATABASE
from device_agent.contexts import Contexts
from device_agent.layout import MANIFEST_SUFFIX, DeviceFolders
from device_agent.seams import ServiceManager
from device_agent.store import ReleaseStore
from device_agent.threads import in_thread
from device_agent.updates import DeviceProfile
from schemas.errors import DeviceError, FlotillaError, one_line
from schemas.layout import release_folder
from schemas.manifest import Manifest, decode_manifest

PAUSE_S: Final = 30.0
"""Between two looks at whether the disk takes writes again."""
_PROBE: Final = ".probe.new"
_CHUNK: Final = 1024 * 1024


async def keep_services(
    root: Path,
    *,
    services: ServiceManager,
    profile: Callable[[], DeviceProfile],
    stop: asyncio.Event,
    tell: Callable[[str], None],
    alive: Callable[[], float],
) -> bool:
    """Have installed services run until the disk takes writes again, or until `stop`.

    Args:
        tell: gets one line for each package that cannot be made to run.
        alive: called at least as often as it says itself, in seconds.

    Returns:
        Whether the disk takes writes again; services have been ended then, for whoever goes on.
    """
    try:
        for problem in await start_installed(root, services, profile):
            tell(problem)
        loop = asyncio.get_running_loop()
        due = loop.time() + PAUSE_S
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), min(alive(), max(0.0, due - loop.time())))
            if not stop.is_set() and loop.time() >= due:
                if await in_thread(takes_writes, root):
                    return True
                due = loop.time() + PAUSE_S
        return False
    finally:
        await services.close()


def anything_installed(root: Path) -> bool:
    """Whether there may be services to keep; a folder in which no agent has ever worked is a mistake to be told."""
    try:
        return any((root / "packages").iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True


async def start_installed(root: Path, services: ServiceManager, profile: Callable[[], DeviceProfile]) -> list[str]:
    """Start what `current` links lead to; one line for each package for which that does not work."""
    store = ReleaseStore(root)
    contexts = Contexts(store.folders, profile)
    problems = []
    for package in await in_thread(store.packages):
        try:
            manifest = await in_thread(_running, store.folders, package)
            if manifest is not None:
                await services.start(manifest.services, await in_thread(contexts.of_running, manifest))
        except FlotillaError as error:
            problems.append(f"{package}: {one_line(error)}")
    return problems


def takes_writes(root: Path) -> bool:
    """Whether a small file can be written below the folder, and the journal be read."""
    probe, database = root / _PROBE, root / DATABASE
    try:
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, b"\0" * 4096)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
            probe.unlink()
        if database.exists():
            with database.open("rb") as stream:
                while stream.read(_CHUNK):
                    pass
    except OSError:
        return False
    return True


def _running(folders: DeviceFolders, package: str) -> Manifest | None:
    own = folders.package(package)
    try:
        name = own.current.readlink().name
        plain = (own.manifests / f"{name}{MANIFEST_SUFFIX}").read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DeviceError("disk.io", f"the manifest of {package} cannot be read: {one_line(error)}") from error
    manifest = decode_manifest(plain)
    if release_folder(manifest.version, hashlib.sha256(plain).hexdigest()) != name:
        raise DeviceError("disk.io", f"the manifest of {package} {name} is not whole")
    return manifest
