"""Several writers at once, in threads and in processes of their own."""

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.synchronize import Barrier
from pathlib import Path

from schemas.errors import PublisherError
from tests.support.repository import add_release, first_start, make_package, make_repository

SHARED = {f"shared/{i}": f"shared {i}" * 50 for i in range(40)}


def in_processes(target: Callable[..., None], *argument_lists: tuple[object, ...]) -> list[int | None]:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(len(argument_lists))
    processes = [context.Process(target=target, args=(barrier, *arguments)) for arguments in argument_lists]
    for process in processes:
        process.start()
    for process in processes:
        process.join(90)
    return [process.exitcode for process in processes]


def push(start: Barrier, folder: Path, name: str, count: int) -> None:
    start.wait(60)
    repository = first_start(folder)
    for number in range(count):
        add_release(repository, name, f"1.0.{number}", SHARED | {"own": f"{name} {number}"})


def push_one(start: Barrier, folder: Path, package: Path) -> None:
    repository = first_start(folder)
    start.wait(60)
    try:
        repository.add(package)
    except PublisherError as error:
        assert error.code == "release.exists"
        raise SystemExit(7) from error


def test_processes_that_begin_on_an_empty_folder_all_succeed(tmp_path: Path) -> None:
    pushes = [(tmp_path, name, 4) for name in ("tacho", "radio", "tacho")]
    assert in_processes(push, *pushes) == [0, 0, 0]
    repository = make_repository(tmp_path)
    assert len(repository.search()) == 8
    assert repository.statistics().objects == 40 + 8
    assert repository.verify() == []
    assert list((repository.folder / ".staging").iterdir()) == []


def test_of_two_contents_for_one_version_exactly_one_wins(tmp_path: Path) -> None:
    folders = [tmp_path / str(i) for i in range(3)]
    for number, folder in enumerate(folders):
        folder.mkdir()
        make_package(folder, "tacho", "1.0.0", {"a": str(number)})
    packages = [next(folder.iterdir()) for folder in folders]
    codes = in_processes(push_one, *((tmp_path / "data", package) for package in packages))
    assert sorted(code or 0 for code in codes) == [0, 7, 7]
    repository = make_repository(tmp_path / "data")
    assert repository.verify() == []
    (record,) = repository.search()
    winner = repository.manifest(record).files[0].sha256
    assert winner in {path.stem for path in (repository.folder / "objects").rglob("*.zst")}


def test_threads_may_share_one_repository(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    names = [f"package-{i}" for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        done = [
            pool.submit(add_release, repository, name, f"{number}.0.0", SHARED | {"own": name})
            for number in range(3)
            for name in names
        ]
        records = [future.result(60) for future in done]
    assert {r.key for r in repository.search()} == {r.key for r in records}
    assert len(records) == 12
    assert repository.verify() == []


def test_garbage_collection_never_takes_what_a_push_needs(tmp_path: Path) -> None:
    """It may take an old object just when a push has decided to use it; then the push stores it again."""
    repository = make_repository(tmp_path)
    add_release(repository, "tacho", "1.0.0", SHARED)
    for number in range(1, 9):
        repository.delete("tacho", f"{number}.0.0")
        for path in (repository.folder / "objects").rglob("*.zst"):
            os.utime(path, (0, 0))
        with ThreadPoolExecutor(2) as pool:
            collected = pool.submit(repository.collect_garbage)
            pool.submit(add_release, repository, "tacho", f"{number + 1}.0.0", SHARED).result(60)
            assert 0 <= collected.result(60).objects <= len(SHARED)
        assert repository.verify() == []
    assert [record.version for record in repository.search()] == ["9.0.0"]
