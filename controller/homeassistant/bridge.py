"""Keeps what Home Assistant is told up to date, and passes on the buttons that are pressed there.

Everything is retained, and made from the database: at every connection all of it is published again, and discovery that
is kept at the broker but is no longer true (a device or package that went) is cleared as soon as it is heard.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import partial
from typing import Final

import msgspec

from controller.announcer import publish
from controller.fleet.intake_store import Outcome
from controller.fleet.observers import Companion
from controller.fleet.orders import OrderStore
from controller.fleet.patience import patiently
from controller.fleet.registry import DeviceRegistry
from controller.fleet.views import Device, SentCommand
from controller.homeassistant.entities import INSTALL, EntityTopic, HomeAssistantTopics, messages_of
from controller.homeassistant.offers import Announced, packages_of
from controller.logs import told
from controller.rollouts.announcing import AnnouncementStore
from controller.rollouts.views import Rollout
from schemas.errors import OperatorError, one_line
from schemas.messages import Announcement, Verb
from schemas.topics import Topics
from transport import Link, Message

LINGER_S: Final = 1.0
"""How long changes are collected: a fetching device tells its progress several times a second."""

LOOK_AGAIN_S: Final = 60.0
"""Everything is looked through again after this time: a device may be held or pinned without saying anything."""

EXPIRY: Final = timedelta(hours=1)
"""A pressed button counts for this long."""

_MAX_PRESSED: Final = 1000
_AT_ONCE: Final = 100
_PAGE: Final = 200

log = logging.getLogger(__name__)


class HomeAssistantBridge(Companion):
    """For one event loop.

    Args:
        names: topics under Home Assistant's prefix.
        topics: topics of the contract.
        registry: what devices said.
        announcements: what channels announce.
        orders: what single devices are told; commands go there.
        describe: package and version to what the release is about; blocks, and is remembered.
        send: as `FleetService.send_command`.
    """

    def __init__(
        self,
        names: HomeAssistantTopics,
        topics: Topics,
        *,
        registry: DeviceRegistry,
        announcements: AnnouncementStore,
        orders: OrderStore,
        describe: Callable[[str, str], str],
        send: Callable[..., SentCommand],
    ) -> None:
        self._names = names
        self._topics = topics
        self._registry = registry
        self._announcements = announcements
        self._orders = orders
        self._describe = describe
        self._send = send
        self._changed = asyncio.Event()
        self._dirty: set[str] = set()
        self._pressed: deque[EntityTopic] = deque(maxlen=_MAX_PRESSED)
        self._stale: set[str] = set()
        self._published: dict[str, dict[str, bytes]] = {}
        self._announced: Announced = {}
        self._descriptions: dict[tuple[str, str], str] = {}

    def subscriptions(self) -> list[str]:
        """Buttons, and discovery that is kept."""
        return self._names.subscriptions()

    def hear(self, message: Message) -> None:
        """Take a message if it came because of `subscriptions`."""
        found = self._names.parse(message.topic)
        if found is None:
            return
        # a press that the broker keeps would come again with every connection
        if found.what == "install" and not message.retain and message.payload == INSTALL.encode():
            self._pressed.append(found)
            self._changed.set()
        elif found.what == "config" and message.payload and not self._is_true(message.topic, found):
            self._stale.add(message.topic)
            self._changed.set()

    def taken_in(self, outcome: Outcome) -> None:
        """These devices may have to be told anew."""
        self._dirty.update(outcome.tracks)
        self._changed.set()

    def forgotten(self, device: str) -> None:
        """Nothing is to be shown of it any more."""
        self._dirty.add(device)
        self._changed.set()

    def rollout_changed(self, rollout: Rollout) -> None:
        """What is announced may have changed."""
        del rollout
        self._changed.set()

    async def run(self, link: Link) -> None:
        """Publish everything once, and then every change, until the link is lost.

        Raises:
            LinkLost: or another transport error that ends the link.
        """
        self._published = {}
        everything = True
        while True:
            self._changed.clear()
            await self._press_all()
            await self._round(link, everything=everything)
            await asyncio.sleep(LINGER_S)
            try:
                async with asyncio.timeout(LOOK_AGAIN_S):
                    await self._changed.wait()
                everything = False
            except TimeoutError:
                everything = True

    async def _round(self, link: Link, *, everything: bool) -> None:
        announced = await patiently(self._read_announced, doing="the bridge to Home Assistant")
        everything = everything or announced != self._announced
        self._announced = announced
        dirty, self._dirty = self._dirty, set()
        if everything:
            await self._tell_all(link)
        else:
            for device in sorted(dirty):
                made = await patiently(partial(self._messages, device), doing="the bridge to Home Assistant")
                await self._tell(link, device, made)
        # only now is it known what is true
        stale, self._stale = self._stale, set()
        for topic in sorted(stale):
            found = self._names.parse(topic)
            if found is not None and not self._is_true(topic, found):
                await _publish_all(link, dict.fromkeys((topic, topic.removesuffix("config") + "state"), b""))

    def _is_true(self, topic: str, entity: EntityTopic) -> bool:
        return topic in self._published.get(entity.device, {})

    async def _tell_all(self, link: Link) -> None:
        gone, after = set(self._published), ""
        while True:
            page = await patiently(partial(self._page, after), doing="the bridge to Home Assistant")
            if not page:
                break
            for device, made in page:
                gone.discard(device)
                await self._tell(link, device, made)
            after = page[-1][0]
        for device in sorted(gone):
            await self._tell(link, device, {})

    async def _tell(self, link: Link, device: str, made: dict[str, bytes]) -> None:
        before = self._published.get(device, {})
        # the state goes first, so that an entity never appears without one
        changed = {topic: made[topic] for topic in sorted(made, reverse=True) if before.get(topic) != made[topic]}
        self._published[device] = made
        await _publish_all(link, changed | dict.fromkeys(before.keys() - made.keys(), b""))
        if not made:
            del self._published[device]

    async def _press_all(self) -> None:
        while self._pressed:
            pressed = self._pressed.popleft()
            about = told("install", device=pressed.device, package=pressed.entity)
            try:
                why_not = await patiently(partial(self._press, pressed), doing="Home Assistant's button")
            except OperatorError as error:
                why_not = one_line(error)
            if why_not:
                log.warning(
                    "Home Assistant: %s is not installed on %s: %s",
                    pressed.entity,
                    pressed.device,
                    why_not,
                    extra=about,
                )
            else:
                log.info("Home Assistant: %s is asked to install %s now", pressed.device, pressed.entity, extra=about)

    def _press(self, pressed: EntityTopic) -> str:
        """Ask the device, if there is something to install; else why not."""
        device = self._registry.device(pressed.device)
        packages = packages_of(device, self._read_announced(), self._orders.desired(device.id))
        there = next((one for one in packages if one.package == pressed.entity), None)
        if there is None or not there.offered:
            return "nothing is offered to this device"
        if there.in_progress:
            return "an update is under way"
        self._send(device.id, Verb.RETRY, {"package": pressed.entity}, expires_in=EXPIRY)
        return ""

    def _read_announced(self) -> Announced:
        states = self._announcements.topics(changed_only=False)
        return {
            (state.channel, state.package): msgspec.json.decode(state.payload, type=Announcement)
            for state in states
            if state.payload is not None
        }

    def _page(self, after: str) -> list[tuple[str, dict[str, bytes]]]:
        return [(one.id, self._of(one)) for one in self._registry.devices(after=after, limit=_PAGE)]

    def _messages(self, device: str) -> dict[str, bytes]:
        try:
            return self._of(self._registry.device(device))
        except OperatorError:
            return {}  # it was forgotten

    def _of(self, device: Device) -> dict[str, bytes]:
        if device.channel is None:
            return {}  # it has reported nothing yet, or was taken out of service
        packages = packages_of(device, self._announced, self._orders.desired(device.id))
        return messages_of(device, packages, names=self._names, topics=self._topics, describe=self._described)

    def _described(self, package: str, version: str) -> str:
        key = (package, version)
        if key not in self._descriptions:
            if len(self._descriptions) >= _MAX_PRESSED:
                self._descriptions.clear()
            self._descriptions[key] = self._describe(package, version)
        return self._descriptions[key]


async def _publish_all(link: Link, messages: dict[str, bytes]) -> None:
    """Publish retained messages, many at a time, in their order."""
    items: Iterable[tuple[str, bytes]] = messages.items()
    waiting = deque(items)
    while waiting:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(_AT_ONCE, len(waiting))):
                topic, payload = waiting.popleft()
                group.create_task(publish(link, topic, payload, retain=True), name="home-assistant")
