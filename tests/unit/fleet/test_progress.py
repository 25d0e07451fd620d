"""Sequence numbers: what is missing is known exactly, whatever the order in which events come."""

from hypothesis import given
from hypothesis import strategies as st

from controller.fleet.progress import MAX_GAPS, SeqTrack

seqs = st.lists(st.integers(1, 60), max_size=60)


def track_of(numbers: list[int]) -> SeqTrack:
    track = SeqTrack()
    for number in numbers:
        track = track.add(number)
    return track


@given(seqs)
def test_a_track_is_the_set_of_what_came(numbers: list[int]) -> None:
    track = track_of(numbers)
    assert [n for n in range(70) if track.has(n)] == sorted(set(numbers))
    assert track.highest == max(numbers, default=0)


@given(seqs)
def test_contiguous_is_the_last_number_before_the_first_gap(numbers: list[int]) -> None:
    expected = 0
    while expected + 1 in numbers:
        expected += 1
    assert track_of(numbers).contiguous == expected


@given(seqs, st.randoms(use_true_random=False))
def test_order_and_repetition_change_nothing(numbers: list[int], random: object) -> None:
    shuffled = numbers * 2
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis types its Random as object
    assert track_of(shuffled) == track_of(numbers)


@given(seqs, st.integers(0, 80))
def test_a_report_beyond_makes_the_rest_missing_and_replay_heals_it(numbers: list[int], reported: int) -> None:
    track = track_of(numbers).expect(reported)
    assert track.highest == max(reported, max(numbers, default=0))
    assert [n for n in range(90) if track.has(n)] == sorted(set(numbers))
    for seq in range(track.contiguous + 1, track.highest + 1):
        track = track.add(seq)
    assert (track.contiguous, track.missing) == (track.highest, ())


@given(seqs, st.integers(0, 80), st.integers(0, 80))
def test_a_report_that_takes_numbers_back_leaves_only_what_came(numbers: list[int], reported: int, later: int) -> None:
    track = track_of(numbers).expect(reported).forget_beyond(later)
    assert [n for n in range(90) if track.has(n)] == sorted(set(numbers))
    assert track == track_of(numbers).expect(min(reported, later))


@given(seqs, st.integers(0, 80))
def test_what_the_database_keeps_is_the_same_track(numbers: list[int], reported: int) -> None:
    track = track_of(numbers).expect(reported)
    assert SeqTrack.read(track.highest, track.gaps_text()) == track


def test_gaps_are_bounded_and_only_ever_ask_for_too_much() -> None:
    numbers = list(range(2, 4 * MAX_GAPS, 2))
    track = track_of(numbers)
    assert len(track.missing) == MAX_GAPS
    assert track.contiguous == 0
    assert not any(track.has(odd) for odd in range(1, 4 * MAX_GAPS, 2))
    for seq in range(1, track.highest + 1):
        track = track.add(seq)
    assert track == SeqTrack(track.highest)
