"""The fleet's side of the controller on one connection to the broker: intake, announcing, replays, rollouts.

`app.py` makes one and runs it. What operators want goes through `steering`; questions go to `registry`, `rollouts`
and `orders` directly.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from sqlalchemy import Engine

from controller.announcer import Announcer
from controller.database import utc_now
from controller.fleet.broker_link import BrokerLink
from controller.fleet.feed import ChangeFeed, DeviceForgotten, EventTaken, PresenceChanged, ReportTaken, RolloutChanged
from controller.fleet.hour_keeping import HourKeeper
from controller.fleet.in_use import releases_in_use
from controller.fleet.incoming import INTAKE_KINDS, Reader
from controller.fleet.intake import Intake
from controller.fleet.intake_store import IntakeStore, Outcome
from controller.fleet.observers import Companion, Observer
from controller.fleet.orders import OrderStore
from controller.fleet.patience import patiently
from controller.fleet.recall import Recall
from controller.fleet.recall_store import Recalled, RecallStore
from controller.fleet.registry import DeviceRegistry
from controller.fleet.replaying import Replays
from controller.fleet.rivals import RivalWatch
from controller.fleet.session import ControllerSession
from controller.fleet.steering import Steering
from controller.logs import told
from controller.rollouts.announcing import AnnouncementStore
from controller.rollouts.plan import RolloutState
from controller.rollouts.reader import RolloutReader
from controller.rollouts.runner import ASK_AGAIN, RolloutRunner
from controller.rollouts.store import RolloutStore
from controller.rollouts.views import Rollout
from schemas.messages import Presence
from schemas.topics import Topics
from transport import Backoff, Link, LinkSettings, LinkState, Message, keep_connected

SESSION_EXPIRY_S: Final = 7 * 86_400
"""The broker keeps what devices say for this long while no controller is there."""

RECEIVE_MAXIMUM: Final = 65_535
"""All that MQTT allows. Measured: Mosquitto 2.0.11 sends a returning client its whole queue at once, whatever
limit it names, and a link with a lower one takes that for an attack and never gets through the queue."""

NOTE_HOURS_S: Final = 900.0
"""Often enough that each hour in which a device is there is noted."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetStatus:
    """How the service is doing. `error` is why there is no connection; `refused` counts messages by error code.
    `intake_delay_s`: how long the oldest message has been waiting for its commit."""

    connected: bool
    error: str | None
    incomplete_devices: int
    refused: Mapping[str, int]
    intake_delay_s: float


class FleetService:
    """Owns the session with the broker.

    Args:
        engine: the controller's database.
        settings: the broker, and who the controller is there; session and receive limits are widened.
        topics: the topic root.
        version: the controller's own, for its presence.
        clock: the time of day.
        backoff: waits between attempts to connect.
        observers: told what happens, after it is in the database.
    """

    def __init__(
        self,
        engine: Engine,
        settings: LinkSettings,
        topics: Topics,
        *,
        version: str,
        clock: Callable[[], datetime] = utc_now,
        backoff: Backoff | None = None,
        observers: Sequence[Observer] = (),
    ) -> None:
        self._settings = replace(
            settings,
            clean_start=False,
            session_expiry_s=max(settings.session_expiry_s, SESSION_EXPIRY_S),
            receive_maximum=max(settings.receive_maximum, RECEIVE_MAXIMUM),
        )
        self._engine = engine
        self._topics = topics
        self._clock = clock
        self._observers = list(observers)
        self._companions: list[Companion] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._store = RolloutStore(engine)
        self.feed = ChangeFeed()
        self._link = BrokerLink(settings.url, self.feed)
        self.registry = DeviceRegistry(engine)
        self.rollouts = RolloutReader(engine)
        self.orders = OrderStore(engine)
        self._recall = Recall(topics, RecallStore(engine), self._recalled, is_greeting=self._is_greeting, clock=clock)
        announcements = AnnouncementStore(engine)
        self._announcer = Announcer(topics, announcements, self.orders, on_said=self._recall.expect, clock=clock)
        self._replays = Replays(topics, clock=clock)
        self._runner = RolloutRunner(self._store, self._rollout_changed, ask=self._ask_to_report, clock=clock)
        self.steering = Steering(
            engine,
            self._store,
            self.orders,
            self.registry,
            announcer=self._announcer,
            runner=self._runner,
            on_change=self._rollout_changed,
            on_gone=self._forgotten,
            tell=self._tell,
            clock=clock,
        )
        self._hours = HourKeeper(engine, clock)
        self._session = ControllerSession(topics, self.orders, version=version, clock=clock)
        self._rivals = RivalWatch(backoff or Backoff(), settings, run=self._session.run)
        self._intake = Intake(
            IntakeStore(engine),
            Reader(topics),
            self._taken_in,
            self._recall,
            on_batch=self._batch_done,
            on_quiet=self._runner.touch,
            aside=self._aside,
            clock=clock,
        )

    def accompany(self, companion: Companion) -> None:
        """Share the connection with somebody, who is an observer too; before `run`."""
        self._observers.append(companion)
        self._companions.append(companion)

    async def run(self, stop: asyncio.Event) -> None:
        """Connect, and stay connected, until `stop` is set.

        Raises:
            SettingsError: the broker's settings can't be used.
        """
        self._loop = asyncio.get_running_loop()
        await patiently(lambda: self.orders.forget_old(self._clock()), doing="starting")
        for device, track in (await patiently(self.registry.incomplete, doing="starting")).items():
            self._replays.note(device, track)
        tasks = {
            asyncio.create_task(self._runner.run(), name="rollouts"),
            asyncio.create_task(self._note_hours(), name="hours"),
            asyncio.create_task(self._stay_connected(stop), name="fleet-link"),
        }
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._loop = None

    @property
    def connected(self) -> bool:
        """Whether the broker is there, and everything runs."""
        return self._link.attended

    @property
    def away(self) -> str | None:
        """Why devices hear of nothing now, and nothing is heard of them; None while the broker is there."""
        return self._link.away

    def status(self) -> FleetStatus:
        """How the service is doing; from any thread."""
        return FleetStatus(
            connected=self.connected,
            error=self._link.error,
            incomplete_devices=self._replays.waiting,
            refused=dict(self._intake.refusals.counts),
            intake_delay_s=self._intake.delay_s(),
        )

    def announced(self, package: str, version: str) -> list[Rollout]:
        """The rollouts that announce a release now: as long as there are any, it is in use."""
        return [one for one in map(self.rollouts.rollout, self._store.announced_of(package)) if one.version == version]

    def offered(self, package: str, version: str) -> list[Rollout]:
        """Those of `announced` whose devices may start now, or are held for it: nobody starts what was reverted."""
        return [one for one in self.announced(package, version) if one.state is not RolloutState.REVERTED]

    def releases_in_use(self) -> dict[str, set[str]]:
        """Versions by package that devices have, may go back to, are held at or are being sent."""
        return releases_in_use(self._engine)

    async def _stay_connected(self, stop: asyncio.Event) -> None:
        await keep_connected(
            self._settings,
            self._attend,
            will_factory=self._session.will,
            on_state=self._note_link,
            backoff=self._rivals,
            stop=stop,
        )

    async def _attend(self, link: Link) -> None:
        self._recall.begin()
        await link.subscribe([*map(self._topics.every_device, INTAKE_KINDS), *self._recall.filters()])
        for companion in self._companions:
            await link.subscribe(companion.subscriptions())
        async with self._session.present(link), asyncio.TaskGroup() as group:
            group.create_task(self._intake.run(link), name="intake")
            group.create_task(self._announce(link), name="announcer")
            group.create_task(self._replays.run(link), name="replays")
            for companion in self._companions:
                group.create_task(companion.run(link), name=type(companion).__name__)
            self._link.attend()

    async def _announce(self, link: Link) -> None:
        await self._recall.done()
        await self._announcer.run(link)

    def _note_link(self, state: LinkState) -> None:
        if state.state == "connected":
            self._rivals.connected()
        self._link.note(state)

    def _is_greeting(self, presence: Presence) -> bool:
        self._rivals.heard(presence)
        return self._session.is_greeting(presence)

    def _aside(self, message: Message) -> bool:
        if message.topic.startswith(f"{self._topics.root}/"):
            return False
        # of a companion's subscription; perhaps one of an earlier start, which the broker's session still has
        for companion in self._companions:
            companion.hear(message)
        return True

    def _batch_done(self, messages: int, waited_s: float) -> None:
        for observer in self._observers:
            observer.batch_done(messages, waited_s)

    def _taken_in(self, outcome: Outcome) -> None:
        for device, life in outcome.new_lives.items():
            log.warning(
                "device %s counts its events from the beginning again (journal %d): its disk was replaced, or two "
                "devices have this id; its events so far are kept",
                device,
                life,
                extra=told("new-life", device=device, life=life),
            )
        self._replays.note_outcome(outcome)
        if outcome.to_send:
            self._announcer.wake()
        self.feed.publish_all((EventTaken(one.id, one.event) for one in outcome.stored), len(outcome.stored))
        self.feed.publish_all(map(PresenceChanged, outcome.presences), len(outcome.presences))
        self.feed.publish_all(map(ReportTaken, outcome.reports), len(outcome.reports))
        for observer in self._observers:
            observer.taken_in(outcome)
        self._runner.touch(
            rollouts=outcome.rollouts, channels=outcome.channels, heard=outcome.tracks, more=self._intake.more
        )

    def _recalled(self, recalled: Recalled) -> None:
        for line in recalled.lines:
            log.warning("%s", line)
        self._announcer.wake()
        self._runner.touch(rollouts=dict.fromkeys(recalled.rollouts), channels=dict.fromkeys(recalled.channels))

    def _rollout_changed(self, rollout: Rollout, announced: bool) -> None:
        self.feed.publish(RolloutChanged(rollout))
        for observer in self._observers:
            observer.rollout_changed(rollout)
        if announced:
            self._announcer.wake()

    def _forgotten(self, device: str) -> None:
        self._replays.forget(device)
        self.feed.publish(DeviceForgotten(device))
        for observer in self._observers:
            observer.forgotten(device)

    def _ask_to_report(self, devices: list[str]) -> None:
        """In a thread."""
        if self.orders.ask_to_report(devices, expires_in=ASK_AGAIN, now=self._clock()):
            self._tell(self._announcer.wake)

    async def _note_hours(self) -> None:
        while True:
            await patiently(self._hours.note, doing="noting who is there")
            await asyncio.sleep(NOTE_HOURS_S)

    def _tell(self, what: Callable[..., None], *args: object) -> None:
        """Run `what` on the event loop, from any thread; when the service does not run, its start will see to it."""
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has just been closed
                loop.call_soon_threadsafe(what, *args)
