"""The agent's own package: the update goes on in another process, and the launcher watches over that.

The agent that switches notes the trial (see `trial.py`), changes the link as for any package, and ends with the exit
status `HAND_OVER`. The launcher starts the new one, which finds the update in the journal as it would after any
restart, and is well once it has reached the broker and its checks have passed. Where the launcher had to bring the old
one back, that one finds why in the trial, and the update is rolled back.
"""

import asyncio
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from device_agent.agent_child import FOLDER, HEALTHY, PIPE, RELEASE
from device_agent.durability import disk_errors
from device_agent.journal import Journal
from device_agent.layout import DeviceFolders
from device_agent.seams import HealthProbe, ReleaseContext
from device_agent.store import ReleaseStore
from device_agent.threads import in_thread
from device_agent.trees import current_release
from device_agent.trial import Trial, forget_trial, read_trial, write_trial
from schemas.errors import DeviceError, PublisherError
from schemas.manifest import Health

_WAIT_S: Final = 3600.0


def launched_release(environment: Mapping[str, str], root: Path, package: str) -> str | None:
    """The release that a launcher has started as this agent: its folder's name, empty for the installation.

    None where no launcher has, or one for another root folder or package.
    """
    folder = environment.get(FOLDER)
    if PIPE not in environment or folder != str(DeviceFolders(root.absolute()).package(package).root):
        return None
    return environment.get(RELEASE, "")


class SelfUpdate:
    """See the module.

    Attributes:
        leaving: set when this agent is to end with `HAND_OVER`.
        connected: whether there is a connection to the broker; whoever has one says so.
    """

    def __init__(
        self,
        *,
        root: Path,
        package: str,
        journal: Journal,
        release: str | None,
        start_s: float,
        tell: Callable[[str], None],
    ) -> None:
        """
        Args:
            release: as `launched_release` gives it.
            start_s: how long a new release may take to be well.
            tell: says a line to the launcher.
        """
        self.package: Final = package
        self.leaving = asyncio.Event()
        self.connected: Callable[[], bool] = lambda: False
        self._root = root.absolute()
        self._folders = DeviceFolders(self._root).package(package)
        self._journal = journal
        self._release = release
        self._start_s = start_s
        self._tell = tell
        self._trial = read_trial(self._root) if release is not None else None

    def before_switch(self, target: str, version: str) -> None:
        """Note the trial, durably, before the link is changed; blocks.

        Args:
            target: name of the release's folder; empty where nothing is to be linked.

        Raises:
            DeviceError: `service.agent`: the launcher has given that release up; `disk.*`.
        """
        if self._release is None or target == current_release(self._folders):
            return
        trial = self._trial
        if trial is not None and trial.failed and trial.target == target:
            raise DeviceError("service.agent", trial.failed, log_tail=trial.log_tail)
        with disk_errors("note the trial of the agent's new release"):
            if target == self._release:
                forget_trial(self._root)
                self._trial = None
                return
            self._trial = Trial(
                target=target,
                source=self._release,
                version=version,
                within_s=self._start_s,
                must_connect=self.connected(),
            )
            write_trial(self._root, self._trial)

    async def check(self, context: ReleaseContext) -> None:
        """Whether the linked release is this very agent, and well; does not return where it is another one's turn.

        Raises:
            PublisherError: `service.agent`: the launcher has given the release up.
            DeviceError: `service.agent`: there is no connection to the broker, `requires.launcher`.
        """
        if self._release is None:
            raise DeviceError("requires.launcher", "the agent was not started by its launcher; use `launch`")
        trial = self._trial
        if trial is not None and trial.failed and trial.version == context.version:
            raise PublisherError("service.agent", trial.failed, log_tail=trial.log_tail)
        if (await in_thread(current_release, self._folders) or "") != self._release:
            self.leaving.set()
            await asyncio.Event().wait()
        if trial is not None and trial.target == self._release and trial.must_connect:
            if not self.connected():
                raise DeviceError(
                    "service.agent",
                    f"the agent's release {context.version} has not reached the broker, as the one before it could",
                )
            trial.must_connect = False  # once is enough: after that it may be the broker that is away
            with disk_errors("note that the broker was reached"):
                await in_thread(write_trial, self._root, trial)

    def passed(self) -> None:
        """A round of checks has passed."""
        self._tell(HEALTHY)

    async def watch(self) -> None:
        """Remove the trial when its update is over; until cancelled. Woken by events only."""
        while self._release is not None:
            seq = await in_thread(self._journal.last_seq)
            if self._trial is not None and not await in_thread(self._is_under_way):
                with disk_errors("end the trial of the agent's release"):
                    await in_thread(self._settle)
            await self._journal.wait_for_events(seq, _WAIT_S)

    def _is_under_way(self) -> bool:
        return any(update.package == self.package for update in self._journal.unfinished())

    def _settle(self) -> None:
        trial, linked = self._trial, current_release(self._folders) or ""
        if trial is None:
            return
        install = self._journal.installs().get(self.package)
        if trial.failed and install is not None:
            kept = self._folders.release(install.current.version, install.current.manifest).name
            if kept == trial.target:
                return  # ended well, and then could not be started any more: it stays given up
        if trial.target == linked != self._release:
            self.leaving.set()  # it went back to nothing: the installation's turn
            return
        forget_trial(self._root)
        self._trial = None
        self._tell(HEALTHY)


class OwnProbe:
    """A `HealthProbe`: the given one, and for the agent's own package what `SelfUpdate` checks besides."""

    def __init__(self, inner: HealthProbe, own: SelfUpdate) -> None:
        self._inner = inner
        self._own = own

    async def check(self, health: Health, context: ReleaseContext) -> None:
        """See `HealthProbe` and `SelfUpdate.check`."""
        own = context.package == self._own.package
        if own:
            await self._own.check(context)
        await self._inner.check(health, context)
        if own:
            self._own.passed()


class WatchedStore(ReleaseStore):
    """The release store, which tells `SelfUpdate` before it changes the link of the agent's own package."""

    def __init__(self, root: Path, own: SelfUpdate) -> None:
        super().__init__(root)
        self._own = own

    def point_to(self, package: str, version: str, sha256: str) -> None:
        """See `ReleaseStore`. Raises as `SelfUpdate.before_switch` does besides."""
        if package == self._own.package:
            self.check_tree(package, version, sha256)
            self._own.before_switch(self.package(package).release(version, sha256).name, version)
        super().point_to(package, version, sha256)

    def point_nowhere(self, package: str) -> None:
        """See `ReleaseStore`."""
        if package == self._own.package:
            self._own.before_switch("", "")
        super().point_nowhere(package)


def environment_release(root: Path, package: str) -> str | None:
    """`launched_release` for this process."""
    return launched_release(os.environ, root, package)
