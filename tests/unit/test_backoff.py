"""Waiting between attempts: full jitter under a ceiling that doubles."""

import random

import pytest

from transport import Backoff


class Highest(random.Random):
    """Chance that always comes out at the top, and notes what it was asked for."""

    def __init__(self) -> None:
        super().__init__(0)
        self.asked: list[tuple[float, float]] = []

    def uniform(self, a: float, b: float) -> float:
        self.asked.append((a, b))
        return b


def test_the_ceiling_doubles_from_one_second_to_two_minutes_and_stays_there() -> None:
    backoff = Backoff(rng=Highest())
    assert [backoff.next_s() for _ in range(9)] == [1, 2, 4, 8, 16, 32, 64, 120, 120]


def test_every_wait_may_be_anything_from_nothing_to_the_ceiling() -> None:
    rng = Highest()
    backoff = Backoff(first_s=2, limit_s=8, rng=rng)
    for _ in range(4):
        backoff.next_s()
    assert rng.asked == [(0, 2), (0, 4), (0, 8), (0, 8)]


def test_a_fleet_that_lost_its_broker_spreads_over_the_whole_ceiling() -> None:
    waits = [Backoff(rng=random.Random(seed)).next_s() for seed in range(1000)]
    assert min(waits) < 0.01
    assert max(waits) > 0.99
    tenths = [sum(tenth <= wait * 10 < tenth + 1 for wait in waits) for tenth in range(10)]
    assert min(tenths) > 60


def test_reset_starts_again_from_the_first_ceiling() -> None:
    backoff = Backoff(rng=Highest())
    for _ in range(5):
        backoff.next_s()
    backoff.reset()
    assert backoff.next_s() == 1


@pytest.mark.parametrize(("first_s", "limit_s"), [(0, 1), (-1, 1), (2, 1)])
def test_ceilings_that_make_no_sense_are_refused(first_s: float, limit_s: float) -> None:
    with pytest.raises(ValueError, match="ceiling"):
        Backoff(first_s=first_s, limit_s=limit_s)
