"""Asks devices to send events again, as `replay` plans it."""

import asyncio
import logging
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from controller.announcer import publish
from controller.database import to_db
from controller.fleet.intake_store import Outcome
from controller.fleet.progress import SeqTrack
from controller.fleet.replay import ReplayPlanner
from controller.logs import told
from schemas.codec import encode
from schemas.ids import uuid7
from schemas.messages import Command, Verb
from schemas.topics import Topics
from transport import Link

EXPIRY: Final = timedelta(minutes=10)
"""A device that is away finds the question when it comes back soon; one that stays away is asked again."""

log = logging.getLogger(__name__)


class Replays:
    """For one event loop. The questions are not stored: what is missing is, and a lost one is asked again.

    Args:
        topics: builds the topics.
        clock: the time of day.
    """

    def __init__(self, topics: Topics, *, clock: Callable[[], datetime]) -> None:
        self._topics = topics
        self._clock = clock
        self._planner = ReplayPlanner()
        self._changed = asyncio.Event()
        self.waiting = 0
        """How many devices have events that are not here."""

    def note(self, device: str, track: SeqTrack) -> None:
        """What is here of a device now."""
        self._planner.note(device, track, _now())
        self.waiting = self._planner.waiting
        self._changed.set()

    def note_outcome(self, outcome: Outcome) -> None:
        """What a batch changed."""
        now = _now()
        for device, track in outcome.tracks.items():
            self._planner.note(device, track, now)
        for device in outcome.journal_fell - outcome.new_lives.keys():
            self._planner.demand(device, now)
        for presence in outcome.presences:
            if presence.online:
                self._planner.returned(presence.device, now)
        self.waiting = self._planner.waiting
        self._changed.set()

    def forget(self, device: str) -> None:
        """It is asked for nothing any more."""
        self._planner.forget(device)
        self.waiting = self._planner.waiting
        self._changed.set()

    async def run(self, link: Link) -> None:
        """Ask whenever somebody is due, until the link is lost.

        Raises:
            LinkLost: or another transport error that ends the link.
        """
        while True:
            self._changed.clear()
            for device, after_seq in self._planner.due(_now()):
                await self._ask(link, device, after_seq)
            due = self._planner.next_due()
            try:
                async with asyncio.timeout_at(due):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def _ask(self, link: Link, device: str, after_seq: int) -> None:
        now = self._clock()
        command = Command(
            id=uuid7(to_db(now) // 1000, secrets.token_bytes(10)),
            verb=Verb.REPLAY,
            args={"after_seq": after_seq},
            expires_at=now + EXPIRY,
        )
        log.info(
            "device %s: events after %d are missing, asked for them",
            device,
            after_seq,
            extra=told("replay", device=device, after_seq=after_seq),
        )
        topic = self._topics.device(device, "commands")
        await publish(link, topic, encode(command), expiry_s=int(EXPIRY.total_seconds()))


def _now() -> float:
    return asyncio.get_running_loop().time()
