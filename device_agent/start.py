"""The agent's start: clear up after an interruption, and have what is installed run."""

from collections.abc import Callable
from typing import Any

from device_agent.adopting import adopt
from device_agent.clock import Clock
from device_agent.damage import MAX_BYTES_AT_START
from device_agent.journal import MAX_UPDATES, Journal
from device_agent.lifecycle import COUNTED_PHASES, Outcome
from device_agent.seams import ServiceManager
from device_agent.sets import Waiting, group_members, judge, together
from device_agent.steps.assembly import Steps
from device_agent.steps.repair import NAMED, RETRIES
from device_agent.store import ReleaseStore
from device_agent.threads import in_thread
from device_agent.updates import Install, Origin, Update, UpdateRequest
from schemas.errors import FlotillaError, one_line
from schemas.ids import uuid7
from schemas.messages import LAST_WORDS, Phase


class Start:
    """See the module."""

    def __init__(
        self,
        journal: Journal,
        store: ReleaseStore,
        services: ServiceManager,
        steps: Steps,
        *,
        clock: Clock,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._clock = clock
        self._random_bytes = random_bytes
        self._journal = journal
        self._store = store
        self._services = services
        self._steps = steps

    async def recover(self) -> list[str]:
        """Count the restart, remove leftovers, start services; one line for each thing that did not go well.

        Raises:
            DeviceError: `disk.*`: the journal cannot be read or written.
        """
        unfinished = await in_thread(self._count_restart)
        troubles: list[str] = []
        try:
            troubles += await in_thread(self._adopt)
            await self._steps.commit.sweep(collect=True)
        except FlotillaError as error:
            troubles.append(one_line(error))
        changing = {update.package for update in unfinished if has_changed_things(update)}
        looked = True
        for package, install in (await in_thread(self._journal.installs)).items():
            if package in changing:
                continue  # the step that is done again sees to it
            try:
                troubles += await in_thread(self._look_for_damage, install)
            except FlotillaError as error:
                looked = False
                troubles.append(one_line(error))
            try:
                await self._run(install)
            except FlotillaError as error:
                troubles.append(f"{package} {install.current.version}: {one_line(error)}")
        if looked:
            self._journal.settle()
        return troubles

    def _adopt(self) -> list[str]:
        return adopt(self._journal, self._store, now=self._clock.now(), random_bytes=self._random_bytes)

    def _look_for_damage(self, install: Install) -> list[str]:
        """After a power cut or a kill, or a repair that came to nothing: begin to repair what is damaged."""
        last = self._journal.last_update(install.package)
        repairs = last is not None and last.request.origin is Origin.REPAIR
        if last is not None and repairs and last.phase not in LAST_WORDS:
            return []
        if self._journal.ended_in_order and not (repairs and last is not None and last.phase is Phase.FAILED):
            return []
        damaged, left = self._steps.repair.damage(install, max_bytes=MAX_BYTES_AT_START)
        if not damaged:
            return []
        now, name = self._clock.now(), f"{install.package} {install.current.version}"
        self._journal.begin(
            UpdateRequest(
                package=install.package, version=install.current.version, origin=Origin.REPAIR, retries=RETRIES
            ),
            Outcome.ACCEPT,
            update=uuid7(int(now.timestamp() * 1000), self._random_bytes(10)),
            at=now,
            detail={"damaged": damaged[:NAMED], "files": len(damaged), **({"not_examined": left} if left else {})},
        )
        return [f"{name}: {len(damaged)} files are damaged ({', '.join(damaged[:NAMED])}) and will be repaired"]

    def _count_restart(self) -> list[Update]:
        unfinished = self._journal.unfinished()
        idle = self._waits_for_others(unfinished)
        for update in unfinished:
            if update.phase in COUNTED_PHASES and update.id not in idle:
                changes: dict[str, Any] = {"restarts": update.restarts + 1}
                self._journal.change(update.id, **changes)
        return unfinished

    def _waits_for_others(self, unfinished: list[Update]) -> set[str]:
        """Staged members of sets whose other members are not: nothing is done for them that could end the agent."""
        if not any(together(update) for update in unfinished):
            return set()
        now, installs = self._clock.now(), self._journal.installs()
        sets = group_members(unfinished, self._journal.history(limit=MAX_UPDATES))
        waiting = [members.live for members in sets if isinstance(judge(members, installs, now), Waiting)]
        return {update.id for live in waiting for update in live if together(update)}

    async def _run(self, install: Install) -> None:
        package, current = install.package, install.current
        manifest = await in_thread(self._store.manifest, package, current.version, current.manifest)
        release = self._store.package(package).release(current.version, current.manifest)
        if await in_thread(self._store.running, package) != release.name:
            await in_thread(self._store.point_to, package, current.version, current.manifest)
        await self._services.start(manifest.services, await in_thread(self._steps.contexts.of_running, manifest))


def has_changed_things(update: Update) -> bool:
    """Whether the device may run something else than what the journal has as installed, because of this update."""
    if update.phase is None or update.phase in (Phase.SWITCHED, Phase.PROBATION, Phase.ROLLING_BACK):
        return True
    return update.phase is Phase.STAGED and update.switch_begun
