"""Switch: the one moment at which the device changes over, undone as a whole where it does not work out."""

from collections.abc import Awaitable, Callable
from typing import Any

from device_agent.clock import Clock
from device_agent.contexts import Contexts
from device_agent.install_path import InstallPaths
from device_agent.lifecycle import Outcome
from device_agent.local_changes import describe, keep_copies
from device_agent.seams import HookRunner, ServiceManager
from device_agent.state import seed_state
from device_agent.steps.move import Move
from device_agent.store import ReleaseStore
from device_agent.threads import in_thread
from device_agent.updates import Install, LocalChanges, Release, Update
from schemas.errors import DeviceError
from schemas.manifest import Hook, Manifest


class SwitchStep:
    """See the module."""

    def __init__(
        self,
        *,
        store: ReleaseStore,
        hooks: HookRunner,
        services: ServiceManager,
        contexts: Contexts,
        paths: InstallPaths,
        local_changes: LocalChanges,
        clock: Clock,
    ) -> None:
        self._store = store
        self._hooks = hooks
        self._services = services
        self._contexts = contexts
        self._paths = paths
        self._local_changes = local_changes
        self._clock = clock

    async def run(self, update: Update, begin: Callable[[], Awaitable[None]]) -> Move:
        """Switch to the staged release and start its services.

        Args:
            begin: called right before the first thing is changed; from then on a failure is to be undone.
                After a restart past that point what leads to it is not done again.

        Raises:
            DeviceError: `conflict.local_changes`, `conflict.install_path`, `hook.*`, `service.*`, `disk.*`,
                `requires.setting`.
        """
        sha256 = _known(update)
        new = await in_thread(self._store.manifest, update.package, update.version, sha256)
        old = update.before.current if update.before else None
        before = await in_thread(self._store.manifest, update.package, old.version, old.manifest) if old else None
        detail: dict[str, Any] = {}
        if not update.switch_begun:
            if before is not None and old is not None:
                detail |= await in_thread(self._look_for_changes, before, old)
            await in_thread(self._paths.check, new)
            detail |= await self._hook("pre_switch", new.hooks.pre_switch, new, sha256)
            await begin()
        if before is not None:
            await self._services.stop(update.package, before.services)
        await in_thread(self._change_over, new, sha256)
        detail |= await self._hook("post_switch", new.hooks.post_switch, new, sha256)
        running = await in_thread(self._contexts.of_running, new)
        await self._services.start(new.services, running)
        release = Release(
            version=update.version, manifest=sha256, rollout=update.rollout, installed_at=self._clock.now()
        )
        install = Install(package=update.package, current=release, previous=old)
        return Move(outcome=Outcome.DONE, detail=detail, install=install)

    def _look_for_changes(self, manifest: Manifest, old: Release) -> dict[str, Any]:
        package = manifest.package
        changes = self._store.changes(manifest, old.manifest)
        if not changes:
            return {}
        if self._local_changes is LocalChanges.ABORT:
            raise DeviceError(
                "conflict.local_changes",
                f"installed files of {package} {old.version} were changed on this device: {describe(changes)}; "
                "undo that, or set policy.local_changes to overwrite or keep-copy",
            )
        detail: dict[str, Any] = {"local_changes": describe(changes)}
        if self._local_changes is LocalChanges.KEEP_COPY:
            folders = self._store.package(package)
            kept = folders.kept / f"{old.version}-{self._clock.now():%Y%m%dT%H%M%SZ}"
            keep_copies(folders.release(old.version, old.manifest), changes, kept)
            detail["kept"] = str(kept)
        return detail

    def _change_over(self, new: Manifest, sha256: str) -> None:
        folders = self._store.package(new.package)
        if seed_state(folders, new, self._store.objects):
            self._store.flush()
        self._store.point_to(new.package, new.version, sha256)
        self._paths.place(new)

    async def _hook(self, name: str, hook: Hook | None, manifest: Manifest, sha256: str) -> dict[str, Any]:
        if hook is None:
            return {}
        tree = self._store.package(manifest.package).release(manifest.version, sha256)
        context = await in_thread(self._contexts.of_tree, manifest, tree)
        result = await self._hooks.run(name, hook, context)
        return {name: result.output}


def _known(update: Update) -> str:
    if update.manifest is None:
        raise DeviceError("internal.error", f"update {update.id} was staged without a manifest")
    return update.manifest
