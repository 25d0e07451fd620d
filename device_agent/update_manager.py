"""The UpdateManager: takes wishes for releases and works on one update at a time, from the journal.

Everything it knows is in the journal, so that a new one on the same root folder goes on where another
was cut off. It is used from one event loop.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from device_agent import wishes
from device_agent.clock import Clock
from device_agent.conditions import Conditions
from device_agent.journal import MAX_UPDATES, Journal
from device_agent.lifecycle import Outcome
from device_agent.retention import proven
from device_agent.seams import HealthProbe, HookRunner, ServiceManager, SourceFactory, TemplateRenderer
from device_agent.start import Start
from device_agent.steps.assembly import make_steps
from device_agent.store import ReleaseStore
from device_agent.threads import in_thread
from device_agent.update_queue import UpdateQueue
from device_agent.updates import (
    Answer,
    Cancelled,
    DeviceProfile,
    LocalChanges,
    Origin,
    Release,
    Submitted,
    Update,
    UpdateRequest,
)
from schemas.errors import DeviceError, OperatorError, one_line
from schemas.messages import LAST_WORDS, InstalledPackage, Phase
from schemas.versions import parse

TROUBLE_PAUSE_S: Final = 10.0
"""Time between two tries to go on where the disk refuses."""


class UpdateManager:
    """See the module. Order of use: construct, `recover()`, then `serve()` in a task beside all else."""

    def __init__(
        self,
        *,
        root: Path,
        journal: Journal,
        sources: SourceFactory,
        hooks: HookRunner,
        services: ServiceManager,
        probe: HealthProbe,
        templates: TemplateRenderer,
        profile: Callable[[], DeviceProfile],
        clock: Clock,
        random_bytes: Callable[[int], bytes],
        local_changes: LocalChanges = LocalChanges.ABORT,
        link_install_path: bool = True,
        install_paths: Mapping[str, Path] | None = None,
        store: ReleaseStore | None = None,
        conditions: Conditions | None = None,
        max_bytes: int | None = None,
        keep_bytes: int = 0,
    ) -> None:
        """
        Args:
            sources: called with a request's `repository` each time content is needed; it is closed after.
            profile: called, in a thread, for each update; gives what is true now.
            random_bytes: for ids and for spreading retries, e.g. `os.urandom`.
            local_changes: what to do where installed files were changed.
            link_install_path: whether packages' install paths are made links to them.
            install_paths: package to another install path.
            store: the one below `root` unless given.
            max_bytes: most that one update may fetch; no limit where it is None.
            keep_bytes: most that releases may take which nobody needs any more and an operator may want to go back to.
            conditions: under which updates may start and switch; none by default.
        """
        self._journal = journal
        self._clock = clock
        store = self._store = store or ReleaseStore(root)
        steps = make_steps(
            journal=journal,
            store=store,
            sources=sources,
            hooks=hooks,
            services=services,
            probe=probe,
            templates=templates,
            profile=profile,
            clock=clock,
            local_changes=local_changes,
            link_install_path=link_install_path,
            install_paths=install_paths or {},
            max_bytes=max_bytes,
            keep_bytes=keep_bytes,
            conditions=conditions or Conditions(),
        )
        self._start = Start(journal, store, services, steps, clock=clock, random_bytes=random_bytes)
        self._queue = UpdateQueue(journal=journal, store=store, steps=steps, clock=clock, random_bytes=random_bytes)
        self._trouble = ""

    async def recover(self) -> list[str]:
        """Once, at the start: clear what an interruption left behind, start the services of what is installed.

        Returns:
            One line for each thing that did not go well (the agent goes on regardless).

        Raises:
            DeviceError: `disk.*`: the journal cannot be read or written.
        """
        return await self._start.recover()

    async def serve(self) -> None:
        """Work on updates, one at a time, until cancelled. What is interrupted goes on with the next start."""
        while True:
            try:
                await self._queue.work_on_next()
                self._trouble = ""
            except DeviceError as error:
                # the journal or the disk refuses; what is journaled is where it goes on once that is over
                self._trouble = one_line(error)
                await self._clock.sleep(TROUBLE_PAUSE_S)

    async def submit(self, request: UpdateRequest) -> Submitted:
        """Take a wish. The answer is journaled (with its event, where there is one) before this returns.

        The same wish twice changes nothing. A newer one for the same package takes the place of one that
        has not begun to switch (`conflict.superseded`), and waits for one that has.

        Raises:
            PublisherError: `version.bad`.
            DeviceError: `disk.*`: nothing can be journaled.
        """
        parse(request.version)
        async with self._queue.choosing:
            judgement = await self._judge(request)
            if judgement.same is not None:
                await self._queue.reschedule(judgement.same, request)
                return Submitted(answer=judgement.answer, update=judgement.same.id)
            for update in judgement.replaces:
                await self._queue.stop(update, wishes.superseded_by(request.package, request.version, update))
            if judgement.begin is None:
                return Submitted(answer=judgement.answer)
            begun = await self._queue.begin(request, judgement.begin, judgement.error)
            return Submitted(answer=judgement.answer, update=begun)

    async def cancel(
        self, package: str, *, rollout: str | None = None, version: str | None = None, ended: str | None = None
    ) -> Cancelled:
        """Stop what has not begun to switch. Returns when it has ended, within half a minute.

        Args:
            rollout: only what belongs to that.
            version: what the rollout is of. Where nothing of the rollout was ever begun here, an update that is
                cancelled from the start says so: whoever asked hears of it, and the release is not begun later.
            ended: an update of which it is known how it ended. Where nothing was begun after it, one says so likewise.

        Raises:
            PublisherError: `version.bad`.
            DeviceError: `disk.*`: nothing can be journaled.
        """
        error = DeviceError("conflict.cancelled", f"the update of {package} was cancelled")
        async with self._queue.choosing:
            unfinished = [u for u in await self._queue.unfinished(package) if rollout in (None, u.rollout)]
            stopped = [await self._queue.stop(update, error) for update in unfinished]
            if rollout is not None and version is not None and not unfinished:
                parse(version)
                history = await in_thread(self._journal.history, package, MAX_UPDATES)
                unbegun = wishes.cancelled_anew(package, version, rollout, ended=ended, history=history)
                if unbegun is not None:
                    await self._queue.begin(unbegun, Outcome.CANCEL, error)
                    return Cancelled.CANCELLED
        if any(stopped):
            return Cancelled.CANCELLED
        return Cancelled.TOO_LATE if stopped else Cancelled.NOTHING

    async def rollback(self, package: str, to: str | None = None) -> str:
        """The operator wants the previous release: an update in probation is undone, else one that goes back begins.

        Args:
            to: the version of another release that is still on the device, instead of the previous one.

        Returns:
            The id of the update whose events tell how it goes.

        Raises:
            OperatorError: `release.unknown`: the package is not installed or has nothing to go back to.
        """
        wish = f"the operator wants {package} to go back"
        async with self._queue.choosing:
            if to is not None:
                return await self._go_back_to(package, to)
            undone = await self._queue.undo(package, None, DeviceError("conflict.cancelled", wish))
            if undone is not None:
                return undone
            unfinished = await self._queue.unfinished(package)
            going_back = next((u for u in unfinished if u.goes_back), None)
            if going_back is not None:
                return going_back.id
            install = (await in_thread(self._journal.installs)).get(package)
            if install is None or install.previous is None:
                raise OperatorError("release.unknown", f"{package} has no previous release to go back to")
            for update in unfinished:
                await self._queue.stop(update, DeviceError("conflict.superseded", wish))
            return await self._queue.begin(wishes.wish_to_leave(install, Origin.ROLLBACK), Outcome.ACCEPT)

    async def _go_back_to(self, package: str, version: str) -> str:
        install = (await in_thread(self._journal.installs)).get(package)
        kept = await in_thread(self._kept, package)
        target = kept.get(version)
        if install is None or target is None or target.manifest == install.current.manifest:
            others = ", ".join(name for name in kept if install is None or name != install.current.version)
            there = f"there are {others}" if others else "nothing else of it is on this device"
            raise OperatorError("release.unknown", f"{package} cannot go back to {one_line(version)}: {there}")
        for update in await self._queue.unfinished(package):
            await self._queue.stop(update, DeviceError("conflict.superseded", f"{package} is to go back to {version}"))
        request = msgspec.structs.replace(wishes.wish_to_leave(install, Origin.ROLLBACK), to=target)
        return await self._queue.begin(request, Outcome.ACCEPT)

    def _kept(self, package: str) -> dict[str, Release]:
        """The package's releases on this device that have proven themselves, by version, the newest first."""
        found: dict[str, Release] = {}
        for update in proven(self._journal.history(package, limit=MAX_UPDATES)):
            with contextlib.suppress(DeviceError):
                self._store.check_tree(package, update.version, update.manifest or "")
                release = Release(
                    version=update.version,
                    manifest=update.manifest or "",
                    rollout=update.rollout,
                    installed_at=update.changed_at,
                )
                found.setdefault(update.version, release)
        return found

    async def retry(self, package: str, *, any_size: bool = False, rollout: str | None = None) -> Submitted | None:
        """Try what ended badly once more, or what waits to be tried again at once.

        None where the package's last update neither ended badly nor waits, or is not of the rollout.

        Args:
            any_size: let it through for this once though it takes more than `policy.max_bytes`.
            rollout: only what belongs to that.
        """
        async with self._queue.choosing:
            history = await in_thread(self._journal.history, package)
            wanted = next((u for u in history if not u.goes_back), None)
            if wanted is None or history[0].phase is Phase.SUCCEEDED or rollout not in (None, wanted.rollout):
                return None
            if wanted.was_never_begun:
                return None  # hearing of its rollout again is all that it takes
            if wanted.phase is Phase.DEFERRED:
                if any_size:
                    request = msgspec.structs.replace(wanted.request, any_size=True)
                    await in_thread(self._journal.change, wanted.id, request=request)
                await self._queue.hurry(wanted)
                return Submitted(answer=Answer.UNDER_WAY, update=wanted.id)
            again = [wanted.request, *await in_thread(self._others_of_set, wanted)]
        submitted = []
        for request in again:
            await in_thread(self._journal.forgive, request.package)
            at_once = msgspec.structs.replace(request, not_before=None, deadline=None, reason="", any_size=any_size)
            submitted.append(await self.submit(at_once))
        return submitted[0]

    async def supersede(self, package: str, version: str, rollout: str) -> None:
        """The channel announces another rollout of the package: those before it that wait or are being fetched stop.

        They stop whether or not this device is meant by the new one (`conflict.superseded`). What has begun to switch
        goes on, and so does what was asked for on this device alone.

        Args:
            version: what the new rollout is of.
            rollout: its id.
        """
        async with self._queue.choosing:
            for update in wishes.superseded(await self._queue.unfinished(package), rollout):
                await self._queue.stop(update, wishes.superseded_by(package, version, update))

    async def unpin(self, package: str) -> None:
        """The package's pin is gone: what only that asked for, and has not begun to switch, stops.

        It ends with `conflict.cancelled`.
        """
        async with self._queue.choosing:
            for update in wishes.of_a_pin(await self._queue.unfinished(package)):
                await self._queue.stop(update, wishes.unpinned(package))

    async def pause(self, rollout: str) -> None:
        """The rollout is paused: its updates that have not started are withdrawn (`conflict.halted`)."""
        async with self._queue.choosing:
            running = self.current_update()
            for update in await self._queue.unfinished():
                idle = running is None or update.id != running.id
                waits = update.phase in wishes.WAITING and not update.staged and idle
                if update.rollout == rollout and waits and not update.goes_back:
                    await self._queue.stop(update, DeviceError("conflict.halted", "the rollout does not go on"))

    async def halt(self, rollout: str, reason: str) -> None:
        """The rollout is halted here: its updates that have not begun to switch are stopped (`conflict.halted`)."""
        async with self._queue.choosing:
            await self._stop_all(rollout, DeviceError("conflict.halted", reason))

    async def revert(self, rollout: str) -> list[str]:
        """Whoever took the rollout's release goes back to the one before (`conflict.reverted`); ids of updates."""
        error = DeviceError("conflict.reverted", "the rollout was reverted")
        async with self._queue.choosing:
            undone = await self._queue.undo(None, rollout, error)
            await self._stop_all(rollout, error)
            busy = {u.package for u in await self._queue.unfinished() if u.goes_back or u.rollout == rollout}
            begun = [undone] if undone else []
            for package, install in (await in_thread(self._journal.installs)).items():
                if install.current.rollout == rollout and package not in busy:
                    begun.append(await self._queue.begin(wishes.wish_to_leave(install, Origin.REVERT), Outcome.ACCEPT))
        return begun

    def hold(self, on: bool) -> None:
        """While on, no update is started and none that waits goes on; what is being fetched is staged, and waits then.

        Going back is allowed.
        """
        self._queue.hold(on)

    async def installed(self) -> dict[str, InstalledPackage]:
        """What the device runs now, as `Reported.packages`."""
        return await in_thread(self._journal.installed)

    def current_update(self) -> Update | None:
        """The update that is being worked on, or after which is being cleared up."""
        return self._queue.running

    def is_busy_with(self, package: str) -> bool:
        """Whether the package's update, or that of a set that it belongs to, is being worked on."""
        return self._queue.is_busy_with(package)

    async def wait(self, update: str, timeout_s: float) -> Update | None:
        """Wait for an update's last word; None when `timeout_s` have passed or there is no such update."""
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        while True:
            seq = await in_thread(self._journal.last_seq)
            row = await in_thread(self._journal.get, update)
            if row is None or row.phase in LAST_WORDS:
                return row
            if not await self._journal.wait_for_events(seq, until - loop.time()):
                return None

    async def clear_up(self, timeout_s: float) -> bool:
        """Wait until what an update that has ended left behind is removed; False when `timeout_s` have passed."""
        try:
            await asyncio.wait_for(self._queue.cleared.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    @property
    def trouble(self) -> str:
        """Empty, or one line on why nothing can be journaled or cleared at the moment (a full or broken disk)."""
        return self._trouble

    async def _judge(self, request: UpdateRequest) -> wishes.Judgement:
        # first what is under way: what ends meanwhile is then either found there or has its verdict
        unfinished = await self._queue.unfinished(request.package)
        verdict = None
        if request.rollout is not None:
            verdict = await in_thread(self._journal.verdict, request.package, request.rollout, request.version)
        installs = await in_thread(self._journal.installs)
        return wishes.judge(
            request,
            install=installs.get(request.package),
            unfinished=unfinished,
            verdict=verdict,
            now=self._clock.now(),
        )

    def _others_of_set(self, update: Update) -> list[UpdateRequest]:
        """What was asked for last of the other packages of the update's set."""
        group, found = update.request.group, dict[str, UpdateRequest]()
        for one in self._journal.history(limit=MAX_UPDATES) if group else []:
            if one.request.group == group and not one.goes_back and one.package != update.package:
                found.setdefault(one.package, one.request)
        return list(found.values())

    async def _stop_all(self, rollout: str, error: DeviceError) -> None:
        for update in await self._queue.unfinished():
            if update.rollout == rollout and not update.goes_back:
                await self._queue.stop(update, error)
