"""What operators want of the fleet: written to the database first, and then whoever has to act on it is woken."""

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from controller.announcer import Announcer
from controller.fleet.forgetting import Forgotten, forget
from controller.fleet.orders import DEFAULT_EXPIRY, OrderStore
from controller.fleet.patience import reason
from controller.fleet.registry import DeviceRegistry
from controller.fleet.views import SentCommand
from controller.rollouts.plan import RolloutState
from controller.rollouts.runner import RolloutRunner
from controller.rollouts.store import RolloutStore
from controller.rollouts.views import Rollout
from controller.rollouts.waves import RolloutPlan
from schemas.errors import FlotillaError
from schemas.messages import Desired, RolloutPolicy, Targets, Verb

log = logging.getLogger(__name__)


class Steering:
    """All methods are synchronous, block while the database is written, and are safe from any thread.

    Args:
        engine: the controller's database.
        store: of rollouts.
        orders: commands and what single devices are to be like.
        registry: knows which channel a device follows.
        announcer: is woken where a topic has to say something else.
        runner: looks again at what changed.
        on_change: told of every rollout that changed, and that its announcement did; on the event loop.
        on_gone: told of each device that was forgotten; on the event loop.
        tell: runs something on the event loop, from any thread.
        clock: the time of day.
    """

    def __init__(
        self,
        engine: Engine,
        store: RolloutStore,
        orders: OrderStore,
        registry: DeviceRegistry,
        *,
        announcer: Announcer,
        runner: RolloutRunner,
        on_change: Callable[[Rollout, bool], None],
        on_gone: Callable[[str], None],
        tell: Callable[..., None],
        clock: Callable[[], datetime],
    ) -> None:
        self._engine = engine
        self._store = store
        self._orders = orders
        self._registry = registry
        self._announcer = announcer
        self._runner = runner
        self._on_change = on_change
        self._on_gone = on_gone
        self._tell = tell
        self._clock = clock

    def create_release(
        self,
        *,
        package: str,
        version: str,
        channel: str,
        repository: list[str],
        targets: Targets | None = None,
        policy: RolloutPolicy | None = None,
        plan: RolloutPlan | None = None,
    ) -> Rollout:
        """Ask a channel's devices to take a release; see `RolloutStore.create`."""
        now = self._clock()
        rollout = self._store.create(
            package=package,
            version=version,
            channel=channel,
            repository=repository,
            targets=targets,
            policy=policy,
            plan=plan,
            now=now,
        )
        self._tell(self._begun, rollout)
        self._tell_of_others(rollout, now)
        return rollout

    def create_set(
        self,
        *,
        packages: Mapping[str, str],
        channel: str,
        repository: list[str],
        targets: Targets | None = None,
        policy: RolloutPolicy | None = None,
    ) -> list[Rollout]:
        """Ask a channel's devices to take several releases together; see `RolloutStore.create_set`."""
        now = self._clock()
        made = self._store.create_set(
            packages=packages,
            channel=channel,
            repository=repository,
            targets=targets,
            policy=policy,
            now=now,
        )
        for rollout in made:
            self._tell(self._begun, rollout)
        self._tell_of_others(made[0], now, *made[1:])
        return made

    def set_state(self, rollout: str, state: RolloutState, *, by: str | None = None) -> Rollout:
        """Pause, halt, revert or go on with a rollout; see `RolloutStore.set_state`."""
        now = self._clock()
        changed = self._store.set_state(rollout, state, now, by=by)
        self._tell(self._turned, changed)
        self._tell_of_others(changed, now)
        return changed

    def cancel(self, rollout: str, device: str | None = None, *, by: str | None = None) -> Rollout:
        """Ask one device, or all, to stop a rollout's update; see `RolloutStore.cancel`."""
        now = self._clock()
        changed = self._store.cancel(rollout, device, now, by=by)
        self._tell(self._turned, changed)
        self._tell_of_others(changed, now)
        return changed

    def retry(self, rollout: str, device: str | None = None) -> Rollout:
        """Have devices on which a rollout ended badly try again; see `RolloutStore.retry`."""
        changed = self._store.retry(rollout, device, self._clock())
        self._tell(self._begun, changed)
        return changed

    def approve(self, rollout: str) -> Rollout:
        """Say go to a rollout's next wave; see `RolloutStore.approve`."""
        changed = self._store.approve(rollout, self._clock())
        self._tell(self._begun, changed)
        return changed

    def withdraw(self, channel: str, package: str, *, by: str | None = None) -> Rollout:
        """Announce a package on a channel no more; see `RolloutStore.withdraw`."""
        changed = self._store.withdraw(channel, package, self._clock(), by=by)
        self._tell(self._on_change, changed, True)
        return changed

    def move_repository(self, urls: Sequence[str]) -> int:
        """Have devices fetch what is announced from these base URLs; see `RolloutStore.move_repository`."""
        moved = self._store.move_repository(urls, self._clock())
        if moved:
            self._tell(self._announcer.wake)
        return moved

    def send_command(
        self,
        device: str,
        verb: Verb,
        args: Mapping[str, Any] | None = None,
        *,
        expires_in: timedelta = DEFAULT_EXPIRY,
    ) -> SentCommand:
        """Ask a device for something; see `OrderStore.send_command`."""
        command = self._orders.send_command(device, verb, args, expires_in=expires_in, now=self._clock())
        self._tell(self._announcer.wake)
        return command

    def change_desired(self, device: str, change: Callable[[Desired], Desired]) -> Desired:
        """Change what one device is to be like; see `OrderStore.change_desired`."""
        return self._told(device, self._orders.change_desired(device, change, self._clock()))

    def forget(self, device: str) -> None:
        """Remove a device that is gone for good; see `forgetting.forget`."""
        known = forget(self._engine, device, self._clock())
        self._store.forget_device(device)
        self._tell(self._gone, device, known)

    def _told(self, device: str, desired: Desired) -> Desired:
        # A pin takes the device out of its channel's rollouts, or lets it in again.
        follows = self._registry.device(device).channel
        self._tell(self._desired_changed, follows)
        return desired

    def _tell_of_others(self, rollout: Rollout, at: datetime, *told: Rollout) -> None:
        """Whoever watches them hears of it too: what this one took the place of, and what is of its set.

        What was asked for is done by then, so that nothing that goes wrong here may look as if it were not.
        """
        try:
            others = self._store.changed_with(rollout, at)
        except (FlotillaError, SQLAlchemyError) as error:
            why = reason(error)
            log.warning("what rollout %s changed of others is not told to who watches them: %s", rollout.id, why)
            return
        known = {one.id for one in told}
        for other in others:
            if other.id not in known:
                # the word about the first has the announcer look at all that was committed with it
                self._tell(self._on_change, other, False)

    def _begun(self, rollout: Rollout) -> None:
        """Time counts for it from now on. On the event loop."""
        self._on_change(rollout, True)
        # nobody in it changed since; where more is to be looked at, the store has forgotten what it knew
        self._runner.touch(rollouts={rollout.id: {}})

    def _turned(self, rollout: Rollout) -> None:
        """Others of its set may have changed with it. On the event loop."""
        self._on_change(rollout, True)
        self._runner.touch(channels={rollout.channel: None})

    def _gone(self, device: str, known: Forgotten) -> None:
        """On the event loop."""
        self._announcer.wake()
        channels = {known.channel: {device}} if known.channel else {}
        self._runner.touch(rollouts={one: {device: None} for one in known.rollouts}, channels=channels)
        self._on_gone(device)

    def _desired_changed(self, channel: str | None) -> None:
        """On the event loop."""
        self._announcer.wake()
        self._runner.touch(channels={channel: None} if channel else {})
