"""Which journal an event belongs to.

`(device, seq)` is an event's key for ever, as long as the device's journal lives. When its disk is replaced the
journal begins again at 1, and events with old numbers say something new. An update's id tells the two apart:
it is random, so the same number with another update comes from another journal, which is called another life
of the device. Nothing is overwritten and nothing thrown away.
"""

from collections.abc import Iterable, Mapping

from sqlalchemy import Connection, select, tuple_

from controller.fleet.device_rows import DeviceRow
from controller.fleet.sql import MAX_PARAMETERS
from controller.fleet.tables import events
from schemas.messages import UpdateEvent


class StoredEvents:
    """What the database holds under the numbers in question, and what this batch adds to it.

    Attributes:
        placed: events of this batch that are new, each with its life, for the caller to add to.
        out_of_order: devices of which an event came that is not the next one.
    """

    def __init__(self, connection: Connection) -> None:
        self.placed: list[tuple[int, UpdateEvent]] = []
        self.out_of_order: set[str] = set()
        self._connection = connection
        self._noted = 0
        self._updates: dict[tuple[str, int], dict[int, str]] = {}

    def load(self, keys: Iterable[tuple[str, int]]) -> None:
        """Look up which updates the events with these `(device, seq)` belong to, in every life."""
        wanted = sorted(set(keys))
        for start in range(0, len(wanted), MAX_PARAMETERS // 2):
            found = select(events.c.device, events.c.seq, events.c.life, events.c.update_id).where(
                tuple_(events.c.device, events.c.seq).in_(wanted[start : start + MAX_PARAMETERS // 2])
            )
            for device, seq, life, update in self._connection.execute(found):
                self.add(device, seq, life, update)

    def add(self, device: str, seq: int, life: int, update: str) -> None:
        """Take note of an event."""
        self._updates.setdefault((device, seq), {})[life] = update

    def updates(self, device: str, seq: int) -> Mapping[int, str]:
        """Life to the update that the event with this number belongs to; several after a journal began again."""
        for life, event in self.placed[self._noted :]:
            self.add(event.device, event.seq, life, event.update)
        self._noted = len(self.placed)
        return self._updates.get((device, seq), {})

    def life_of(self, device: str, update: str) -> int | None:
        """The life in which an update was heard of first, if that was before this batch."""
        return self._connection.scalar(
            select(events.c.life)
            .where(events.c.device == device, events.c.update_id == update)
            .order_by(events.c.life)
            .limit(1)
        )


def place(event: UpdateEvent, row: DeviceRow, known: StoredEvents) -> int | None:
    """The life that an event belongs to, or None for one that is here already; takes note of it in its device's row.

    An event whose number another update has taken belongs to the life of its own update, where that is
    known and has room for it, and begins the device's next life otherwise.
    """
    if row.awaits(event.seq):
        # no other can have its number
        row.track = row.track.add(event.seq)
        return row.life
    known.out_of_order.add(row.id)
    taken = known.updates(row.id, event.seq)
    if event.update in taken.values():
        if event.seq <= row.track.highest:
            row.track = row.track.add(event.seq)
        return None
    if not taken and row.track.has(event.seq):
        # Forgotten, as only steps of updates are whose last word is still here; else it is of another journal.
        if known.life_of(row.id, event.update) is not None:
            return None
        row.begin_life()
    life = row.life
    if life in taken:
        earlier = known.life_of(row.id, event.update)
        life = earlier if earlier is not None and earlier not in taken else row.begin_life()
    if life == row.life:
        row.track = row.track.add(event.seq)
    return life
