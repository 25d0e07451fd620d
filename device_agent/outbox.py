"""The outbox: events that are durable before they are published, kept until the controller has them."""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec

from device_agent.agent_db import AgentDatabase, next_number
from schemas.codec import encode
from schemas.messages import Phase, UpdateEvent

MAX_EVENTS: Final = 10_000
"""Events kept for `replay`. Beyond it the oldest that the broker has confirmed go first; then, because a
disk is finite, the oldest at all. That is about a thousand updates without a controller ever answering."""

_SEQ: Final = "event seq"
_SESSION: Final = "session"
_DEVICE: Final = "device"


class KeptEvent(NamedTuple):
    """One event: its `seq` and the payload exactly as it is to be published."""

    seq: int
    payload: bytes


class _Speaker(msgspec.Struct):
    device: str


class Outbox(AgentDatabase):
    """Events, the counters that number them and connections, and notes."""

    _listeners: list[Callable[[Phase | None], None]]

    def unsent(self, limit: int = 100) -> list[KeptEvent]:
        """The oldest events that the broker has not confirmed, by `seq`."""
        return self._events("SELECT seq, payload FROM events WHERE sent = 0 ORDER BY seq LIMIT ?", limit)

    def mark_sent(self, seqs: Sequence[int]) -> None:
        """The broker has confirmed these with success. They stay for `events_after`."""
        with self._transaction() as connection:
            connection.executemany("UPDATE events SET sent = 1 WHERE seq = ?", [(seq,) for seq in seqs])

    def is_confirmed_after(self, seq: int) -> bool:
        """Whether the broker has confirmed an event above `seq`; one that was dropped since had been."""
        rows = self._rows("SELECT MAX(sent), MIN(seq) FROM events WHERE seq > ?", seq)
        sent, first = rows[0]
        if sent is None:
            return self.last_seq() > seq
        return bool(sent) or int(first) > seq + 1

    def events_after(self, seq: int, limit: int = 100) -> list[KeptEvent]:
        """Events above `seq`, confirmed or not, by `seq`; for `replay`."""
        return self._events("SELECT seq, payload FROM events WHERE seq > ? ORDER BY seq LIMIT ?", seq, limit)

    def forget_through(self, seq: int) -> None:
        """The controller has all up to `seq`: those need no confirmation any more and are dropped."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM events WHERE seq <= ?", (seq,))

    def last_seq(self) -> int:
        """The last event's `seq`; 0 before the first. It never goes back, whatever is dropped."""
        rows = self._rows("SELECT value FROM counters WHERE name = ?", _SEQ)
        return int(rows[0][0]) if rows else 0

    def on_event(self, listener: Callable[[Phase | None], None]) -> Callable[[], None]:
        """Have `listener` called, from any thread, after each commit that added an event; gives a call that ends it.

        Args:
            listener: told the event's phase; None where there is none that this agent knows.
        """
        with self._mutex:
            self._listeners.append(listener)

        def forget() -> None:
            with self._mutex:
                self._listeners.remove(listener)

        return forget

    async def wait_for_events(self, after_seq: int, timeout_s: float) -> bool:
        """Wait until `last_seq()` is above `after_seq`; False when `timeout_s` have passed."""
        loop, arrived = asyncio.get_running_loop(), asyncio.Event()

        def wake(_phase: Phase | None) -> None:
            loop.call_soon_threadsafe(arrived.set)

        forget = self.on_event(wake)
        try:
            # a row by its key: too short a read for a thread
            if self.last_seq() > after_seq:
                return True
            await asyncio.wait_for(arrived.wait(), timeout_s)
        except TimeoutError:
            return False
        finally:
            forget()
        return True

    def next_session(self) -> int:
        """The number of the next connection, for Presence; grows for ever."""
        with self._transaction() as connection:
            return next_number(connection, _SESSION)

    def count_on_from(self, *, seq: int, session: int) -> None:
        """Number the next event and connection above these: a journal before this one has used them."""
        with self._transaction() as connection:
            for name, value in ((_SEQ, seq), (_SESSION, session)):
                connection.execute(
                    "INSERT INTO counters VALUES (?, ?) "
                    "ON CONFLICT (name) DO UPDATE SET value = MAX(value, excluded.value)",
                    (name, value),
                )

    def belong_to(self, device: str, *, without: Sequence[str] = ()) -> str | None:
        """Have events be this device's from now on; gives the id of another one whose they were till now, or None.

        A device with another name, or with a copy of another one's card, is a new one to the controller: what was said
        under the other name is neither told again nor counted, what went wrong there is tried here, and notes of what
        the other was told (`without`) do not hold. Back under a name that it had, it counts on from where it was.
        """
        noted = self.get_note(_DEVICE)
        former = self._last_speaker() if noted is None else noted
        if noted == device:
            return None
        with self._transaction() as connection:
            if former not in (None, device):
                connection.execute("DELETE FROM events")
                connection.execute("DELETE FROM verdicts")
                connection.executemany("DELETE FROM notes WHERE key = ?", [(key,) for key in without])
                # never one number twice in one name: the controller takes the second for the first
                connection.execute(
                    "INSERT OR REPLACE INTO counters SELECT name || '/' || ?, value FROM counters WHERE name = ?",
                    (former, _SEQ),
                )
                connection.execute("DELETE FROM counters WHERE name = ?", (_SEQ,))
                connection.execute("UPDATE counters SET name = ? WHERE name = ?", (_SEQ, f"{_SEQ}/{device}"))
            connection.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (_DEVICE, device))
        return None if former == device else former

    @property
    def speaker(self) -> str | None:
        """The device that the agent which ran here last was."""
        return self.get_note(_DEVICE) or self._last_speaker()

    def _last_speaker(self) -> str | None:
        """The device that the last event names; a journal from before this was noted has it nowhere else."""
        said = self._events("SELECT seq, payload FROM events ORDER BY seq DESC LIMIT ?", 1)
        return msgspec.json.decode(said[0].payload, type=_Speaker).device if said else None

    def get_note(self, key: str) -> str | None:
        """A small fact that must survive, e.g. the last revision seen of an announcement."""
        rows = self._rows("SELECT value FROM notes WHERE key = ?", key)
        return str(rows[0][0]) if rows else None

    def set_note(self, key: str, value: str | None) -> None:
        """Keep, replace or (None) drop a note, durably."""
        with self._transaction() as connection:
            if value is None:
                connection.execute("DELETE FROM notes WHERE key = ?", (key,))
            else:
                connection.execute("INSERT OR REPLACE INTO notes (key, value) VALUES (?, ?)", (key, value))

    def notes(self, prefix: str) -> dict[str, str]:
        """All notes whose key begins with `prefix`."""
        rows = self._rows("SELECT key, value FROM notes WHERE substr(key, 1, ?) = ?", len(prefix), prefix)
        return {str(key): str(value) for key, value in rows}

    def _add_event(self, connection: sqlite3.Connection, make: Callable[[int], UpdateEvent]) -> None:
        """Number and keep an event, inside the transaction of what it tells of."""
        seq = next_number(connection, _SEQ)
        connection.execute("INSERT INTO events (seq, payload) VALUES (?, ?)", (seq, encode(make(seq))))
        excess = connection.execute("SELECT COUNT(*) FROM events").fetchone()[0] - MAX_EVENTS
        if excess > 0:
            connection.execute(
                "DELETE FROM events WHERE seq IN (SELECT seq FROM events ORDER BY sent DESC, seq LIMIT ?)", (excess,)
            )

    def _tell_listeners(self, phase: Phase | None) -> None:
        with self._mutex:
            listeners = list(self._listeners)
        for listener in listeners:
            listener(phase)

    def _events(self, sql: str, *values: int) -> list[KeptEvent]:
        return [KeptEvent(int(seq), bytes(payload)) for seq, payload in self._rows(sql, *values)]
