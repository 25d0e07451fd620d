"""Repair: what a power cut spoilt of an installed release is fetched again and put in place, file by file."""

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from device_agent.budget import Spending
from device_agent.contexts import Contexts
from device_agent.damage import Examined, Installed, examine
from device_agent.durability import disk_errors, write_file
from device_agent.journal import Journal
from device_agent.lifecycle import Outcome
from device_agent.local_changes import Rendered
from device_agent.objects import sha256_of
from device_agent.seams import AtHand, ServiceManager, SourceFactory, TemplateRenderer, WantedObject, Way, Whence
from device_agent.steps.move import Move
from device_agent.store import ReleaseStore
from device_agent.threads import in_thread
from device_agent.updates import Install, Origin, Release, Update
from schemas.errors import DeviceError, FlotillaError
from schemas.manifest import Manifest
from schemas.messages import ErrorReport

NAMED: Final = 5
RETRIES: Final = 100
"""At growing intervals of at most ten minutes: most of a day without a repository."""


class RepairStep:
    """See the module."""

    def __init__(
        self,
        *,
        journal: Journal,
        store: ReleaseStore,
        sources: SourceFactory,
        services: ServiceManager,
        templates: TemplateRenderer,
        contexts: Contexts,
        platform: Callable[[], str],
        max_bytes: int | None = None,
    ) -> None:
        """
        Args:
            platform: called, in a thread, for the device's platform.
            max_bytes: most that a repair may fetch, over all of its attempts, unless its request says otherwise.
        """
        self._max_bytes = max_bytes
        self._journal = journal
        self._store = store
        self._sources = sources
        self._services = services
        self._templates = templates
        self._contexts = contexts
        self._platform = platform

    def damage(self, install: Install, *, max_bytes: int | None = None) -> tuple[list[str], int]:
        """Paths of damaged files of an installed release, and how many files were not looked at. Blocks.

        A manifest that is not whole counts as one such path.

        Raises:
            DeviceError: `disk.io`.
        """
        current = install.current
        manifest = self._whole_manifest(install)
        if manifest is None:
            return [self._store.package(install.package).manifest(current.version, current.manifest).name], 0
        found = self._examine(manifest, current, max_bytes)
        return [file.path for file in found.damaged], found.left

    async def run(self, update: Update) -> Move:
        """Repair the release that is installed. Done again after a restart, it ends the same.

        Raises:
            NetworkError: `fetch.*`.
            DeviceError: `verify.*`, `disk.*`; `fetch.limit`: it takes too many bytes.
        """
        install = (await in_thread(self._journal.installs)).get(update.package)
        if install is None or install.current.version != update.version:
            gone = f"{update.package} {update.version} is not installed any more"
            return Move(outcome=Outcome.CANCEL, error=ErrorReport(code="conflict.superseded", message=gone))
        source = self._sources(await in_thread(self._whence, install))
        spending = Spending(update, self._max_bytes, free=False)
        try:
            manifest = await in_thread(self._whole_manifest, install)
            if manifest is None:
                platform = await in_thread(self._platform)
                at_hand = AtHand(max_bytes=spending.left, on_bytes=spending.add)
                signed = await source.resolve(install.package, install.current.version, platform, at_hand)
                spending.settle(signed.wire_bytes)
                manifest = await in_thread(self._put_manifest, install, signed.plain, signed.sha256)
            found = await in_thread(self._examine, manifest, install.current, None)
            damaged = found.damaged
            wanted = await in_thread(self._drop, manifest, damaged)
            await source.fetch(wanted, spending.add, Way(max_bytes=spending.left))
        finally:
            await source.close()
            if spending.is_limited:
                await in_thread(self._journal.change, update.id, fetched_bytes=spending.total)
        await in_thread(self._put_in_place, manifest, install.current, damaged)
        await in_thread(self._put_in_previous, install, {file.sha256 for file in damaged})
        await self._services.stop(install.package, manifest.services)
        await self._services.start(manifest.services, await in_thread(self._contexts.of_running, manifest))
        detail: dict[str, Any] = {
            "repaired": [file.path for file in damaged[:NAMED]],
            "files": len(damaged),
            "wire_bytes": spending.wire,
        }
        return Move(outcome=Outcome.DONE, detail=detail)

    def _whole_manifest(self, install: Install) -> Manifest | None:
        current = install.current
        path = self._store.package(install.package).manifest(current.version, current.manifest)
        with contextlib.suppress(FlotillaError, FileNotFoundError), disk_errors(f"read {path}"):
            if hashlib.sha256(path.read_bytes()).hexdigest() == current.manifest:
                return self._store.manifest(install.package, current.version, current.manifest)
        return None

    def _put_manifest(self, install: Install, plain: bytes, sha256: str) -> Manifest:
        current = install.current
        if sha256 != current.manifest:
            raise DeviceError("verify.digest", f"{install.package} {current.version} is another release by now")
        path = self._store.package(install.package).manifest(current.version, sha256)
        with disk_errors(f"write {path}"):
            write_file(path, plain)
        return self._store.manifest(install.package, current.version, sha256)

    def _examine(self, manifest: Manifest, current: Release, max_bytes: int | None) -> Examined:
        folder = self._store.package(manifest.package).release(current.version, current.manifest)
        rendered = self._store.rendered(manifest, current.manifest)
        return examine(folder, manifest, rendered, installed_at=current.installed_at, max_bytes=max_bytes)

    def _whence(self, install: Install) -> Whence:
        """Where the release came from; the configured repositories are asked in any case."""
        for update in self._journal.history(install.package):
            from_there = update.version == install.current.version and update.request.origin is not Origin.REPAIR
            if from_there and (whence := update.request.whence):
                return whence
        return []

    def _drop(self, manifest: Manifest, damaged: list[Installed]) -> list[WantedObject]:
        """Have damaged contents be missing; gives what is to be fetched."""
        spoilt = {file.sha256 for file in damaged}
        self._store.objects.drop([entry for entry in manifest.files if entry.sha256 in spoilt])
        return self._store.objects.missing(manifest)

    def _put_in_place(self, manifest: Manifest, current: Release, damaged: list[Installed]) -> None:
        """From the object store into the tree, each file by one rename."""
        store = self._store
        store.objects.complete(manifest)
        store.flush()
        store.objects.seal(manifest)
        folders = store.package(manifest.package)
        release = folders.release(current.version, current.manifest)
        entries = {entry.path: entry for entry in manifest.files}
        targets = [file.path for file in damaged if file.path not in entries]
        with disk_errors(f"repair {manifest.package} {current.version}"):
            folders.staging.mkdir(exist_ok=True)
            for file in damaged:
                if file.path in entries:
                    store.put(store.objects.path(entries[file.path]), release / file.path, folders.staging / "repaired")
        if targets:
            self._render_again(manifest, current, targets)
        store.flush()

    def _put_in_previous(self, install: Install, spoilt: set[str]) -> None:
        """The release before has the same files where its contents are the same."""
        before = install.previous
        if before is None:
            return
        with contextlib.suppress(FlotillaError):  # going back to it will say so
            manifest = self._store.manifest(install.package, before.version, before.manifest)
            found = self._examine(manifest, before, None) if spoilt & {e.sha256 for e in manifest.files} else None
            if found is not None:
                again = [file for file in found.damaged if file.sha256 in spoilt]
                self._put_in_place(manifest, before, again)

    def _render_again(self, manifest: Manifest, current: Release, targets: list[str]) -> None:
        folders = self._store.package(manifest.package)
        release, scratch = folders.release(current.version, current.manifest), folders.staging / "rendered"
        with disk_errors(f"render the templates of {manifest.package} {current.version} again"):
            self._store.discard(scratch)
            for template in manifest.templates:
                source = scratch / template.source
                source.parent.mkdir(parents=True, exist_ok=True)
                source.write_bytes((release / template.source).read_bytes())
                (scratch / template.target).parent.mkdir(parents=True, exist_ok=True)
        self._templates.render(manifest, self._contexts.of_tree(manifest, scratch))
        rendered = dict(self._store.rendered(manifest, current.manifest))
        with disk_errors(f"repair {manifest.package} {current.version}"):
            for target in targets:
                made: Path = scratch / target
                rendered[target] = Rendered(
                    size=made.stat().st_size, sha256=sha256_of(made), mode=rendered[target].mode
                )
                made.replace(release / target)
            write_file(folders.rendered(current.version, current.manifest), msgspec.json.encode(rendered))
            self._store.discard(scratch)
