"""Old releases go; what a channel, a device, an announcement or a pin needs stays, whatever the rules say."""

import os
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import timedelta

import pytest
from sqlalchemy import Connection, Engine

from controller.database import writing
from controller.repository import channels, index
from controller.repository.package_repository import PackageRepository
from controller.repository.retention import Retired, Rules
from schemas.errors import OperatorError
from tests.support.repository import add_release, tree_of
from tests.unit.repository.conftest import Clock

MANY = [f"1.{minor}.0" for minor in range(10)]


@pytest.fixture
def stocked(repository: PackageRepository, clock: Clock) -> PackageRepository:
    """Ten versions of tacho, ten days apart; each was on stable once, the last three not."""
    for version in MANY:
        add_release(repository, "tacho", version, {"v": version * 100, "shared": "shared"})
        if version < "1.7":
            repository.set_channel("tacho", version, "stable")
        clock.advance(days=10)
    clock.advance(days=200)
    return repository


def retire(
    repository: PackageRepository,
    *,
    keep: int = 1,
    days: float = 1,
    in_use: Mapping[str, set[str]] | None = None,
    dry_run: bool = False,
) -> Retired:
    return repository.retire(Rules(keep=keep, younger_than=timedelta(days=days)), lambda: in_use or {}, dry_run=dry_run)


def left(repository: PackageRepository) -> list[str]:
    return [record.version for record in repository.search("tacho", yanked=True)]


def test_the_last_of_each_channel_and_the_newest_of_all_stay(stocked: PackageRepository) -> None:
    gone = retire(stocked, keep=2)
    assert left(stocked) == ["1.9.0", "1.8.0", "1.6.0", "1.5.0"]
    assert gone.releases == [
        f"tacho@{version}@any" for version in ("1.0.0", "1.1.0", "1.2.0", "1.3.0", "1.4.0", "1.7.0")
    ]
    assert (gone.kept, gone.done) == (4, True)
    assert stocked.verify() == []


def test_what_devices_need_stays(stocked: PackageRepository) -> None:
    retire(stocked, in_use={"tacho": {"1.0.0", "1.3.0", "9.9.9"}, "radio": {"1.1.0"}})
    assert left(stocked) == ["1.9.0", "1.6.0", "1.3.0", "1.0.0"]


def test_what_is_young_stays(stocked: PackageRepository) -> None:
    retire(stocked, days=200 + 35)
    assert left(stocked) == ["1.9.0", "1.8.0", "1.7.0", "1.6.0"]


def test_a_yanked_version_takes_nobodys_place(stocked: PackageRepository) -> None:
    stocked.yank("tacho", "1.9.0")
    retire(stocked)
    assert left(stocked) == ["1.8.0", "1.6.0"]


def test_a_dry_run_changes_nothing_and_tells_the_bytes_to_the_last(stocked: PackageRepository, clock: Clock) -> None:
    before = tree_of(stocked.folder)
    said = retire(stocked, keep=2, dry_run=True)
    assert not said.done
    assert tree_of(stocked.folder) == before
    done = retire(stocked, keep=2)
    assert (done.releases, done.freed_bytes) == (said.releases, said.freed_bytes)
    clock.advance(days=2)
    stocked.collect_garbage(grace_s=0)
    after = tree_of(stocked.folder)
    contents = [name for name in before if not name.startswith("metadata/") and name not in after]
    assert sum(len(before[name]) for name in contents) == said.freed_bytes


def test_what_a_running_fetch_needs_stays_for_a_day(stocked: PackageRepository, clock: Clock) -> None:
    old = {name for name in tree_of(stocked.folder) if not name.startswith("metadata/")}
    for path in stocked.folder.rglob("*"):
        long_ago = time.time() - 10 * 86_400
        os.utime(path, (long_ago, long_ago))
    retire(stocked)
    assert stocked.collect_garbage().objects == 0
    assert old <= tree_of(stocked.folder).keys()
    clock.advance(days=1, minutes=1)
    assert stocked.collect_garbage().objects == 8
    assert stocked.verify() == []


def test_the_metadata_is_signed_once_for_all(stocked: PackageRepository) -> None:
    before = {name for name in tree_of(stocked.folder) if name.startswith("metadata/")}
    retire(stocked)
    new = {name for name in tree_of(stocked.folder) if name.startswith("metadata/")} - before
    assert sorted(name.partition(".")[2] for name in new) == ["package-tacho.json", "snapshot.json"]


@pytest.mark.parametrize(("keep", "days"), [(0, 1), (1001, 1), (1, -1), (1, 40_000)])
def test_rules_that_make_no_sense_are_refused(stocked: PackageRepository, keep: int, days: float) -> None:
    with pytest.raises(OperatorError) as caught:
        retire(stocked, keep=keep, days=days)
    assert caught.value.code == "input.bad"
    assert left(stocked) == MANY[::-1]


def test_many_releases_go_in_a_few_writes(stocked: PackageRepository, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each write waits for the disk, under the lock that every push waits for."""
    writes = 0

    def counted(engine: Engine) -> AbstractContextManager[Connection]:
        nonlocal writes
        writes += 1
        return writing(engine)

    for module in (index, channels):
        monkeypatch.setattr(module, "writing", counted)
    monkeypatch.setattr(index, "_BATCH", 3)
    assert len(retire(stocked).releases) == 8
    assert writes <= 3
    assert left(stocked) == ["1.9.0", "1.6.0"]
    assert stocked.verify() == []
