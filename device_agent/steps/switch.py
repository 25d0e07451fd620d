"""Switch: the one moment at which the device changes over, undone as a whole where it does not work out."""

from collections.abc import Awaitable, Callable
from typing import Any

from device_agent.clock import Clock
from device_agent.contexts import Contexts
from device_agent.install_path import InstallPaths
from device_agent.interruption import in_interruptible_thread
from device_agent.lifecycle import Outcome
from device_agent.local_changes import describe, keep_copies
from device_agent.seams import HookRunner, ServiceManager
from device_agent.state import seed_state
from device_agent.steps.move import Move
from device_agent.steps.state import Here, StateStep
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
        state: StateStep,
    ) -> None:
        self._state = state
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
        detail: dict[str, Any] = {}
        if not update.switch_begun:
            detail |= await self.prepare(update)
            await begin()
        await self.stop(update)
        detail |= await self.change_over(update)
        return await self.start(update, detail)

    async def prepare(self, update: Update) -> dict[str, Any]:
        """All that can be found out and done before anything is changed; gives details for the event."""
        new, old = await self._new(update), await self._old(update)
        detail: dict[str, Any] = {}
        if old is not None:
            detail |= await in_interruptible_thread(self._look_for_changes, old)
        await in_thread(self._paths.check, new.manifest)
        await self._state.check(update, new.manifest)
        return detail | await self._hook("pre_switch", new.manifest.hooks.pre_switch, new)

    async def stop(self, update: Update) -> None:
        """Stop the services of the release before."""
        old = await self._old(update)
        if old is not None:
            await self._services.stop(update.package, old.manifest.services)

    async def change_over(self, update: Update) -> dict[str, Any]:
        """Migrate the state, and switch; services stand still. Done again after a restart, it ends the same."""
        new, old = await self._new(update), await self._old(update)
        detail = await self._state.keep(update, new.manifest)
        await in_thread(self._seed, new.manifest)
        detail |= await self._state.forward(update, old, new)
        await in_thread(self._switch, new)
        return detail | await self._hook("post_switch", new.manifest.hooks.post_switch, new)

    async def start(self, update: Update, detail: dict[str, Any]) -> Move:
        """Start the services of the release that has been switched to."""
        new = await self._new(update)
        running = await in_thread(self._contexts.of_running, new.manifest)
        await self._services.start(new.manifest.services, running)
        release = Release(
            version=update.version, manifest=new.sha256, rollout=update.rollout, installed_at=self._clock.now()
        )
        old = update.before.current if update.before else None
        install = Install(package=update.package, current=release, previous=old)
        return Move(outcome=Outcome.DONE, detail=detail, install=install)

    async def _new(self, update: Update) -> Here:
        sha256 = _known(update)
        return Here(await in_thread(self._store.manifest, update.package, update.version, sha256), sha256)

    async def _old(self, update: Update) -> Here | None:
        if update.before is None:
            return None
        old = update.before.current
        return Here(await in_thread(self._store.manifest, update.package, old.version, old.manifest), old.manifest)

    def _look_for_changes(self, old: Here) -> dict[str, Any]:
        package, version = old.manifest.package, old.manifest.version
        changes = self._store.changes(old.manifest, old.sha256)
        if not changes:
            return {}
        if self._local_changes is LocalChanges.ABORT:
            raise DeviceError(
                "conflict.local_changes",
                f"installed files of {package} {version} were changed on this device: {describe(changes)}; "
                "undo that, or set policy.local_changes to overwrite or keep-copy",
            )
        detail: dict[str, Any] = {"local_changes": describe(changes)}
        if self._local_changes is LocalChanges.KEEP_COPY:
            folders = self._store.package(package)
            kept = folders.kept / f"{version}-{self._clock.now():%Y%m%dT%H%M%SZ}"
            keep_copies(folders.release(version, old.sha256), changes, kept)
            detail["kept"] = str(kept)
        return detail

    def _seed(self, new: Manifest) -> None:
        seed_state(self._store.package(new.package), new, self._store.objects, self._store.flush)

    def _switch(self, new: Here) -> None:
        self._store.point_to(new.manifest.package, new.manifest.version, new.sha256)
        self._paths.place(new.manifest)

    async def _hook(self, name: str, hook: Hook | None, here: Here) -> dict[str, Any]:
        if hook is None:
            return {}
        manifest, sha256 = here
        tree = self._store.package(manifest.package).release(manifest.version, sha256)
        context = await in_thread(self._contexts.of_tree, manifest, tree)
        result = await self._hooks.run(name, hook, context)
        return {name: result.output}


def _known(update: Update) -> str:
    if update.manifest is None:
        raise DeviceError("internal.error", f"update {update.id} was staged without a manifest")
    return update.manifest
