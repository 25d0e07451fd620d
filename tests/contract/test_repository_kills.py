"""A process that is killed anywhere leaves a repository in which a change has wholly happened or not at all.

The child process counts every step that changes a name in the file system or commits to the database, and
kills itself by SIGKILL just before the chosen one: so each test goes through all of them, one by one.
"""

import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine, event

from controller.repository.metadata import TrustedMetadata
from controller.repository.package_repository import PackageRepository
from tests.support.repository import add_release, first_start, make_package, make_repository, tree_of

STEPS = {"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir"}
MOST_STEPS = 80

Action = Callable[[Path], None]


def kill_before(number: int) -> None:
    """Have this process killed before its step `number`, counted from 1."""
    count = 0

    def step(*_: object) -> None:
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(name: str, _: object) -> None:
        if name in STEPS:
            step()

    event.listen(Engine, "commit", step)
    sys.addaudithook(audit)


def child(action: Action, folder: Path, number: int) -> None:
    kill_before(number)
    action(folder)


def run_killed(action: Action, folder: Path, number: int) -> bool:
    """Run an action in a process that dies before step `number`; whether it got that far."""
    # Forked, as importing everything anew for each of the many steps would take most of the time.
    process = multiprocessing.get_context("fork").Process(target=child, args=(action, folder, number))
    process.start()
    process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def push_new_package(folder: Path) -> None:
    make_repository(folder).add(folder / "radio-1.0.0-any.flotilla")


def push_version(folder: Path) -> None:
    make_repository(folder).add(folder / "tacho-1.1.0-any.flotilla")


def delete_version(folder: Path) -> None:
    make_repository(folder).delete("tacho", "1.0.0", force=True)


def create(folder: Path) -> None:
    first_start(folder)


def rotate(folder: Path) -> None:
    make_repository(folder).rotate_root_key()


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """A data folder with a release and a channel, and two packages to push."""
    folder = tmp_path / "template"
    repository = make_repository(folder)
    add_release(repository, "tacho", "1.0.0", {"a": "a", "b": "b"})
    repository.set_channel("tacho", "1.0.0", "stable")
    make_package(folder, "radio", "1.0.0", {"a": "a", "r": "r"})
    make_package(folder, "tacho", "1.1.0", {"a": "a", "c": "c"})
    return folder


def state(repository: PackageRepository) -> tuple[set[str], set[str], bool]:
    """What is signed, what is indexed, and whether the channel points anywhere."""
    signed = TrustedMetadata(repository.folder / "metadata").all_targets()
    indexed = {f"{record.key}.json.zst" for record in repository.search()}
    return set(signed), indexed, repository.channel_of("tacho", "stable") is not None


@pytest.mark.parametrize("action", [push_new_package, push_version, delete_version])
def test_a_change_that_is_killed_anywhere_has_happened_or_not(tmp_path: Path, template: Path, action: Action) -> None:
    outcomes = []
    for number in range(1, MOST_STEPS):
        folder = tmp_path / str(number)
        shutil.copytree(template, folder)
        before = state(make_repository(folder))
        killed = run_killed(action, folder, number)
        repository = make_repository(folder)
        after = state(repository)
        assert after[0] == after[1], f"killed before step {number}"
        assert repository.verify() == []
        outcomes.append(after != before)
        assert list((repository.folder / ".staging").iterdir()) == []
        if not killed:
            break
        if after == before:
            action(folder)
            assert state(repository) != before
            assert repository.verify() == []
    assert not killed, "it has more steps than were tried"
    # Not at all up to one step, wholly from there on.
    assert outcomes == sorted(outcomes)
    assert len(outcomes) >= 8
    assert outcomes.count(True) >= 2


def test_nobody_sees_anything_of_a_push_before_it_has_happened(tmp_path: Path, template: Path) -> None:
    """What a device reads first is the timestamp; and what was there before is never touched."""
    for number in range(1, MOST_STEPS):
        folder = tmp_path / str(number)
        shutil.copytree(template, folder)
        watching = make_repository(folder)
        before, listed = tree_of(watching.folder), watching.search()
        killed = run_killed(push_version, folder, number)
        after = tree_of(watching.folder)
        changed = {name for name, data in before.items() if after.get(name) != data}
        assert changed <= {"metadata/timestamp.json"}
        if not changed:
            assert watching.search() == listed
        if not killed:
            break
    assert changed


def test_a_first_start_that_is_killed_anywhere_is_finished_by_the_next(tmp_path: Path) -> None:
    for number in range(1, MOST_STEPS):
        folder = tmp_path / str(number)
        folder.mkdir()
        killed = run_killed(create, folder, number)
        roots = tree_of(folder).get("repository/metadata/1.root.json")
        repository = first_start(folder)
        assert roots in (None, repository.trusted_root())
        assert repository.verify() == []
        assert add_release(repository, "tacho", "1.0.0", {"a": "a"}).version == "1.0.0"
        if not killed:
            break
    assert not killed
    assert number > 10


def test_a_new_root_key_that_is_killed_anywhere_leaves_a_root_that_can_sign(tmp_path: Path) -> None:
    for number in range(1, MOST_STEPS):
        folder = tmp_path / str(number)
        make_repository(folder)
        killed = run_killed(rotate, folder, number)
        repository = make_repository(folder)
        assert repository.verify() == []
        repository.rotate_root_key()
        assert repository.verify() == []
        if not killed:
            break
    assert not killed
    assert number >= 4
