"""Rollback: back to the release before, which has to run and be healthy too; after a first installation, to nothing."""

import contextlib
from typing import Any, Final

from device_agent.clock import Clock
from device_agent.contexts import Contexts
from device_agent.install_path import InstallPaths
from device_agent.lifecycle import Outcome
from device_agent.reports import log_tail, report
from device_agent.seams import HookRunner, ServiceManager
from device_agent.steps.commit import only_in
from device_agent.steps.health import HealthStep
from device_agent.steps.move import Move
from device_agent.steps.state import Here, StateStep
from device_agent.store import ReleaseStore
from device_agent.threads import in_thread
from device_agent.updates import Install, Release, Update
from schemas.errors import DeviceError, FlotillaError, one_line
from schemas.manifest import Hook, Manifest
from schemas.messages import ErrorReport

DISK_TRIES: Final = 3
DISK_PAUSE_S: Final = 1.0
"""Going back is the last resort: a disk that refuses it once is asked again after so long."""


class RollbackStep:
    """See the module."""

    def __init__(
        self,
        *,
        store: ReleaseStore,
        hooks: HookRunner,
        services: ServiceManager,
        health: HealthStep,
        contexts: Contexts,
        paths: InstallPaths,
        clock: Clock,
        state: StateStep,
    ) -> None:
        self._state = state
        self._clock = clock
        self._store = store
        self._hooks = hooks
        self._services = services
        self._health = health
        self._contexts = contexts
        self._paths = paths

    async def run(self, update: Update) -> Move:
        """Go back. Done again after a restart, it ends the same.

        A hook that fails is told and does not stop it: the release that is left is the broken one. Where the
        release gone back to cannot be made to run, that is the update's last word (`health.rollback`).
        """
        detail: dict[str, Any] = {}
        for tries_left in reversed(range(DISK_TRIES)):
            try:
                await self._go_back(update, detail)
            except FlotillaError as error:
                if not tries_left or not error.code.startswith("disk."):
                    return await self.give_up(update, error, detail)
                await self._clock.sleep(DISK_PAUSE_S)
            else:
                break
        return Move(outcome=Outcome.DONE, detail=detail, **await self._installed(update))

    async def _go_back(self, update: Update, detail: dict[str, Any]) -> None:
        target = update.comes_from
        left = await self._left(update)
        old = await self._manifest(update.package, target)
        if target is not None:
            await in_thread(self._store.check_tree, update.package, target.version, target.manifest)
        if left is not None:
            detail |= await self._hook("pre_rollback", left.hooks.pre_rollback, left, _leaving(update))
            await self._services.stop(update.package, left.services)
            await self._services.remove(update.package, only_in(left, old))
        leaving = Here(left, _leaving(update)) if left is not None else None
        entered = Here(old, target.manifest) if old is not None and target is not None else None
        detail |= await self._state.back(update, leaving, entered)
        await self._change_back(update.package, left, old, target)
        if old is not None and target is not None:
            detail |= await self._hook("post_rollback", old.hooks.post_rollback, old, target.manifest)
            await self._health.start(old)

    async def stop(self, update: Update) -> None:
        """Stop the services of the release that is left. Raises `DeviceError`."""
        left = await self._left(update)
        if left is not None:
            await self._services.stop(update.package, left.services)

    async def give_up(self, update: Update, error: FlotillaError, detail: dict[str, Any] | None = None) -> Move:
        """The last word where going back did not work out; what is installed is what the link says."""
        failed = DeviceError(
            "health.rollback",
            f"after going back from {update.version}: {one_line(error)}"
            + (f" (it was left because: {update.error.message})" if update.error else ""),
            log_tail=error.log_tail or (update.error.log_tail if update.error else ""),
        )
        await self._keep_running(update)
        cause: ErrorReport = report(failed)
        more = {**(detail or {}), "cause": error.code}
        return Move(outcome=Outcome.FAIL, error=cause, detail=more, **await self._installed(update))

    async def break_off(self, update: Update, error: FlotillaError) -> Move:
        """The last word where going back itself keeps ending the agent: nothing more is tried or started for it."""
        return Move(outcome=Outcome.FAIL, error=report(error), **await self._installed(update))

    async def _installed(self, update: Update) -> dict[str, Any]:
        """What the journal's row of the package becomes: what it was before, as far as the link agrees."""
        running = await in_thread(self._store.running, update.package)
        if running is None:
            return {"uninstall": True}
        folders, target = self._store.package(update.package), update.comes_from
        if target is None or running != folders.release(target.version, target.manifest).name:
            return self._not_left(update, running)
        if update.goes_back:
            # what was left is not what anybody wants to go back to
            return {"install": Install(package=update.package, current=target)}
        return {"install": update.before}

    async def _keep_running(self, update: Update) -> None:
        """Whatever the link leads to now, the release that was to be left or the one before, runs as well as it can."""
        target = update.comes_from
        for version, sha256 in (
            (update.version, _leaving(update)),
            (target and target.version, target and target.manifest),
        ):
            with contextlib.suppress(FlotillaError):  # it may be the broken one, and the event tells of worse already
                if version and sha256 and await self._leads_to(update.package, version, sha256):
                    manifest = await in_thread(self._store.manifest, update.package, version, sha256)
                    await self._services.start(manifest.services, await in_thread(self._contexts.of_running, manifest))

    async def _leads_to(self, package: str, version: str, sha256: str) -> bool:
        running = await in_thread(self._store.running, package)
        return running == self._store.package(package).release(version, sha256).name

    def _not_left(self, update: Update, running: str) -> dict[str, Any]:
        """The link could not be changed back. The journal may not know yet where it leads."""
        sha256 = update.manifest
        if sha256 is None or running != self._store.package(update.package).release(update.version, sha256).name:
            return {}
        current = Release(
            version=update.version, manifest=sha256, rollout=update.rollout, installed_at=update.changed_at
        )
        return {"install": Install(package=update.package, current=current, previous=update.comes_from)}

    async def _change_back(
        self, package: str, left: Manifest | None, old: Manifest | None, target: Release | None
    ) -> None:
        if old is None or target is None:
            await in_thread(self._paths.remove, left)
            await in_thread(self._store.point_nowhere, package)
            return
        await in_thread(self._store.point_to, package, target.version, target.manifest)
        await in_thread(self._paths.remove, left, old)
        await in_thread(self._paths.place, old)

    async def _left(self, update: Update) -> Manifest | None:
        """The manifest of the release that is left, where there is one to be read."""
        sha256 = _leaving(update)
        if not sha256:
            return None
        try:
            return await in_thread(self._store.manifest, update.package, update.version, sha256)
        except FlotillaError:
            # nothing of it was staged (its phase was unknown), so nothing of it runs
            return None

    async def _manifest(self, package: str, release: Release | None) -> Manifest | None:
        if release is None:
            return None
        return await in_thread(self._store.manifest, package, release.version, release.manifest)

    async def _hook(self, name: str, hook: Hook | None, manifest: Manifest, sha256: str) -> dict[str, Any]:
        if hook is None:
            return {}
        tree = self._store.package(manifest.package).release(manifest.version, sha256)
        try:
            context = await in_thread(self._contexts.of_tree, manifest, tree)
            result = await self._hooks.run(name, hook, context)
        except FlotillaError as error:
            return {name: log_tail(f"{error.log_tail}\n{one_line(error)}".strip())}
        return {name: result.output}


def _leaving(update: Update) -> str:
    if update.goes_back:
        return update.before.current.manifest if update.before else ""
    return update.manifest or ""
