"""What a simulated fleet did, as numbers that add up over processes."""

from typing import Self

import msgspec

from schemas.messages import LAST_WORDS, UpdateEvent


class Tally(msgspec.Struct, kw_only=True):
    """Counts of one process, or of all of them.

    Attributes:
        devices: that are simulated, twins of duplicated ids included.
        connected: now.
        events: phase to how many events were written.
        confirmed: events of which the broker's PUBACK said success, each once however often it was sent.
        event_bytes: of the payloads of those.
        messages: topic kind to how many were published, repetitions included.
        message_bytes: of the payloads of those.
        failures: error code to how many updates ended with it.
        updates: how many were begun.
        ended: how many of them have had their last word.
        open: devices that have an update without a last word, or words that the broker does not have yet.
        silent: devices that fell silent.
        duplicates: devices that gave up because another one has their id.
        connections: how many were made.
        drops: connections that flapping devices dropped.
        cpu_s: processor time of the processes, seconds.
        memory: resident bytes of the processes.
    """

    devices: int = 0
    connected: int = 0
    events: dict[str, int] = {}
    confirmed: int = 0
    event_bytes: int = 0
    messages: dict[str, int] = {}
    message_bytes: int = 0
    failures: dict[str, int] = {}
    updates: int = 0
    ended: int = 0
    open: int = 0
    silent: int = 0
    duplicates: int = 0
    connections: int = 0
    drops: int = 0
    cpu_s: float = 0.0
    memory: int = 0

    def note_event(self, event: UpdateEvent) -> None:
        """A device wrote an event."""
        self.events[event.phase.value] = self.events.get(event.phase.value, 0) + 1
        if event.phase in LAST_WORDS:
            self.ended += 1
            if event.error is not None:
                self.failures[event.error.code] = self.failures.get(event.error.code, 0) + 1

    def note_message(self, kind: str, size: int) -> None:
        """A device published something."""
        self.messages[kind] = self.messages.get(kind, 0) + 1
        self.message_bytes += size

    def add(self, other: Self) -> None:
        """Count another process's in."""
        for name in self.__struct_fields__:
            mine, theirs = getattr(self, name), getattr(other, name)
            if isinstance(mine, dict):
                for key, count in theirs.items():
                    mine[key] = mine.get(key, 0) + count
            else:
                setattr(self, name, mine + theirs)

    @property
    def written(self) -> int:
        """Events of all phases."""
        return sum(self.events.values())

    @property
    def settled(self) -> bool:
        """Whether something was begun and everything that will end has ended, and has been told."""
        return self.updates > 0 and self.open == 0
