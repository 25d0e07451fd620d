"""Ready: may an update start, may it switch, and what does it wait for?

An update that waits is `deferred`; what was staged for it stays staged. While it waits for the same thing it is looked
at again and again without an event; a new reason, or a new end of the wait, is told.
"""

from typing import Any

from device_agent.clock import Clock
from device_agent.conditions import Conditions
from device_agent.contexts import Contexts
from device_agent.gate import trouble_with
from device_agent.journal import Journal
from device_agent.lifecycle import Outcome
from device_agent.readiness import (
    Wait,
    last_line,
    postponed_s,
    wait_for_application,
    wait_for_device,
    wait_for_hold,
    wait_for_window,
)
from device_agent.seams import HookRunner
from device_agent.steps.move import Move
from device_agent.store import ReleaseStore
from device_agent.threads import in_thread
from device_agent.updates import Origin, Update
from schemas.errors import DeviceError, FlotillaError, one_line
from schemas.messages import Phase


class ReadyStep:
    """See the module.

    Attributes:
        held: while set, nothing starts and nothing that waits goes on.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        store: ReleaseStore,
        hooks: HookRunner,
        contexts: Contexts,
        conditions: Conditions,
        clock: Clock,
    ) -> None:
        self.held = False
        self._journal = journal
        self._store = store
        self._hooks = hooks
        self._contexts = contexts
        self._conditions = conditions
        self._clock = clock

    async def to_start(self, update: Update) -> Move | None:
        """The move by which an accepted update waits; None where it may start. Going back never waits.

        Raises:
            DeviceError: `health.device`.
        """
        if update.goes_back:
            return None
        wait = await self._asked(update, to_start=True)
        return self._defer(update, wait) if wait else None

    async def refuse_what_failed(self, update: Update, manifest: str) -> None:
        """Raise `conflict.failed_before` for a release that has failed here; by hand it may be tried again."""
        failed = await in_thread(self._journal.failed_before, update.package, manifest)
        if failed is not None and update.request.origin is not Origin.FILE:
            name = "it" if failed.version == update.version else f"the same as {update.package} {failed.version}"
            raise DeviceError(
                "conflict.failed_before",
                f"{update.package} {update.version}: {name} has failed on this device before ({failed.code}); "
                "`retry` or another release will be tried",
            )

    async def to_switch(self, update: Update) -> tuple[Move | None, dict[str, Any]]:
        """The same right before a staged release is switched to; else what the event of the switch tells about it.

        Raises:
            DeviceError: `health.device`, `disk.*`.
        """
        wait, told = await self._may_switch(update)
        return (self._defer(update, wait) if wait else None), told

    async def look(self, update: Update) -> tuple[Move | None, dict[str, Any]]:
        """A deferred update's time has come: how it goes on; None where it waits on for the same.

        Raises:
            DeviceError: `health.device`, `disk.*`.
        """
        told: dict[str, Any] = {}
        if not update.staged:
            wait = await self._asked(update, to_start=True)
        elif await self._is_as_it_was(update):
            wait, told = await self._may_switch(update)
        else:
            # something else was installed meanwhile, or a tree is gone: look at everything anew
            return Move(outcome=Outcome.DUE, changes={"staged": False, "not_before": None}), {}
        if wait is None:
            return _going_on(update), told
        if wait.is_news(update.waiting):
            return self._defer(update, wait), {}
        await in_thread(self._journal.change, update.id, **self._noted(update, wait))
        return None, {}

    def broker_counts(self) -> bool:
        """Whether a release that is switched to now must let the broker be reached: as it is right before the switch.

        What was out of reach already is not the release's doing.
        """
        return self._conditions.rules.reach_broker_s > 0 and self._conditions.broker.connected

    async def _asked(self, update: Update, *, to_start: bool) -> Wait | None:
        """Everything but the application's word."""
        now, conditions = self._clock.now(), self._conditions
        rules = conditions.rules
        held = wait_for_hold(held=self.held)
        if held is not None:
            return held
        ours = rules.windows_to_start if to_start else rules.windows
        closed = wait_for_window(update, ours, now, await in_thread(conditions.zone))
        if closed is not None:
            return closed
        trouble = trouble_with(await in_thread(conditions.readings), rules.limits, before=True)
        return wait_for_device(trouble, update, rules.limits, now)

    async def _may_switch(self, update: Update) -> tuple[Wait | None, dict[str, Any]]:
        """What is waited for, and what is to be told where nothing is."""
        wait = await self._asked(update, to_start=False)
        if wait is not None or update.before is None:
            return wait, {}
        runs = update.before.current
        manifest = await in_thread(self._store.manifest, update.package, runs.version, runs.manifest)
        hook = manifest.hooks.ready
        if hook is None:
            return None, {}
        try:
            context = await in_thread(self._contexts.of_running, manifest)
            await self._hooks.run("ready", hook, context)
        except FlotillaError as error:
            line = one_line(last_line(error.log_tail) or error)
        else:
            return None, {}
        now = self._clock.now()
        wait = wait_for_application(hook, line, update, self._conditions.rules.longest_postponement_s, now)
        told = {"not_ready": line, "postponed_s": round(postponed_s(update, now), 3)}
        return wait, {} if wait else told

    def _defer(self, update: Update, wait: Wait) -> Move:
        detail = {"reason": wait.reason, "not_before": wait.look_at, "until": wait.until, "because": wait.line}
        staged = {"staged": True} if update.phase is Phase.STAGED else {}
        # what it was put off for before, if that was a failure, still counts as an attempt
        return Move(
            outcome=Outcome.DEFER, error=update.error, detail=detail, changes={**self._noted(update, wait), **staged}
        )

    def _noted(self, update: Update, wait: Wait) -> dict[str, Any]:
        return {"not_before": wait.look_at, "waiting": wait.noted(update.waiting, self._clock.now())}

    async def _is_as_it_was(self, update: Update) -> bool:
        """Whether what was staged is there, and would be switched to from the same release as it was checked for."""
        installs = await in_thread(self._journal.installs)
        if installs.get(update.package) != update.before or update.manifest is None:
            return False
        try:
            await in_thread(self._store.check_tree, update.package, update.version, update.manifest)
        except DeviceError:
            return False
        return True


def _going_on(update: Update) -> Move:
    # what it waited for stays noted until the next step is done: a restart right here begins no new wait
    if update.staged:
        return Move(outcome=Outcome.GO_ON, changes={"staged": False, "not_before": None})
    again = update.error is not None  # it was deferred because an attempt failed
    attempt = update.attempt + 1 if again else update.attempt
    return Move(outcome=Outcome.DUE, changes={"attempt": attempt, "not_before": None})
