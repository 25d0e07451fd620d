"""The agent's own package: what of it is taken, what is noted around its switch, what its journal keeps to."""

import asyncio
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from device_agent.agent_child import FOLDER, HEALTHY, PIPE, RELEASE
from device_agent.agent_db import DATABASE, SCHEMA_VERSION
from device_agent.agent_package import JOURNAL_TAG, PROGRAM, check_agent_package
from device_agent.cli.launch import chosen
from device_agent.journal import Journal
from device_agent.lifecycle import Outcome
from device_agent.requirements import check_requirements
from device_agent.seams import ReleaseContext
from device_agent.self_update import SelfUpdate, WatchedStore, launched_release
from device_agent.trial import Trial, read_trial, write_trial
from device_agent.updates import DeviceProfile, Install, Release, UpdateRequest
from schemas.errors import DeviceError, FlotillaError, PublisherError
from schemas.layout import release_folder
from schemas.manifest import MANIFEST_FORMAT, FileEntry, Manifest
from schemas.messages import Phase

PACKAGE = "flotilla-agent"
NOW = datetime(2026, 3, 1, tzinfo=UTC)
SHA = {"1.0.0": "a" * 64, "2.0.0": "b" * 64}
OLD, NEW = (release_folder(version, sha) for version, sha in SHA.items())


def manifest(mode: int = 0o755, path: str = PROGRAM, tags: tuple[str, ...] = (JOURNAL_TAG,)) -> Manifest:
    program = FileEntry(path=path, size=1, sha256="c" * 64, mode=mode)
    return Manifest(
        format=MANIFEST_FORMAT, package=PACKAGE, version="2.0.0", platform="any", files=[program], tags=list(tags)
    )


def test_a_release_of_the_agent_that_can_be_started_and_gone_back_from_is_taken() -> None:
    check_agent_package(manifest(), launched=True)


@pytest.mark.parametrize(
    ("wanted", "launched", "code", "words"),
    [
        (manifest(), False, "requires.launcher", "flotilla-agent launch"),
        (manifest(tags=()), True, "requires.agent", JOURNAL_TAG),
        (manifest(tags=(f"agent-journal-{SCHEMA_VERSION + 1}",)), True, "requires.agent", "might not read the journal"),
        (manifest(mode=0o644), True, "manifest.bad", "not executable"),
        (manifest(path="bin/other"), True, "manifest.bad", "no program"),
    ],
)
def test_any_other_is_refused_before_anything_is_fetched(
    wanted: Manifest, launched: bool, code: str, words: str
) -> None:
    profile = DeviceProfile(
        device="pi-1", platform="linux-x86_64", agent_version="1.0.0", agent_package=PACKAGE, launched=launched
    )
    with pytest.raises(FlotillaError, match=words) as refused:
        check_requirements(wanted, profile, {})
    assert refused.value.code == code
    check_requirements(wanted, DeviceProfile(device="pi-1", platform="linux-x86_64", agent_version="1.0.0"), {})


class Own:
    """A root folder with two releases of the agent, and `SelfUpdate` as the agent of one of them has it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "packages" / PACKAGE
        for release in (OLD, NEW):
            (self.folder / "releases" / release).mkdir(parents=True)
        self.said: list[str] = []
        self.journal = Journal(root, device="pi-1")
        self.link(OLD)

    def link(self, release: str) -> None:
        link = self.folder / "current"
        link.unlink(missing_ok=True)
        link.symlink_to(f"releases/{release}")

    def agent(self, release: str | None) -> SelfUpdate:
        return SelfUpdate(
            root=self.root, package=PACKAGE, journal=self.journal, release=release, start_s=9, tell=self.said.append
        )

    def context(self, version: str) -> ReleaseContext:
        return ReleaseContext(
            package=PACKAGE, version=version, folder=self.folder / "current", state_folder=self.folder / "state"
        )

    def switch(self, agent: SelfUpdate, version: str) -> None:
        WatchedStore(self.root, agent).point_to(PACKAGE, version, SHA[version])

    @property
    def linked(self) -> str:
        return (self.folder / "current").readlink().name


@pytest.fixture
def own(tmp_path: Path) -> Own:
    return Own(tmp_path / "root")


async def test_the_trial_is_noted_before_the_link_changes(own: Own, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = own.agent(OLD)
    agent.connected = lambda: True
    monkeypatch.setattr("device_agent.store.replace_link", lambda *_: pytest.fail("the power went"))
    with pytest.raises(pytest.fail.Exception):
        own.switch(agent, "2.0.0")
    trial = read_trial(own.root)
    assert trial is not None
    assert (trial.source, trial.target, trial.version) == (OLD, NEW, "2.0.0")
    assert (trial.within_s, trial.must_connect, trial.starts, trial.failed) == (9, True, 0, "")
    assert own.linked == OLD


async def test_the_agent_that_has_switched_leaves_and_says_nothing_about_the_new_one(own: Own) -> None:
    agent = own.agent(OLD)
    own.switch(agent, "2.0.0")
    checking = asyncio.create_task(agent.check(own.context("2.0.0")))
    await asyncio.wait_for(agent.leaving.wait(), 10)
    assert not checking.done()
    checking.cancel()


async def test_the_new_agent_is_well_once_it_has_reached_the_broker(own: Own) -> None:
    before = own.agent(OLD)
    before.connected = lambda: True
    own.switch(before, "2.0.0")
    agent = own.agent(NEW)
    with pytest.raises(DeviceError, match="has not reached the broker") as refused:
        await agent.check(own.context("2.0.0"))
    assert refused.value.code == "service.agent"
    agent.connected = lambda: True
    await agent.check(own.context("2.0.0"))
    agent.connected = lambda: False  # from then on it may be the broker that is away, also after a restart
    await agent.check(own.context("2.0.0"))
    await own.agent(NEW).check(own.context("2.0.0"))
    agent.passed()
    assert own.said == [HEALTHY]


async def test_where_the_old_agent_had_no_broker_the_new_one_needs_none(own: Own) -> None:
    own.switch(own.agent(OLD), "2.0.0")
    await own.agent(NEW).check(own.context("2.0.0"))


def give_up(own: Own) -> None:
    """As the launcher does."""
    trial = read_trial(own.root)
    assert trial is not None
    trial.failed, trial.log_tail = "the agent's release 2.0.0 ended with status 1", "why"
    write_trial(own.root, trial)
    own.link(OLD)


async def test_the_agent_that_was_brought_back_says_why(own: Own) -> None:
    own.switch(own.agent(OLD), "2.0.0")
    give_up(own)
    agent = own.agent(OLD)
    with pytest.raises(PublisherError, match="ended with status 1") as refused:
        await agent.check(own.context("2.0.0"))
    assert (refused.value.code, refused.value.log_tail) == ("service.agent", "why")
    await agent.check(own.context("1.0.0"))  # as the rollback asks: it is this one
    assert not agent.leaving.is_set()


async def test_what_the_launcher_gave_up_is_not_linked_again(own: Own) -> None:
    own.switch(own.agent(OLD), "2.0.0")
    give_up(own)
    with pytest.raises(DeviceError, match="ended with status 1"):
        own.switch(own.agent(OLD), "2.0.0")
    assert own.linked == OLD


async def watched(agent: SelfUpdate, until: Callable[[], Any]) -> None:
    watching = asyncio.create_task(agent.watch())
    async with asyncio.timeout(10):
        while not until():  # noqa: ASYNC110  # a file
            await asyncio.sleep(0.01)
    watching.cancel()


async def test_the_trial_is_over_when_the_update_is(own: Own) -> None:
    own.switch(own.agent(OLD), "2.0.0")
    update = own.journal.begin(UpdateRequest(package=PACKAGE, version="2.0.0"), Outcome.ACCEPT, update="u" * 8, at=NOW)
    agent = own.agent(NEW)
    watching = asyncio.create_task(agent.watch())
    await asyncio.sleep(0.1)
    assert read_trial(own.root) is not None
    own.journal.advance(update.id, Outcome.CANCEL, at=NOW)
    async with asyncio.timeout(10):
        while own.said != [HEALTHY]:  # noqa: ASYNC110  # another thread's
            await asyncio.sleep(0.01)
    watching.cancel()
    assert read_trial(own.root) is None


async def test_after_going_back_to_nothing_it_is_the_installations_turn(own: Own) -> None:
    agent = own.agent(OLD)
    WatchedStore(own.root, agent).point_nowhere(PACKAGE)
    trial = read_trial(own.root)
    assert trial is not None
    assert (trial.source, trial.target) == (OLD, "")
    await watched(agent, agent.leaving.is_set)
    await watched(own.agent(""), lambda: read_trial(own.root) is None)


async def test_an_agent_without_a_launcher_leaves_no_trial_and_proves_nothing(own: Own) -> None:
    agent = own.agent(None)
    own.switch(agent, "2.0.0")
    assert read_trial(own.root) is None
    with pytest.raises(DeviceError, match="not started by its launcher"):
        await agent.check(own.context("2.0.0"))


def test_only_a_launcher_for_this_folder_and_package_counts(tmp_path: Path) -> None:
    given = {PIPE: "5", FOLDER: str(tmp_path / "packages" / PACKAGE), RELEASE: OLD}
    assert launched_release(given, tmp_path, PACKAGE) == OLD
    assert launched_release({**given, RELEASE: ""}, tmp_path, PACKAGE) == ""
    assert launched_release(given, tmp_path, "other") is None
    assert launched_release(given, tmp_path / "other", PACKAGE) is None
    assert launched_release({}, tmp_path, PACKAGE) is None


@pytest.mark.parametrize(
    ("arguments", "root", "package"),
    [
        ([], "{folder}/data", "own"),
        (["--root", "/r"], "/r", "own"),
        (["--root=/r", "--agent-package", "a"], "/r", "a"),
    ],
)
def test_the_launcher_needs_two_keys_and_refuses_none(
    tmp_path: Path, arguments: list[str], root: str, package: str
) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('key_of_a_newer_agent = 1\nroot = "data"\n[policy]\nagent_package = "own"\n')
    assert chosen([*arguments, "--config", str(file)]) == (Path(root.format(folder=tmp_path)), package)
    file.write_text("not toml")
    assert chosen(["--config", str(file)]) == (Path("/var/lib/flotilla"), PACKAGE)


def test_what_a_newer_agent_may_add_to_the_journal_does_not_keep_this_one_from_going_on(tmp_path: Path) -> None:
    with Journal(tmp_path, device="pi-1") as journal:
        journal.begin(UpdateRequest(package="tacho", version="1.0.0"), Outcome.ACCEPT, update="1" * 8, at=NOW)
    database = sqlite3.connect(tmp_path / DATABASE)
    with database:
        for table in ("updates", "installs", "verdicts", "events", "counters", "notes"):
            database.execute(f"ALTER TABLE {table} ADD COLUMN added TEXT NOT NULL DEFAULT 'x'")
        database.execute("CREATE TABLE added (key TEXT PRIMARY KEY)")
        database.execute("CREATE INDEX added_index ON updates (added)")
        (body,) = database.execute("SELECT body FROM updates").fetchone()
        database.execute("UPDATE updates SET body = ?", (body.replace("{", '{"added":{"deep":[1]},', 1),))
    database.close()
    with Journal(tmp_path, device="pi-1") as journal:
        (update,) = journal.unfinished()
        journal.advance(update.id, Outcome.START, at=NOW, changes={"manifest": "a" * 64})
        journal.advance(update.id, Outcome.DONE, at=NOW)
        release = Release(version="1.0.0", manifest="a" * 64, installed_at=NOW)
        journal.advance(update.id, Outcome.DONE, at=NOW, install=Install(package="tacho", current=release))
        journal.advance(update.id, Outcome.DONE, at=NOW)
        journal.advance(update.id, Outcome.DONE, at=NOW)
        journal.set_note("a", "b")
        journal.next_session()
        journal.mark_sent([1])
        assert journal.last_seq() == 6
        assert journal.installed()["tacho"].phase is Phase.SUCCEEDED


def test_a_trial_is_kept_as_it_was_noted(tmp_path: Path) -> None:
    trial = Trial(target=NEW, source="", version="2.0.0", within_s=5, must_connect=True, log_tail="\U0001f600" * 20_000)
    write_trial(tmp_path, trial)
    kept = read_trial(tmp_path)
    assert kept is not None
    assert vars(kept) == {**vars(trial), "log_tail": "\U0001f600" * 8192}
