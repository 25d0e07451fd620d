"""The UpdateManager: takes wishes for releases and works on one update at a time, from the journal.

Everything it knows is in the journal, so that a new one on the same root folder goes on where another
was cut off. It is used from one event loop.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from device_agent.clock import Clock
from device_agent.journal import Journal
from device_agent.seams import HealthProbe, HookRunner, ServiceManager, SourceFactory, TemplateRenderer
from device_agent.updates import Cancelled, DeviceProfile, LocalChanges, Submitted, Update, UpdateRequest
from schemas.messages import InstalledPackage


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
    ) -> None:
        """
        Args:
            sources: called with a request's `repository` each time content is needed; it is closed after.
            profile: called, in a thread, for each update; gives what is true now.
            random_bytes: for ids and for spreading retries, e.g. `os.urandom`.
            local_changes: what to do where installed files were changed.
            link_install_path: whether packages' install paths are made links to them.
            install_paths: package to another install path.
        """
        raise NotImplementedError

    async def recover(self) -> list[str]:
        """Once, at the start: clear what an interruption left behind, start the services of what is installed.

        Returns:
            One line for each thing that did not go well (the agent goes on regardless).
        """
        raise NotImplementedError

    async def serve(self) -> None:
        """Work on updates, one at a time, until cancelled. What is interrupted goes on with the next start."""
        raise NotImplementedError

    async def submit(self, request: UpdateRequest) -> Submitted:
        """Take a wish. The answer is journaled (with its event, where there is one) before this returns.

        The same wish twice changes nothing. A newer one for the same package takes the place of one that
        has not begun to switch (`conflict.superseded`), and waits for one that has.
        """
        raise NotImplementedError

    async def cancel(self, package: str, code: str = "conflict.cancelled") -> Cancelled:
        """Stop what has not begun to switch. Returns when it has ended, within half a minute."""
        raise NotImplementedError

    async def rollback(self, package: str) -> str:
        """The operator wants the previous release: an update in probation is undone, else one that goes back begins.

        Returns:
            The id of the update whose events tell how it goes.

        Raises:
            OperatorError: `release.unknown`: the package is not installed or has nothing to go back to.
        """
        raise NotImplementedError

    async def retry(self, package: str) -> Submitted | None:
        """Try what ended badly once more; None where the package's last update did not."""
        raise NotImplementedError

    async def pause(self, rollout: str) -> None:
        """The rollout is paused: its updates that have not started are withdrawn (`conflict.halted`)."""
        raise NotImplementedError

    async def halt(self, rollout: str) -> None:
        """The rollout is halted: its updates that have not begun to switch are stopped (`conflict.halted`)."""
        raise NotImplementedError

    async def revert(self, rollout: str) -> list[str]:
        """Whoever took the rollout's release goes back to the one before (`conflict.reverted`); ids of updates."""
        raise NotImplementedError

    def hold(self, on: bool) -> None:
        """While on, no update is started; one that has started goes on."""
        raise NotImplementedError

    async def installed(self) -> dict[str, InstalledPackage]:
        """What the device runs now, as `Reported.packages`."""
        raise NotImplementedError

    def current_update(self) -> Update | None:
        """The update that is being worked on."""
        raise NotImplementedError

    @property
    def trouble(self) -> str:
        """Empty, or one line on why nothing can be journaled at the moment (a full or broken disk)."""
        raise NotImplementedError
