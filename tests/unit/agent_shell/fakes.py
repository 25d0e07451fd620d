"""Stand-ins for the journal's notes, the update manager and a connection, with the same behaviour where it counts."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from device_agent.outbox import KeptEvent
from device_agent.updates import Answer, Cancelled, Submitted, UpdateRequest
from schemas.messages import Announcement, InstalledPackage, ReleaseState, RolloutPolicy, Targets
from transport import LinkLost, Message, TransportError

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
OLDER = "0195816a-0000-7000-8000-000000000000"
ROLLOUT = "0195816b-0000-7000-8000-000000000000"
NEWER = "0195816c-0000-7000-8000-000000000000"


def announced(**changes: Any) -> Announcement:
    fields: dict[str, Any] = {
        "rollout": ROLLOUT,
        "revision": 5,
        "package": "tacho",
        "version": "1.1.0",
        "channel": "stable",
        "state": ReleaseState.ACTIVE,
        "targets": Targets(),
        "policy": RolloutPolicy(),
        "repository": ["http://repo"],
        "published_at": NOW,
    }
    return Announcement(**(fields | changes))


class MemoryNotes:
    """The journal's notes in a dictionary."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}

    def get_note(self, key: str) -> str | None:
        return self.kept.get(key)

    def set_note(self, key: str, value: str | None) -> None:
        self.kept.pop(key, None)
        if value is not None:
            self.kept[key] = value

    def notes(self, prefix: str) -> dict[str, str]:
        return {key: value for key, value in self.kept.items() if key.startswith(prefix)}


class RecordingUpdates:
    """Remembers what an update manager was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, object]] = []
        self.reasons: list[str] = []
        self.requests: list[UpdateRequest] = []
        self.superseding: list[tuple[str, str, str]] = []
        self.unpinned: list[str] = []
        self.held: bool | None = None
        self.fault: Exception | None = None
        self.retried: Submitted | None = None

    async def submit(self, request: UpdateRequest) -> Submitted:
        if self.fault is not None:
            raise self.fault
        self.requests.append(request)
        self.asked.append(("submit", request.version))
        return Submitted(answer=Answer.ACCEPTED, update="u")

    async def supersede(self, package: str, version: str, rollout: str) -> None:
        self.superseding.append((package, version, rollout))

    async def unpin(self, package: str) -> None:
        self.unpinned.append(package)

    async def pause(self, rollout: str) -> None:
        self.asked.append(("pause", rollout))

    async def halt(self, rollout: str, reason: str) -> None:
        self.reasons.append(reason)
        self.asked.append(("halt", rollout))

    async def revert(self, rollout: str) -> list[str]:
        self.asked.append(("revert", rollout))
        return []

    def hold(self, on: bool) -> None:
        self.held = on

    async def cancel(
        self, package: str, *, rollout: str | None = None, version: str | None = None, ended: str | None = None
    ) -> Cancelled:
        wanted = (package, rollout, version, ended) if ended else (package, rollout, version)
        self.asked.append(("cancel", package if rollout is None else wanted))
        return Cancelled.CANCELLED

    async def rollback(self, package: str) -> str:
        if self.fault is not None:
            raise self.fault
        self.asked.append(("rollback", package))
        return "u"

    async def retry(self, package: str, *, any_size: bool = False, rollout: str | None = None) -> Submitted | None:
        wanted = package if rollout is None else (package, rollout)
        self.asked.append(("retry whatever it takes" if any_size else "retry", wanted))
        return self.retried


def message(topic: str, payload: bytes) -> Message:
    return Message(topic=topic, payload=payload, retain=False, qos=1, content_type=None, expiry_s=None, handle=(0, 0))


class FakeLink:
    """A connection with messages to give, that remembers what was published and acknowledged.

    `piled_up` are the batches that are there when the connection begins. What comes `later` comes a batch at a time
    when nothing had come for a while; then the connection is lost.
    `answers` are raised one after the other by the next publishes, None for success.
    """

    def __init__(
        self, *, piled_up: Sequence[Sequence[Message]] = (), later: Sequence[Sequence[Message]] | None = None
    ) -> None:
        self._piled_up = [list(batch) for batch in piled_up]
        self._later = None if later is None else [list(batch) for batch in later]
        self._was_quiet = False
        self.published: list[tuple[str, bytes, bool]] = []
        self.acknowledged: list[Message] = []
        self.answers: list[Exception | None] = []
        self.said = asyncio.Event()

    async def batch(self, limit: int) -> list[Message]:
        if self._piled_up:
            assert len(self._piled_up[0]) <= limit
            return self._piled_up.pop(0)
        if not self._was_quiet or self._later is None:
            self._was_quiet = True
            await asyncio.Event().wait()
        if not self._later:
            raise LinkLost("gone")
        return self._later.pop(0)

    async def acknowledge(self, message: Message) -> None:
        self.acknowledged.append(message)

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False, timeout_s: float = 10.0) -> None:
        assert timeout_s > 0
        answer = self.answers.pop(0) if self.answers else None
        self.published.append((topic, payload, retain))
        self.said.set()
        await asyncio.sleep(0)
        if answer is not None:
            raise answer

    async def publish_all(
        self, topic: str, payloads: Sequence[bytes], *, timeout_s: float = 10.0
    ) -> list[TransportError | None]:
        every = (self.publish(topic, payload, timeout_s=timeout_s) for payload in payloads)
        outcomes = await asyncio.gather(*every, return_exceptions=True)
        assert all(one is None or isinstance(one, TransportError) for one in outcomes)
        return [one if isinstance(one, TransportError) else None for one in outcomes]


class MemoryOutbox:
    """Events in a list; what was confirmed is remembered by number."""

    def __init__(self, count: int = 0) -> None:
        self.events = [KeptEvent(seq, f"event {seq}".encode()) for seq in range(1, count + 1)]
        self.sent: list[int] = []
        self.packages: dict[str, InstalledPackage] = {}
        self._grown = asyncio.Event()

    def add(self) -> None:
        seq = len(self.events) + 1
        self.events.append(KeptEvent(seq, f"event {seq}".encode()))
        self._grown.set()

    def unsent(self, limit: int = 100) -> list[KeptEvent]:
        return [event for event in self.events if event.seq not in self.sent][:limit]

    def mark_sent(self, seqs: Sequence[int]) -> None:
        self.sent += seqs

    def events_after(self, seq: int, limit: int = 100) -> list[KeptEvent]:
        return [event for event in self.events if event.seq > seq][:limit]

    def last_seq(self) -> int:
        return len(self.events)

    async def wait_for_events(self, after_seq: int, timeout_s: float) -> bool:
        async with asyncio.timeout(timeout_s):
            while self.last_seq() <= after_seq:
                self._grown.clear()
                await self._grown.wait()
        return True

    def installed(self) -> dict[str, InstalledPackage]:
        return dict(self.packages)
