"""How many devices have which verdict, by wave; kept up to date device by device. Pure."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from controller.rollouts.plan import OPEN, Mark, Verdict
from schemas.messages import Phase


class Tally:
    """Counts of marks. `add` and `remove` cancel each other."""

    def __init__(self, marks: Iterable[Mark] = ()) -> None:
        self._waves: dict[int | None, Counter[Verdict]] = defaultdict(Counter)
        self._forgiven: dict[int | None, Counter[Verdict]] = defaultdict(Counter)
        self._phases: Counter[Phase] = Counter()
        self._places: Counter[int | None] = Counter()
        for mark in marks:
            self.add(mark)

    def add(self, mark: Mark, number: int = 1) -> None:
        """So many more."""
        self._waves[mark.wave][mark.verdict] += number
        if mark.forgiven:
            self._forgiven[mark.wave][mark.verdict] += number
        if mark.place:
            self._places[mark.wave] += number
        if mark.phase is not None:
            self._phases[mark.phase] += number

    def remove(self, mark: Mark) -> None:
        """One less."""
        self._waves[mark.wave][mark.verdict] -= 1
        if mark.forgiven:
            self._forgiven[mark.wave][mark.verdict] -= 1
        if mark.place:
            self._places[mark.wave] -= 1
        if mark.phase is not None:
            self._phases[mark.phase] -= 1

    def move(self, before: Mark, phase: Phase) -> None:
        """One that said `before.phase` has said this since; nothing else about it has changed."""
        if before.phase is not None:
            self._phases[before.phase] -= 1
        self._phases[phase] += 1

    def wave(self, number: int) -> Mapping[Verdict, int]:
        """Counts of one wave's devices."""
        return self._waves.get(number, Counter())

    def number(self, wave: int, verdicts: Iterable[Verdict]) -> int:
        """How many of a wave's devices have one of these verdicts."""
        counts = self.wave(wave)
        return sum(counts.get(verdict, 0) for verdict in verdicts)

    def forgiven(self, wave: int, verdicts: Iterable[Verdict]) -> int:
        """How many of those were forgiven."""
        counts = self._forgiven.get(wave)
        return 0 if counts is None else sum(counts.get(verdict, 0) for verdict in verdicts)

    def places(self, wave: int) -> int:
        """How many places of a wave with `concurrency` are taken."""
        return self._places[wave]

    @property
    def open(self) -> int:
        """How many devices something is still going to happen to."""
        return sum(counts[verdict] for counts in self._waves.values() for verdict in OPEN)

    def verdicts(self) -> dict[Verdict, int]:
        """Counts over all waves, without those that are not meant and without zeros, by name."""
        total: Counter[Verdict] = Counter()
        for counts in self._waves.values():
            total.update(counts)
        return {name: total[name] for name in sorted(total) if total[name] and name is not Verdict.NOT_MEANT}

    def phases(self) -> dict[str, int]:
        """How many devices said which phase last."""
        return {name.value: self._phases[name] for name in sorted(self._phases) if self._phases[name]}
