"""Every call that changes something on the disk is cut off once, and refused once for each error.

All points: `FLOTILLA_MATRIX=all pytest tests/matrix`; otherwise a spread sample of them. With
`FLOTILLA_MATRIX_LOG=FILE` each batch adds a line, and each exception its story, as soon as it is known.
"""

import os
import shutil
from collections.abc import Iterator
from itertools import product, zip_longest
from pathlib import Path

import pytest

from tests.matrix.bench import Bench
from tests.matrix.scenarios import SCENARIOS, Matrix
from tests.matrix.strace import Point

EVERYTHING = os.environ.get("FLOTILLA_MATRIX") == "all"
FAULTS = ("SIGKILL", "ENOSPC", "EIO", "EROFS")
SAMPLE = {"SIGKILL": 20, "ENOSPC": 5, "EIO": 5, "EROFS": 5}
"""Points of each story in the sample: 5 times 35, 175 in all."""
LONGEST = ("rollback", "SIGKILL")
BATCHES = 8 if EVERYTHING else 1

pytestmark = [
    pytest.mark.skipif(shutil.which("strace") is None and not os.environ.get("CI"), reason="strace is not installed"),
    pytest.mark.timeout(7200 if EVERYTHING else 300),
]


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Matrix]:
    """Made once for all points that a worker goes through."""
    with Bench(tmp_path_factory.mktemp("matrix") / "bench") as bench:
        yield Matrix(bench)


def chosen(points: list[Point], fault: str) -> list[Point]:
    """All points, or a sample in which each kind of call is there before any is there twice, spread over each kind."""
    if EVERYTHING:
        return points
    kinds: dict[str, list[Point]] = {}
    for point in points:
        kinds.setdefault(point.call, []).append(point)
    number = FAULTS.index(fault)
    spread = [_spread(kind, number) for kind in kinds.values()]
    rounds = [point for one in zip_longest(*spread) for point in one if point is not None]
    shift = 0 if fault == "SIGKILL" else number * SAMPLE[fault]
    return (rounds[shift:] + rounds[:shift])[: SAMPLE[fault]]


def _spread(points: list[Point], number: int) -> list[Point]:
    """The points in an order in which neighbours are far apart, another one for each fault."""
    golden = 0.618034
    return sorted(points, key=lambda point: ((points.index(point) + 7 * number) * golden) % 1)


def _note(text: str) -> None:
    log = os.environ.get("FLOTILLA_MATRIX_LOG")
    if log is not None:
        with Path(log).open("a") as stream:
            stream.write(f"{text}\n")


@pytest.mark.parametrize("batch", range(BATCHES))
@pytest.mark.parametrize(
    ("story", "fault"),
    [
        pytest.param(*case, id="-".join(case), marks=[pytest.mark.long(39)] if case == LONGEST else [])
        for case in product(SCENARIOS, FAULTS)
    ],
)
def test_no_cut_and_no_refusal_leaves_a_device_half_way(matrix: Matrix, story: str, fault: str, batch: int) -> None:
    scenario = SCENARIOS[story]
    points = chosen(matrix.points(scenario), fault)[batch::BATCHES]
    missed, wrong = 0, []
    for point in points:
        complaints, told = matrix.complaints(scenario, point, fault)
        if complaints and all(one.startswith("missed") for one in complaints):
            missed += 1
        elif complaints:
            wrong.append(f"{story}, {fault} at {point}: {'; '.join(complaints)}\n{told}")
            _note(wrong[-1])
    _note(f"{story} {fault}: {len(points)} points, {missed} missed, {len(wrong)} wrong")
    assert not wrong, "\n\n".join(wrong[:5]) + f"\n\n{len(wrong)} of {len(points)} points"
    assert missed <= max(1, len(points) // 20)


def test_each_story_has_the_calls_that_it_must_have(matrix: Matrix) -> None:
    update = {point.call for point in matrix.points(SCENARIOS["update"])}
    assert {"rename", "link", "symlink", "unlink", "mkdir", "fdatasync", "syncfs", "pwrite64", "utimensat"} <= update
    assert sum(len(matrix.points(scenario)) for scenario in SCENARIOS.values()) > 500


def test_an_update_is_flushed_once(matrix: Matrix) -> None:
    """One `syncfs` for the whole tree, and no other flush of what there may be many of."""
    points = matrix.points(SCENARIOS["update"])
    assert len([point for point in points if point.call == "syncfs"]) == 1
    flushed = [point for point in points if point.call in ("fsync", "fdatasync")]
    assert not [point for point in flushed if "/objects/" in point.what or "/releases/" in point.what]


def test_what_is_flushed_before_what(matrix: Matrix) -> None:
    """The order that docs/durability.md argues with, in the calls of a real update."""
    points = [point for point in matrix.points(SCENARIOS["update"]) if point.thread == "worker"]

    def places(call: str, part: str) -> list[int]:
        return [n for n, point in enumerate(points) if point.call == call and part in point.what]

    commits = places("fdatasync", "agent.db-wal")
    (flushed,) = places("syncfs", "")
    (staged,) = places("rename", "root/packages/tacho/releases/1.1.0")
    sealed = places("utimensat", "root/objects/")
    written = [*places("rename", "root/objects/"), *places("link", "root/objects/"), *places("write", "/manifests/")]
    assert max(written) < staged < flushed < min(sealed)
    assert max(sealed) < min(n for n in commits if n > flushed)
    (switched,) = places("rename", ".current.new")
    (switch_flushed,) = [n for n in places("fsync", "root/packages/tacho") if n > switched]
    assert any(max(sealed) < n < switched for n in commits)
    assert [n for n in commits if switched < n < switch_flushed] == []
    assert any(n > switch_flushed for n in commits)
    metadata = [*places("rename", "root/metadata/"), *places("fsync", "root/metadata")]
    assert max(metadata) < min(places("rename", "root/objects/"))
