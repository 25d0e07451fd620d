"""State: copied, migrated and put back while the package's services stand still, around the switch."""

from dataclasses import replace
from typing import Any, NamedTuple

from device_agent.contexts import Contexts
from device_agent.interruption import in_interruptible_thread
from device_agent.journal import Journal
from device_agent.reports import log_tail
from device_agent.seams import HookRunner
from device_agent.snapshots import Snapshots
from device_agent.store import ReleaseStore
from device_agent.threads import in_thread
from device_agent.updates import Migration, Update
from schemas.errors import FlotillaError, one_line
from schemas.manifest import Hook, Manifest
from schemas.versions import compare


class Here(NamedTuple):
    """A release that is on the device: its manifest, and the hash that names its tree."""

    manifest: Manifest
    sha256: str


class StateStep:
    """See the module. What has been completed is journaled; what was interrupted is done again."""

    def __init__(self, *, journal: Journal, store: ReleaseStore, hooks: HookRunner, contexts: Contexts) -> None:
        self._journal = journal
        self._store = store
        self._hooks = hooks
        self._contexts = contexts
        self._snapshots = Snapshots(store)

    async def check(self, update: Update, new: Manifest) -> None:
        """Before anything is stopped: raise `DeviceError` `disk.full` where the snapshot asked for has no room."""
        if new.state_snapshot:
            await in_interruptible_thread(self._snapshots.check_room, update.package)

    async def keep(self, update: Update, new: Manifest) -> dict[str, Any]:
        """Copy the state where the new release asks for it; gives details for the event. Raises `disk.*`."""
        if not new.state_snapshot:
            return {}
        if not (await self._as_journaled(update)).snapshot:
            await in_thread(self._snapshots.make, update.package, update.id)
            await in_thread(self._journal.change, update.id, snapshot=True)
        return {"state_snapshot": True}

    async def forward(self, update: Update, left: Here | None, new: Here) -> dict[str, Any]:
        """Migrate the state; gives details for the event.

        Raises:
            DeviceError: `hook.*`, `disk.*`, `requires.setting`.
        """
        name, hook, runs = _migration(left, new)
        if hook is None or runs is None or (await self._as_journaled(update)).migration is Migration.DONE:
            return {}
        await in_thread(self._journal.change, update.id, migration=Migration.BEGUN)
        output = await self._run(name, hook, runs, left, new)
        await in_thread(self._journal.change, update.id, migration=Migration.DONE)
        return {name: output}

    async def back(self, update: Update, left: Here | None, old: Here | None) -> dict[str, Any]:
        """On the way back: put the copy back, else migrate back what was migrated; gives details for the event.

        A migration that fails is told and does not stop the way back: whether the release gone back to can live
        with that is for its health checks to say.

        Raises:
            DeviceError: `disk.*`.
        """
        update = await self._as_journaled(update)
        if update.migration is Migration.UNDONE:
            return {}
        if update.snapshot:
            await in_thread(self._snapshots.restore, update.package, update.id)
            await in_thread(self._journal.change, update.id, migration=Migration.UNDONE)
            return {"state_restored": True}
        name, hook, runs = _migration(left, old)
        touched = update.goes_back or update.migration is not Migration.NONE
        if hook is None or runs is None or not touched:
            return {}
        try:
            output = await self._run(name, hook, runs, left, old)
        except FlotillaError as error:
            output = log_tail(f"{error.log_tail}\n{one_line(error)}".strip())
        await in_thread(self._journal.change, update.id, migration=Migration.UNDONE)
        return {name: output}

    async def _as_journaled(self, update: Update) -> Update:
        # the caller's may be from before an earlier try
        return await in_thread(self._journal.get, update.id) or update

    async def _run(self, name: str, hook: Hook, runs: Here, left: Here | None, entered: Here | None) -> str:
        manifest, sha256 = runs
        tree = self._store.package(manifest.package).release(manifest.version, sha256)
        context = await in_thread(self._contexts.of_tree, manifest, tree)
        versions = {
            "FLOTILLA_FROM_VERSION": left.manifest.version if left else "",
            "FLOTILLA_TO_VERSION": entered.manifest.version if entered else "",
        }
        result = await self._hooks.run(name, hook, replace(context, environment={**context.environment, **versions}))
        return result.output


def _migration(left: Here | None, entered: Here | None) -> tuple[str, Hook | None, Here | None]:
    """The hook that migrates from one release to the other, and the release that has it: always the newer one."""
    if entered is not None and (left is None or compare(entered.manifest.version, left.manifest.version) >= 0):
        return "migrate_up", entered.manifest.hooks.migrate_up, entered
    if left is not None:
        return "migrate_down", left.manifest.hooks.migrate_down, left
    return "migrate_down", None, None
