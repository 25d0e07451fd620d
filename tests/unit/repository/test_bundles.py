"""Bundles in the repository: which are made, by whom, which are kept, and that a maker that is killed does no harm."""

import asyncio
import contextlib
import hashlib
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from controller.repository import bundle_maker
from controller.repository.bundle_choice import MAX_REPORTED, is_worth_it, sources_of
from controller.repository.bundle_jobs import Failed, Made
from controller.repository.bundle_maker import BundleMaker
from controller.repository.index import Entry
from controller.repository.package_repository import PackageRepository
from controller.repository.records import ReleaseRecord
from controller.repository.storage import is_immutable
from device_agent.processes import group_alive
from schemas.layout import BUNDLES
from tests.support.bundles import bundle_files, index_file, index_of, make_bundles, pages
from tests.support.repository import add_release, make_repository, tree_of
from tests.unit.agent_leaves.waiting import until

SOON_S = 60.0


@pytest.fixture
def repository(tmp_path: Path) -> PackageRepository:
    return make_repository(tmp_path)


def entry(version: str, platform: str = "any") -> Entry:
    sha256 = hashlib.sha256(f"{version}{platform}".encode()).hexdigest()
    return Entry(
        id=1,
        package="tacho",
        version=version,
        platform=platform,
        manifest=sha256,
        target=sha256,
        state="stored",
        was_deleted=False,
    )


def versions_of(release: str, *others: str, last: int = 3, reported: dict[str, int] | None = None) -> list[str]:
    found = sources_of(entry(release), [entry(release), *map(entry, others)], last=last, reported=reported)
    return [one.version for one in found]


def test_bundles_start_from_the_versions_before() -> None:
    assert versions_of("2.0.0", "1.0.0", "1.10.0", "1.2.0", "1.9.0", "3.0.0") == ["1.10.0", "1.9.0", "1.2.0"]
    assert versions_of("2.0.0", "1.0.0", "1.1.0", last=1) == ["1.1.0"]
    assert versions_of("2.0.0") == []
    assert versions_of("2.0.0-rc.1", "2.0.0-beta.2", "2.0.0", "2.0.0-beta.10") == ["2.0.0-beta.10", "2.0.0-beta.2"]


def test_bundles_start_from_what_devices_run_in_numbers() -> None:
    old = {"0.1.0": 50, "0.2.0": 4, "0.3.0": 1, "1.0.0": 40}
    assert versions_of("2.0.0", *old, "1.1.0", last=1, reported=old) == ["1.1.0", "0.1.0", "1.0.0"]
    assert versions_of("2.0.0", "0.3.0", "1.0.0", last=1, reported={"0.3.0": 1}) == ["1.0.0"]
    many = {f"0.{number}.0": 10 for number in range(9)}
    assert len(versions_of("2.0.0", *many, last=0, reported=many)) == MAX_REPORTED


def test_bundles_stay_within_a_platform() -> None:
    others = [entry("1.0.0", "linux-aarch64"), entry("1.0.0", "linux-x86_64")]
    assert sources_of(entry("2.0.0", "linux-aarch64"), others, last=3) == others[:1]


@pytest.mark.parametrize(
    ("bundle", "packed", "count", "worth"),
    [(100, 10_000, 1, True), (10_000, 10_000, 1, False), (10_000, 9_000, 4, True), (50, 0, 0, False)],
)
def test_a_bundle_is_worth_it_where_it_spares_bytes(bundle: int, packed: int, count: int, *, worth: bool) -> None:
    assert is_worth_it(bundle, packed=packed, count=count) is worth


def test_a_release_gets_a_bundle_from_each_before_and_a_full_one(repository: PackageRepository) -> None:
    for number in range(1, 5):
        add_release(repository, "tacho", f"1.{number}.0", pages(number))
    record = add_release(repository, "tacho", "2.0.0", pages(5))
    said = make_bundles(repository, record)
    assert [line for line in said if isinstance(line, Failed)] == []
    index = index_of(repository, record)
    sources = {one.source for one in index.bundles}
    expected = {repository.get("tacho", f"1.{number}.0").manifest for number in (2, 3, 4)}
    assert sources == {None, *expected}
    for one in index.bundles:
        file = index_file(repository, record).parent / one.name
        assert hashlib.sha256(file.read_bytes()).hexdigest() == one.sha256
        assert f".{one.sha256[:16]}." in one.name
        assert (one.source is None) == (one.manifest is None)
        assert one.size < one.objects.packed + 400 * one.objects.count
    assert repository.bundles.missing(record) is None
    assert [view.kept for view in repository.bundles.views(record)] == [True] * 4
    assert len(index_file(repository, record).read_bytes()) < 1600


def test_a_bundle_that_is_no_smaller_is_not_kept_and_not_made_again(repository: PackageRepository) -> None:
    record = add_release(repository, "tacho", "1.0.0", {"noise": hashlib.shake_256(b"noise").digest(5000)})
    said = make_bundles(repository, record)
    assert [(line.kept) for line in said if isinstance(line, Made)] == [False]
    assert index_of(repository, record).bundles == []
    assert not bundle_files(repository, record, "*.bundle")
    (view,) = repository.bundles.views(record)
    assert not view.kept and view.saved <= 0
    assert make_bundles(repository, record) == []


def test_what_is_missing_is_made_again(repository: PackageRepository) -> None:
    add_release(repository, "tacho", "1.0.0", pages(1))
    record = add_release(repository, "tacho", "1.1.0", pages(2))
    make_bundles(repository, record)
    whole = tree_of(repository.folder / BUNDLES)
    (bundle,) = bundle_files(repository, record, "from-*.bundle")
    bundle.unlink()
    said = make_bundles(repository, record)
    assert len([line for line in said if isinstance(line, Made)]) == 1
    assert tree_of(repository.folder / BUNDLES).keys() == whole.keys()


def test_a_damaged_object_costs_only_its_bundles(repository: PackageRepository) -> None:
    add_release(repository, "tacho", "1.0.0", pages(1))
    record = add_release(repository, "tacho", "1.1.0", pages(2))
    sha256 = hashlib.sha256(str(pages(1)["pages/3.txt"]).encode()).hexdigest()
    (repository.folder / "objects" / sha256[:2] / f"{sha256}.zst").unlink()
    said = make_bundles(repository, record)
    assert any(isinstance(line, Failed) and line.code == "data.bad" for line in said)
    assert [one.source for one in index_of(repository, record).bundles] == [None]


def test_what_is_served_and_how(repository: PackageRepository) -> None:
    add_release(repository, "tacho", "1.0.0", pages(1))
    record = add_release(repository, "tacho", "1.1.0", pages(2))
    make_bundles(repository, record)
    folder = f"bundles/{record.manifest}"
    for file in index_file(repository, record).parent.iterdir():
        path = f"{folder}/{file.name}"
        assert repository.open_file(path) == file
        assert is_immutable(path) == (file.name != "index.json")
    (index_file(repository, record).parent / ".tried.json").write_text("{}")
    for path in (
        f"{folder}/.tried.json",
        f"{folder}/",
        "bundles/index.json",
        f"{folder}/../../x",
        f"{folder}/x.bundle",
    ):
        assert repository.open_file(path) is None


def test_bundles_go_with_their_release(repository: PackageRepository) -> None:
    add_release(repository, "tacho", "1.0.0", pages(1))
    record, kept = (add_release(repository, "tacho", f"1.{n}.0", pages(n + 1)) for n in (1, 2))
    make_bundles(repository, record)
    make_bundles(repository, kept)
    stray = index_file(repository, kept).parent / f"full.{'0' * 16}.bundle"
    stray.write_bytes(b"of an earlier list")
    before = tree_of(index_file(repository, kept).parent)
    stored = [path for path in tree_of(repository.folder / BUNDLES) if path.endswith((".bundle", ".manifest"))]
    assert repository.statistics().bundles == len(stored) == 3 + 5 + 1
    repository.delete("tacho", "1.1.0")
    assert repository.collect_garbage(grace_s=3600).bundles == 0
    repository.collect_garbage(grace_s=0)
    assert not index_file(repository, record).parent.exists()
    assert tree_of(index_file(repository, kept).parent) == {n: d for n, d in before.items() if n != stray.name}


@pytest.mark.parametrize("pattern", ["*.bundle", "*.manifest", "index.json"])
def test_verifying_finds_what_is_damaged(pattern: str, repository: PackageRepository) -> None:
    add_release(repository, "tacho", "1.0.0", pages(1))
    record = add_release(repository, "tacho", "1.1.0", pages(2))
    make_bundles(repository, record)
    assert repository.verify() == []
    file = bundle_files(repository, record, pattern)[0]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(bytes(data) if pattern != "index.json" else b"{")
    assert [problem.where for problem in repository.verify()] == [f"bundles/{record.manifest}/{file.name}"]


# The maker


class Maker:
    """A maker at work, and the processes that it started."""

    def __init__(self, repository: PackageRepository, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
        self.maker = BundleMaker(repository.bundles, channels=repository.channels, workers=1, **options)
        self.stop = asyncio.Event()
        self.started: list[asyncio.subprocess.Process] = []
        self.on_start: Callable[[asyncio.subprocess.Process], None] = lambda _: None
        original = asyncio.create_subprocess_exec

        async def start(*arguments: Any, **more: Any) -> asyncio.subprocess.Process:
            process = await original(*arguments, **more)
            self.started.append(process)
            self.on_start(process)
            return process

        monkeypatch.setattr(asyncio, "create_subprocess_exec", start)
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        self._task = asyncio.create_task(self.maker.run(self.stop))

    async def end(self) -> None:
        self.stop.set()
        assert self._task is not None
        await asyncio.wait_for(self._task, SOON_S)
        for process in self.started:
            await until(partial(_is_gone, process.pid), "the end of the processes", SOON_S)

    async def reaches(self, record: ReleaseRecord, *states: str) -> None:
        await until(lambda: self.maker.state(record).state in states, f"{record.key} {states}", SOON_S)


def _is_gone(group: int) -> bool:
    return not group_alive(group)


async def test_the_maker_makes_what_is_wanted(repository: PackageRepository, monkeypatch: pytest.MonkeyPatch) -> None:
    add_release(repository, "tacho", "1.0.0", pages(1))
    record = add_release(repository, "tacho", "1.1.0", pages(2))
    at_work = Maker(repository, monkeypatch, last=1)
    at_work.maker.want(record)
    assert at_work.maker.state(record).state == "waiting"
    at_work.begin()
    await at_work.reaches(record, "made")
    told = at_work.maker.state(record)
    assert (told.done, told.wanted, told.failures) == (2, 2, [])
    assert {view.source for view in told.bundles} == {"1.0.0", None}
    assert len(at_work.started) == 1
    await at_work.end()


async def test_a_maker_that_is_killed_leaves_nothing_and_another_goes_on(
    repository: PackageRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_release(repository, "tacho", "1.0.0", pages(1))
    record = add_release(repository, "tacho", "1.1.0", pages(2))
    at_work = Maker(repository, monkeypatch, last=1)
    at_work.on_start = lambda process: os.kill(process.pid, signal.SIGKILL)
    at_work.begin()
    await at_work.reaches(record, "failed")
    assert "ended early" in at_work.maker.state(record).failures[0]
    await at_work.end()
    assert not bundle_files(repository, record, "*.bundle")
    monkeypatch.undo()
    # the next start finds what is missing by itself
    again = Maker(repository, monkeypatch, last=1)
    again.begin()
    await until(lambda: len(again.maker.state(record).bundles) == 2, "both bundles", SOON_S)
    await again.reaches(record, "made")
    await again.end()
    assert repository.verify() == []
    assert not [path for path in tree_of(repository.folder) if path.startswith(".staging")]


async def test_making_ends_though_a_cancellation_gets_lost(
    repository: PackageRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = add_release(repository, "tacho", "1.0.0", pages(1))
    at_work = Maker(repository, monkeypatch)
    making = asyncio.Event()

    async def lose_it(record: ReleaseRecord) -> None:
        making.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    monkeypatch.setattr(at_work.maker, "_make", lose_it)
    at_work.maker.want(record)
    at_work.begin()
    await asyncio.wait_for(making.wait(), SOON_S)
    await at_work.end()


async def test_the_end_of_the_controller_is_the_end_of_making(
    repository: PackageRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = add_release(repository, "tacho", "1.0.0", pages(1))
    at_work = Maker(repository, monkeypatch)
    at_work.maker.want(record)
    at_work.begin()
    await at_work.reaches(record, "making")
    await at_work.end()
    repository.collect_garbage(grace_s=0)
    assert not [path for path in tree_of(repository.folder) if path.startswith(".staging")]


async def test_a_process_that_falls_silent_is_ended(
    repository: PackageRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = add_release(repository, "tacho", "1.0.0", pages(1))
    at_work = Maker(repository, monkeypatch)
    at_work.on_start = lambda process: os.kill(process.pid, signal.SIGSTOP)
    monkeypatch.setattr(bundle_maker, "SILENCE_S", 0.2)
    at_work.maker.want(record)
    at_work.begin()
    await at_work.reaches(record, "failed")
    assert "silent" in at_work.maker.state(record).failures[0]
    await at_work.end()


def test_what_failed_is_remembered_and_tried_again_later_and_later(
    repository: PackageRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1_800_000_000.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    add_release(repository, "tacho", "1.0.0", pages(1))
    record = add_release(repository, "tacho", "1.1.0", pages(2))
    object_file = damage(repository)
    assert [line.number for line in make_bundles(repository, record) if isinstance(line, Failed)] == [0]
    (failed,) = repository.bundles.failed(record)
    assert (failed.source, failed.attempts) == ("1.0.0", 1)
    assert "missing or damaged" in failed.reason or "cannot be read" in failed.reason
    # the first failure may be chance; then it waits, and longer each time
    for attempts, wait_s in ((2, 3600), (3, 7200), (4, 14_400)):
        assert [line for line in make_bundles(repository, record) if isinstance(line, Failed)]
        (failed,) = repository.bundles.failed(record)
        assert failed.attempts == attempts
        assert failed.again_at.timestamp() == clock[0] + wait_s
        clock[0] += wait_s - 1
        assert repository.bundles.missing(record) is None
        clock[0] += 2
    object_file.with_suffix(".away").rename(object_file)
    assert [line.number for line in make_bundles(repository, record) if isinstance(line, Made)] == [0]
    assert repository.bundles.failed(record) == []


def damage(repository: PackageRepository) -> Path:
    """Take away an object that only 1.0.0 has."""
    sha256 = hashlib.sha256(str(pages(1)["pages/3.txt"]).encode()).hexdigest()
    file = repository.folder / "objects" / sha256[:2] / f"{sha256}.zst"
    file.rename(file.with_suffix(".away"))
    return file


async def test_what_keeps_failing_is_not_made_at_every_start_but_when_asked_again(
    repository: PackageRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_release(repository, "tacho", "1.0.0", pages(1))
    record = add_release(repository, "tacho", "1.1.0", pages(2))
    object_file = damage(repository)
    for start in (1, 2):
        at_work = Maker(repository, monkeypatch, last=1)
        at_work.begin()
        await until(lambda: _attempts(repository, record) == start, f"attempt {start}", SOON_S)  # noqa: B023  # awaited
        await at_work.reaches(record, "failed")
        await at_work.end()
        monkeypatch.undo()
    at_work = Maker(repository, monkeypatch, last=1)
    told = at_work.maker.state(record)
    assert (told.state, [one.attempts for one in told.failed]) == ("failed", [2])
    at_work.begin()
    at_work.maker.want(record)
    await at_work.reaches(record, "failed")
    assert at_work.started == []
    object_file.with_suffix(".away").rename(object_file)
    at_work.maker.again(record)
    await at_work.reaches(record, "made")
    assert len(at_work.started) == 1
    assert {view.source for view in at_work.maker.state(record).bundles} == {"1.0.0", None}
    assert at_work.maker.state(record).failed == []
    await at_work.end()


def _attempts(repository: PackageRepository, record: ReleaseRecord) -> int:
    return sum(one.attempts for one in repository.bundles.failed(record))


async def test_a_process_that_is_killed_is_remembered_for_what_it_was_making(
    repository: PackageRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = add_release(repository, "tacho", "1.0.0", pages(1))
    at_work = Maker(repository, monkeypatch)
    at_work.on_start = lambda process: os.kill(process.pid, signal.SIGKILL)
    at_work.begin()
    await until(lambda: _attempts(repository, record) == 1, "the failure", SOON_S)
    (failed,) = repository.bundles.failed(record)
    assert failed.source is None
    assert "ended early" in failed.reason
    await at_work.end()


async def test_without_bundles_none_are_made(repository: PackageRepository, monkeypatch: pytest.MonkeyPatch) -> None:
    record = add_release(repository, "tacho", "1.0.0", pages(1))
    at_work = Maker(repository, monkeypatch, last=0)
    at_work.begin()
    at_work.maker.want(record)
    await asyncio.sleep(0)
    assert at_work.maker.state(record).state == "made"
    await at_work.end()
    assert at_work.started == []
    assert not (repository.folder / BUNDLES).exists()


def test_only_likely_releases_are_looked_at_after_a_start(repository: PackageRepository) -> None:
    for version in ("1.0.0", "1.1.0", "1.2.0", "1.3.0-rc.1"):
        add_release(repository, "tacho", version, pages(1, count=1))
    repository.set_channel("tacho", "1.1.0", "stable")
    found = {record.version for record in repository.bundles.worth_looking_at(repository.channels())}
    assert found == {"1.1.0", "1.3.0-rc.1"}


def test_a_list_of_bundles_is_compact_json(repository: PackageRepository) -> None:
    record = add_release(repository, "tacho", "1.0.0", pages(1))
    make_bundles(repository, record)
    data = index_file(repository, record).read_bytes()
    assert data == msgspec.json.encode(msgspec.json.decode(data))


async def test_a_line_without_end_ends_no_more_than_the_making(
    repository: PackageRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the process says, the controller goes on."""
    record = add_release(repository, "tacho", "1.0.0", pages(1))
    at_work = Maker(repository, monkeypatch)
    monkeypatch.setattr(bundle_maker, "MAX_LINE", 10)
    at_work.maker.want(record)
    at_work.begin()
    await at_work.reaches(record, "failed")
    assert "in a line" in at_work.maker.state(record).failures[0]
    await at_work.end()
