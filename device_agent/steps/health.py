"""Health: the release proves itself, first at all, then for as long as its probation lasts."""

from typing import Final

from device_agent.clock import Clock
from device_agent.contexts import Contexts
from device_agent.journal import Journal
from device_agent.lifecycle import Outcome
from device_agent.seams import HealthProbe, ReleaseContext, ServiceManager
from device_agent.steps.move import Move
from device_agent.threads import in_thread
from device_agent.updates import Update
from schemas.errors import DeviceError
from schemas.manifest import Manifest

FIRST_INTERVAL_S: Final = 1.0
"""Longest time between two rounds until the first pass: a release that is well is believed soon."""
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
    ) -> None:
        self._journal = journal
        self._services = services
        self._probe = probe
        self._contexts = contexts
        self._clock = clock

    async def start(self, manifest: Manifest) -> float:
        """Make the services of the current release run, then as `first_pass`. Raises `service.*` besides."""
        context = await in_thread(self._contexts.of_running, manifest)
        await self._services.start(manifest.services, context)
        return await self.first_pass(manifest)

    async def first_pass(self, manifest: Manifest) -> float:
        """Wait for the first healthy round; seconds that it took.

        Raises:
            DeviceError: the last round's error, when the start period is over and none has passed.
        """
        context = await in_thread(self._contexts.of_running, manifest)
        began = self._clock.monotonic()
        while True:
            try:
                await self._round(manifest, context)
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
        took = await (self.start(manifest) if restarted else self.first_pass(manifest))
        return Move(outcome=Outcome.DONE, detail={"healthy_after_s": round(took, 3)})

    async def prove(self, update: Update, manifest: Manifest, *, restarted: bool) -> Move:
        """Watch until the probation is over. What was done of it before a restart counts.

        Args:
            restarted: the agent has started since; the services are made to run, and get their start period.

        Raises:
            DeviceError: the last round's error, when as many rounds in a row as `retries` says did not pass.
        """
        if restarted:
            await self.start(manifest)
        context = await in_thread(self._contexts.of_running, manifest)
        health, proof = manifest.health, _Proof(update.probation_done_s, self._clock.monotonic())
        while True:
            left = max(0.0, health.probation_s - proof.done_s)
            await self._clock.sleep(health.interval_s if proof.failures else min(health.interval_s, left))
            try:
                await self._round(manifest, context)
            except DeviceError:
                proof.failed(self._clock.monotonic())
                if proof.failures >= health.retries:
                    raise
            else:
                proof.passed(self._clock.monotonic())
                if proof.done_s >= health.probation_s:
                    return Move(outcome=Outcome.DONE, changes={"probation_done_s": proof.done_s})
            await self._keep(update, proof)

    async def _keep(self, update: Update, proof: "_Proof") -> None:
        if proof.done_s - proof.kept_s < KEEP_INTERVAL_S:
            return
        proof.kept_s = proof.done_s
        changes: dict[str, float] = {"probation_done_s": proof.done_s}
        if proof.well_s >= WELL_AFTER_S:
            changes["restarts"] = 0
        await in_thread(self._journal.change, update.id, **changes)

    async def _round(self, manifest: Manifest, context: ReleaseContext) -> None:
        try:
            down = await self._services.failed(manifest.package, manifest.services)
            if down:
                raise DeviceError("service.crashed", down)  # noqa: TRY301  # gets its output as any other below
            await self._probe.check(manifest.health, context)
        except DeviceError as error:
            if error.log_tail:
                raise
            output = self._services.output(manifest.package)
            raise type(error)(error.code, error.message, log_tail=output) from error


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
