"""What the broker still holds of what the controller itself has said, before the controller says anything.

The database is the truth, as long as it is the newest there is. One that was put back from a backup is behind: then the
broker's retained messages are newer, and what the database would announce has numbers that devices know as old. So
every connection begins with hearing them. The broker sends what is retained before what is published later, so the
controller's own greeting, which it hears too, says that this was all; where a broker does not keep that order, what
comes late is still taken.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Final

from controller.fleet.halving import UNFIT, store_but_unfit
from controller.fleet.patience import patiently, reason
from controller.fleet.recall_store import Announced, Greeted, Recalled, RecallStore, Said, Told
from controller.fleet.refusals import Refusals
from controller.logs import told
from schemas.codec import decode
from schemas.errors import ContractError, OperatorError, one_line
from schemas.messages import Announcement, Desired, Presence
from schemas.topics import ControllerTopic, DeviceTopic, ReleaseTopic, Topics
from transport import Message

QUIET_S: Final = 10.0
"""A broker that says nothing for so long has no more to say, or does not let the controller hear itself."""
LONGEST_S: Final = 120.0
"""Devices may never be quiet: after this time the controller speaks, whether it has heard itself or not."""
MOST_EXPECTED: Final = 1000
"""Echoes that are waited for at once: where the broker sends none, no more is kept for them."""
LARGEST_EXPECTED: Final = 4096
"""Bytes of a message whose echo is waited for."""

log = logging.getLogger(__name__)


class Recall:
    """For one event loop; fed by the intake, which hears everything.

    Args:
        topics: knows which topics are the controller's own.
        store: keeps what is newer than the database.
        on_recalled: told of what was learned, on the event loop.
        is_greeting: whether a presence is the one that the present connection began with.
        clock: the time of day.
    """

    def __init__(
        self,
        topics: Topics,
        store: RecallStore,
        on_recalled: Callable[[Recalled], None],
        *,
        is_greeting: Callable[[Presence], bool],
        clock: Callable[[], datetime],
    ) -> None:
        self._topics = topics
        self._store = store
        self._on_recalled = on_recalled
        self._is_greeting = is_greeting
        self._clock = clock
        self._heard = asyncio.Event()
        self._over = asyncio.Event()
        self._devices = f"{topics.root}/devices/"
        self._expected: dict[str, bytes] = {}

    def is_own(self, topic: str) -> bool:
        """Whether it is a topic that the controller writes."""
        if topic.startswith(self._devices) and not topic.endswith("/desired"):
            return False  # nearly all of them: not worth taking apart
        try:
            found = self._topics.parse(topic)
        except ContractError:
            return False
        if isinstance(found, DeviceTopic):
            return found.kind == "desired"
        return isinstance(found, (ReleaseTopic, ControllerTopic))

    def filters(self) -> list[str]:
        """What to subscribe to."""
        return [self._topics.every_release(), self._topics.every_device("desired"), self._topics.controller_status()]

    def begin(self) -> None:
        """A connection begins."""
        self._over.clear()
        self._expected.clear()

    def expect(self, topic: str, payload: bytes) -> None:
        """The controller publishes this on the present connection, out of its database.

        When it comes back there is nothing to learn from it, and nobody is asked. The same message once more is from
        somebody else. Not where the database may have lost since what it had said was kept.
        """
        if len(payload) > LARGEST_EXPECTED or not self._store.keeps_what_it_took:
            return
        if len(self._expected) >= MOST_EXPECTED:
            self._expected.clear()
        self._expected[topic] = payload

    @property
    def expected(self) -> int:
        """Echoes that are waited for."""
        return len(self._expected)

    def _is_echo(self, message: Message) -> bool:
        if self._expected.get(message.topic) != message.payload:
            return False
        del self._expected[message.topic]
        return True

    async def done(self) -> None:
        """Wait until all that is retained has been taken in, or nothing comes any more; `LONGEST_S` at most."""
        try:
            async with asyncio.timeout(LONGEST_S) as whole:
                while not self._over.is_set():
                    self._heard.clear()
                    async with asyncio.timeout(QUIET_S):
                        await self._heard.wait()
        except TimeoutError:
            if whole.expired():
                why = f"after {LONGEST_S:g} s what devices have said is still coming in, before what the controller has"
            else:
                why = "the broker does not let the controller hear what it has said"
            log.warning("%s: it goes by its database alone", why)

    async def take(self, messages: Sequence[Message], refusals: Refusals) -> None:
        """Take in what the controller has said, and note that the broker is talking.

        Args:
            messages: on the controller's own topics. One that can't be taken is left alone, as its topic may hold
                anything: the others count.
            refusals: counts those that are left alone.
        """
        said: list[Said] = []
        greeted = False
        for message in messages:
            if self._is_echo(message):
                continue
            try:
                presence = self._read(message, said)
            except ContractError as error:
                refusals.refuse(message.topic, error, asyncio.get_running_loop().time())
                continue
            if presence is not None:
                greeted = greeted or self._is_greeting(presence)
                said.append(Greeted(presence.session))

        def leave_alone(one: Said, error: Exception) -> None:
            refusals.counts["internal.error"] += 1
            extra = told("refused", code="internal.error")
            log.error("what is retained of %s is left alone: %s", one, reason(error), extra=extra)

        if said:
            await store_but_unfit(said, self._learn, leave_alone, unfit=(OperatorError, *UNFIT))
        if greeted:
            self._over.set()
        self._heard.set()

    async def _learn(self, said: Sequence[Said]) -> None:
        recalled = await patiently(partial(self._store.learn, said, self._clock()), doing="recalling")
        if recalled.changed:
            self._on_recalled(recalled)

    def _read(self, message: Message, said: list[Said]) -> Presence | None:
        if not message.payload:
            return None
        match self._topics.parse(message.topic):
            case ReleaseTopic(channel, package):
                announcement = decode(message.payload, Announcement)
                if (announcement.channel, announcement.package) == (channel, package):
                    said.append(Announced(announcement, _text(message)))
            case DeviceTopic(device, "desired"):
                said.append(Told(device, decode(message.payload, Desired), _text(message)))
            case _:
                return decode(message.payload, Presence)
        return None


def _text(message: Message) -> str:
    try:
        return message.payload.decode()
    except UnicodeDecodeError as error:  # in a field that this version does not know, which `decode` skips unread
        raise ContractError("message.json", f"the payload is not UTF-8: {one_line(error)}") from error
