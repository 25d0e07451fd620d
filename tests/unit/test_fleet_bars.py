"""The fleet benchmark says so when a bar is missed: each by itself, and no other one."""

from dataclasses import replace

import pytest

from benchmarks.fleet.__main__ import Figures, bars_of

HELD = Figures(
    devices=100,
    messages=700,
    seconds=1.99,
    bare_seconds=1.0,
    bare_cpu=40e-6,
    cpu=0.1 + 600 * 149e-6,
    idle=0.04,
    request=0.06,
    events=600,
    memory=199.9,
    answers=[0.01] * 98 + [0.199],
    sent=6800,
    stored=(6800, 6800),
    kept=(700, 700, 700),
    load=0.5,
)


def missed(*found: Figures) -> list[str]:
    return [text for held, text in bars_of(found) if not held]


def test_what_is_just_within_every_bar_is_held() -> None:
    assert [held for held, _ in bars_of([HELD])] == [True] * 6
    assert missed(replace(HELD, kept=None)) == []
    assert missed(HELD, replace(HELD, devices=1000)) == []


@pytest.mark.parametrize(
    ("worse", "says"),
    [
        (replace(HELD, seconds=2.01), "2.01 s, at most 2.00 s"),
        (replace(HELD, cpu=0.1 + 600 * 151e-6), "151 us of processor time an event, at most 150"),
        (replace(HELD, memory=200.6), "201 MiB, at most 200"),
        (replace(HELD, answers=[0.01] * 98 + [0.201]), "page in 201 ms, at most 200"),
        (replace(HELD, stored=(6799, 6799)), "6800 events sent, 6799 stored, 6799 different ones"),
        (replace(HELD, stored=(6800, 6799)), "6800 events sent, 6800 stored, 6799 different ones"),
        (replace(HELD, kept=(700, 699, 699)), "killed: 700 events sent, 699 stored, 699 different ones"),
        (replace(HELD, kept=(700, 701, 700)), "killed: 700 events sent, 701 stored, 700 different ones"),
    ],
)
def test_each_bar_is_missed_by_itself(worse: Figures, says: str) -> None:
    (text,) = missed(worse)
    assert says in text


def test_an_event_may_not_cost_more_and_more_with_the_fleet() -> None:
    small, large = (replace(HELD, devices=number, cpu=0.1 + 600 * us * 1e-6) for number, us in ((100, 80), (1000, 101)))
    (text,) = missed(small, large)
    assert "1000 devices cost 1.26 x as much an event as 100" in text
    assert missed(large, small) == []


def test_of_a_hundred_answers_the_slowest_is_left_out() -> None:
    assert replace(HELD, answers=[float(number) / 1000 for number in range(1, 101)]).p99_ms == pytest.approx(100)
    assert replace(HELD, answers=[0.25]).p99_ms == pytest.approx(250)
