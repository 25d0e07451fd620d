"""Health: the release proves itself, first at all, then for as long as its probation lasts."""

from typing import Final

from device_agent.clock import Clock
from device_agent.conditions import Conditions
from device_agent.contexts import Contexts
from device_agent.gate import trouble_with
from device_agent.journal import Journal
from device_agent.lifecycle import Outcome
from device_agent.reports import folded
from device_agent.seams import HealthProbe, ReleaseContext, ServiceManager
from device_agent.steps.move import Move
from device_agent.threads import in_thread
from device_agent.updates import Update
from schemas.errors import DeviceError
from schemas.manifest import Health, Manifest

FIRST_INTERVAL_S: Final = 1.0
"""Longest time between two rounds until the first pass: a release that is well is believed soon."""
FIRST_LOOK_S: Final = 0.1
"""Before the first look at whether the broker has confirmed an event told after the switch; others follow later."""
KEEP_INTERVAL_S: Final = 10.0
"""How much healthy time a restart may forget. It spares the card a write with every round."""
WELL_AFTER_S: Final = 60.0
"""Healthy for so long in one go, the release is not what restarts the device: earlier restarts count no more."""


class HealthStep:
    """See the module."""

    def __init__(
        self,
        *,
        journal: Journal,
        services: ServiceManager,
        probe: HealthProbe,
        contexts: Contexts,
        clock: Clock,
        conditions: Conditions,
    ) -> None:
        self._journal = journal
        self._services = services
        self._probe = probe
        self._contexts = contexts
        self._clock = clock
        self._conditions = conditions

    async def start(self, manifest: Manifest, *, gate: bool = False) -> float:
        """Make the services of the current release run, then as `first_pass`. Raises `service.*` besides."""
        context = await in_thread(self._contexts.of_running, manifest)
        await self._services.start(manifest.services, context)
        return await self.first_pass(manifest, gate=gate)

    async def first_pass(self, manifest: Manifest, *, gate: bool = False) -> float:
        """Wait for the first healthy round; seconds that it took.

        Args:
            gate: whether the device's own health counts. It must not keep a device from going back.

        Raises:
            DeviceError: the last round's error, when the start period is over and none has passed.
        """
        context = await in_thread(self._contexts.of_running, manifest)
        began = self._clock.monotonic()
        while True:
            try:
                await self._round(manifest, context, gate=gate)
            except DeviceError:
                left = began + manifest.health.start_period_s - self._clock.monotonic()
                if left <= 0:
                    raise
                await self._clock.sleep(min(manifest.health.interval_s, FIRST_INTERVAL_S, left))
            else:
                return self._clock.monotonic() - began

    async def begin(self, manifest: Manifest, *, restarted: bool) -> Move:
        """The switched release becomes healthy for the first time.

        Args:
            restarted: the agent has started since the switch; the services are made to run.

        Raises:
            DeviceError: as `first_pass` and `start` do.
        """
        took = await (self.start(manifest, gate=True) if restarted else self.first_pass(manifest, gate=True))
        return Move(outcome=Outcome.DONE, detail={"healthy_after_s": round(took, 3)})

    async def prove(self, update: Update, manifest: Manifest, *, restarted: bool) -> Move:
        """Watch until the probation is over. What was done of it before a restart counts.

        Args:
            restarted: the agent has started since; the services are made to run, and get their start period.

        Raises:
            DeviceError: the last round's error, when as many rounds in a row as `retries` says did not pass;
                `health.broker`: for longer than the owner allows the broker has confirmed nothing since the switch.
        """
        if restarted:
            await self.start(manifest, gate=True)
        context = await in_thread(self._contexts.of_running, manifest)
        health, proof = manifest.health, _Proof(update.probation_done_s, self._clock.monotonic())
        unreached_after = update.unreached_after if self._conditions.rules.reach_broker_s else None
        while True:
            await self._clock.sleep(self._pause(health, proof, unreached=unreached_after is not None))
            try:
                await self._round(manifest, context, gate=True)
            except DeviceError:
                proof.failed(self._clock.monotonic())
                if proof.failures >= health.retries:
                    raise
            else:
                proof.passed(self._clock.monotonic())
            if unreached_after is not None and await in_thread(self._journal.is_confirmed_after, unreached_after):
                unreached_after = None
                await in_thread(self._journal.change, update.id, unreached_after=None)
            self._check_reach(proof, unreached=unreached_after is not None)
            if not proof.failures and proof.done_s >= health.probation_s and unreached_after is None:
                return Move(outcome=Outcome.DONE, changes={"probation_done_s": proof.done_s})
            await self._keep(update, proof)

    def _pause(self, health: Health, proof: "_Proof", *, unreached: bool) -> float:
        if proof.failures:
            return health.interval_s
        over = proof.done_s - health.probation_s
        if unreached and over >= 0:
            # nothing is left to wait for but the broker's word, which comes at once or not for long
            return min(health.interval_s, max(FIRST_LOOK_S, over / 4))
        ends = [health.probation_s] + ([self._conditions.rules.reach_broker_s] if unreached else [])
        left = [end - proof.done_s for end in ends if end > proof.done_s]
        return min([health.interval_s, *left]) if left or unreached else 0.0

    def _check_reach(self, proof: "_Proof", *, unreached: bool) -> None:
        limit = self._conditions.rules.reach_broker_s
        if unreached and limit and proof.done_s >= limit:
            raise DeviceError(
                "health.broker",
                f"the broker could be reached before the switch, and has not been for {proof.done_s:.0f} s since; "
                "without it the next update could not be heard of",
            )

    async def _keep(self, update: Update, proof: "_Proof") -> None:
        if proof.done_s - proof.kept_s < KEEP_INTERVAL_S:
            return
        proof.kept_s = proof.done_s
        changes: dict[str, float] = {"probation_done_s": proof.done_s}
        if proof.well_s >= WELL_AFTER_S:
            changes["restarts"] = 0
        await in_thread(self._journal.change, update.id, **changes)

    async def _round(self, manifest: Manifest, context: ReleaseContext, *, gate: bool) -> None:
        try:
            down = await self._services.failed(manifest.package, manifest.services)
            if down:
                raise DeviceError("service.crashed", down)  # noqa: TRY301  # gets its output as any other below
            await self._probe.check(manifest.health, context)
            if gate:
                await self._check_device()
        except DeviceError as error:
            if error.log_tail:
                raise
            output = await in_thread(self._services.output, manifest.package)  # systemd's journal takes a while
            # most of it may be the application telling of one and the same look at its health
            raise type(error)(error.code, error.message, log_tail=folded(output)) from error

    async def _check_device(self) -> None:
        readings = await in_thread(self._conditions.readings)
        trouble = trouble_with(readings, self._conditions.rules.limits, before=False)
        if trouble is not None:
            raise DeviceError("health.device", f"the device is not well with it: {trouble.reason}: {trouble.reading}")


class _Proof:
    """How much of a probation is done. Time counts while the agent watches, by the monotonic clock."""

    def __init__(self, done_s: float, now: float) -> None:
        self.done_s = done_s
        self.kept_s = done_s
        self.well_s = 0.0
        self.failures = 0
        self._last = now

    def passed(self, now: float) -> None:
        self.failures = 0
        self.well_s += now - self._last
        self._count(now)

    def failed(self, now: float) -> None:
        self.failures += 1
        self.well_s = 0.0
        self._count(now)

    def _count(self, now: float) -> None:
        self.done_s += now - self._last
        self._last = now
