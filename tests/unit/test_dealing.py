"""In which order the tests are run: what takes long begins first on each worker, and nothing is lost."""

from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import dealt


def stretches(order: list[int], workers: int) -> list[list[int]]:
    """What each worker is given first, as `--dist worksteal` cuts the list."""
    found, left = [], order
    for number in range(workers):
        size = len(left) // (workers - number)
        found.append(left[:size])
        left = left[size:]
    return found


def test_each_worker_begins_with_its_share_of_what_takes_long() -> None:
    order = dealt(range(43), 10, 4)
    assert [one[:3] for one in stretches(order, 4)] == [[0, 4, 8], [1, 5, 9], [2, 6, 25], [3, 7, 34]]
    assert dealt(range(43), 10, 1) == list(range(43))


@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 8))
def test_every_test_is_run_once(first: int, rest: int, workers: int) -> None:
    assert sorted(dealt(range(first + rest), first, workers)) == list(range(first + rest))
