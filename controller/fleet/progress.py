"""Which of a device's events are here: arithmetic on sequence numbers, no database.

A device counts its events from 1 on, for ever. They may come twice, late or not at all, and a report may
say that there are more than have come.
"""

import json
from typing import Final, NamedTuple

MAX_GAPS: Final = 256
"""Beyond this many gaps two neighbours are taken as one: some events are then asked for although they are here."""


class SeqTrack(NamedTuple):
    """The numbers from 1 to `highest`, less those that are `missing`.

    Attributes:
        highest: the highest number known to exist, by an event or by a report; 0 for none.
        missing: gaps in rising order, apart from each other, both ends in; all within 1 to `highest`.
    """

    highest: int = 0
    missing: tuple[tuple[int, int], ...] = ()

    @property
    def contiguous(self) -> int:
        """The number up to which everything is here: what `replay` is to go on after."""
        return self.missing[0][0] - 1 if self.missing else self.highest

    def has(self, seq: int) -> bool:
        """Whether the event with this number is here."""
        return 1 <= seq <= self.highest and not any(first <= seq <= last for first, last in self.missing)

    def lacks(self, seq: int) -> bool:
        """Whether the event with this number is surely not here: where gaps were taken as one, nobody can tell."""
        return not self.has(seq) and (seq > self.highest or len(self.missing) < MAX_GAPS)

    def add(self, seq: int) -> "SeqTrack":
        """The same after the event `seq` (from 1 on) came in."""
        if seq == self.highest + 1:
            return SeqTrack(seq, self.missing)
        if seq > self.highest:
            return SeqTrack(seq, _bounded((*self.missing, (self.highest + 1, seq - 1))))
        gaps: list[tuple[int, int]] = []
        for first, last in self.missing:
            if first <= seq <= last:
                gaps += [gap for gap in ((first, seq - 1), (seq + 1, last)) if gap[0] <= gap[1]]
            else:
                gaps.append((first, last))
        return SeqTrack(self.highest, _bounded(tuple(gaps)))

    def expect(self, seq: int) -> "SeqTrack":
        """The same after a report said that `seq` is the number of the device's last event."""
        if seq <= self.highest:
            return self
        if self.missing and self.missing[-1][1] == self.highest:
            return SeqTrack(seq, (*self.missing[:-1], (self.missing[-1][0], seq)))
        return SeqTrack(seq, _bounded((*self.missing, (self.highest + 1, seq))))

    def forget_beyond(self, seq: int) -> "SeqTrack":
        """The same without what was only ever expected beyond `seq`: the device takes it back."""
        if not self.missing or self.missing[-1][1] != self.highest or self.highest <= seq:
            return self
        first = self.missing[-1][0]
        if first > seq:
            return SeqTrack(first - 1, self.missing[:-1])
        return SeqTrack(seq, (*self.missing[:-1], (first, seq)))

    def gaps_text(self) -> str | None:
        """The gaps as the database keeps them; None for none."""
        return json.dumps(self.missing) if self.missing else None

    @classmethod
    def read(cls, highest: int, gaps: str | None) -> "SeqTrack":
        """What `highest` and `gaps_text` were made from."""
        if gaps is None:
            return cls(highest)
        return cls(highest, tuple((int(first), int(last)) for first, last in json.loads(gaps)))


def _bounded(gaps: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    if len(gaps) <= MAX_GAPS:
        return gaps
    # The narrowest bridge costs the fewest events that are asked for needlessly.
    narrowest = min(range(len(gaps) - 1), key=lambda i: gaps[i + 1][0] - gaps[i][1])
    return (*gaps[:narrowest], (gaps[narrowest][0], gaps[narrowest + 1][1]), *gaps[narrowest + 2 :])
