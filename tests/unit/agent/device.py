"""A whole device for tests: the real engine on a real folder, with fakes at its seams. It can lose power."""

import asyncio
import hashlib
import itertools
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from device_agent.durability import Space
from device_agent.journal import Journal
from device_agent.layout import DeviceFolders, installed_mode
from device_agent.store import ReleaseStore
from device_agent.update_manager import UpdateManager
from device_agent.updates import DeviceProfile, Submitted, Update, UpdateRequest
from schemas.codec import decode
from schemas.messages import LAST_WORDS, Phase, UpdateEvent
from tests.unit.agent.fakes import (
    CutJournal,
    FakeClock,
    FakeHooks,
    FakeProbe,
    FakeServices,
    FakeTemplates,
    Power,
    PowerCutError,
    Shelf,
)
from tests.unit.agent.releases import PLATFORM, Built, expected_tree, tree_of

LIMIT_S = 30.0
_numbers = itertools.count(1)
PLENTY = Space(free=10**12, inodes=10**9, block=4096)


def rollout(number: int) -> str:
    """A rollout's id."""
    return f"018f0000-0000-7000-8000-{number:012x}"


class Device:
    """See the module."""

    def __init__(self, root: Path, **options: Any) -> None:
        self.root = root
        self.boot_id = "boot-1"
        self.folders = DeviceFolders(root)
        self.power = Power()
        self.clock = FakeClock()
        self.shelf = Shelf(self.power)
        self.hooks = FakeHooks(self.power)
        self.services = FakeServices(self.power)
        self.probe = FakeProbe(self.power)
        self.space = PLENTY
        self.flushes = 0
        self.options: dict[str, Any] = {"link_install_path": False, **options}
        self.profile = DeviceProfile(device="pi-1", platform=PLATFORM, agent_version="1.0.0", facts={"model": "Pi 4"})
        self.profile_of: Callable[[], DeviceProfile] = lambda: self.profile
        self.troubles: list[str] = []
        self._journal: CutJournal | None = None
        self._manager: UpdateManager | None = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def journal(self) -> Journal:
        assert self._journal is not None
        return self._journal

    @property
    def manager(self) -> UpdateManager:
        assert self._manager is not None
        return self._manager

    async def start(self, *, serve: bool = True) -> "Device":
        """The agent starts, as a new process would."""
        self._journal = CutJournal(self.root, self.power, device="pi-1", boot_id=self.boot_id)
        self._manager = UpdateManager(
            root=self.root,
            journal=self._journal,
            sources=self.shelf.source,
            hooks=self.hooks,
            services=self.services,
            probe=self.probe,
            templates=FakeTemplates(self.power),
            profile=self._profile,
            clock=self.clock,
            random_bytes=self._random_bytes,
            store=ReleaseStore(self.root, space=lambda _: self.space, flush=self._flush),
            **self.options,
        )
        self.troubles = await self._manager.recover()
        if serve:
            self._serving = asyncio.create_task(self._manager.serve())
        return self

    async def stop(self) -> None:
        """The agent ends in good order."""
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.wait([self._serving])
        self._close()

    async def lose_power(self) -> str:
        """Wait for the power cut that was arranged; gives where it was."""
        assert self._serving is not None
        await asyncio.wait([self._serving], timeout=LIMIT_S)
        error = self._serving.exception() if self._serving.done() else None
        assert isinstance(error, PowerCutError), f"the power did not fail: {error!r}"
        self._close()
        self.services.running.clear()
        self.power.back()
        return str(error)

    async def restart(self) -> "Device":
        """Stop and start, as `systemctl restart` does."""
        await self.stop()
        return await self.start()

    async def submit(self, built: Built, number: int = 1, **more: Any) -> Submitted:
        """Ask for a release as an announcement of rollout `number` would (0: no rollout)."""
        self.shelf.put(built)
        return await self.manager.submit(request_for(built, number, **more))

    async def update_to(self, built: Built, number: int = 1, **more: Any) -> Update:
        """Ask for a release and wait for the update's last word."""
        submitted = await self.submit(built, number, **more)
        assert submitted.update is not None, submitted
        return await self.end_of(submitted.update)

    async def end_of(self, update: str) -> Update:
        """An update after its last word, when the engine is at rest."""
        ended = await self.manager.wait(update, LIMIT_S)
        assert ended is not None, f"no last word within {LIMIT_S} s: {self.story()}"
        await self.rest()
        return ended

    async def rest(self) -> None:
        """Wait until nothing is under way."""
        await until(lambda: self.manager.current_update() is None and not self._unfinished(), self._serving)

    async def reaches(self, phase: Phase) -> Update:
        """Wait until the update under way is in a phase."""
        await until(lambda: (u := self.manager.current_update()) is not None and u.phase is phase, self._serving)
        update = self.manager.current_update()
        assert update is not None
        return update

    def events(self) -> list[UpdateEvent]:
        """All events, in order."""
        kept = self.journal.events_after(0, 100_000)
        events = [decode(event.payload, UpdateEvent) for event in kept]
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        return events

    def story(self, update: str | None = None) -> list[str]:
        """The phases that events told of, repeated progress left out."""
        told = [event for event in self.events() if update in (None, event.update)]
        story: list[str] = []
        for event in told:
            word = event.phase.value if update else f"{event.package} {event.version} {event.phase.value}"
            if event.phase is not Phase.FETCHING or not story or story[-1] != word:
                story.append(word)
        return story

    def last_words(self) -> dict[str, list[str]]:
        """Each update's last words; there must be exactly one."""
        words: dict[str, list[str]] = {}
        for event in self.events():
            words.setdefault(event.update, [])
            if event.phase in LAST_WORDS:
                words[event.update].append(event.phase.value)
        return words

    def assert_runs(
        self, *releases: Built, previous: dict[str, Built] | None = None, spare_objects: bool = False
    ) -> None:
        """The device runs exactly these releases, whole, and nothing else is left on its disk.

        Args:
            spare_objects: contents of a failed fetch may be there besides, for the next try.
        """
        assert not self._unfinished()
        assert all(len(words) == 1 for words in self.last_words().values()), self.last_words()
        wanted = {built.package: built for built in releases}
        kept = [*releases, *(previous or {}).values()]
        installs = self.journal.installs()
        assert {name: i.current.manifest for name, i in installs.items()} == {b.package: b.sha256 for b in releases}
        assert {n: i.previous.manifest for n, i in installs.items() if i.previous} == {
            name: built.sha256 for name, built in (previous or {}).items()
        }
        for package in {*wanted, *(path.name for path in self.folders.packages.glob("*"))}:
            self._assert_package(package, wanted.get(package), (previous or {}).get(package))
        assert not list(self.folders.trash.glob("*"))
        self._assert_objects(kept, spare_objects)
        assert {name: dict(running) for name, running in self.services.running.items() if running} == {
            built.package: {service.name: built.version for service in built.manifest.services}
            for built in releases
            if built.manifest.services
        }

    def _assert_package(self, package: str, built: Built | None, previous: Built | None) -> None:
        folders = self.folders.package(package)
        assert not list(folders.staging.glob("*"))
        names = set()
        for one in (built, previous):
            if one is not None:
                release = folders.release(one.version, one.sha256)
                assert tree_of(release) == expected_tree(one, "pi-1"), release
                assert folders.manifest(one.version, one.sha256).read_bytes() == one.plain
                names.add(release.name)
        assert {path.name for path in folders.releases.glob("*")} == names
        assert {
            path.name.partition(".json")[0].removesuffix(".rendered") for path in folders.manifests.glob("*")
        } == names
        if built is None:
            assert not folders.current.is_symlink()
        else:
            assert folders.current.resolve() == folders.release(built.version, built.sha256).resolve()
            for path in built.manifest.state:
                assert (folders.current / path).exists()

    def _assert_objects(self, kept: list[Built], spare: bool) -> None:
        wanted = {
            self.folders.object(entry.sha256, installed_mode(entry.mode)): entry.sha256
            for built in kept
            for entry in built.manifest.files
        }
        found = {path for path in self.folders.objects.rglob("*") if path.is_file()}
        assert set(wanted) <= found
        assert spare or found == set(wanted)
        for path, sha256 in wanted.items():
            assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256

    def _unfinished(self) -> list[Update]:
        return self.journal.unfinished()

    def _close(self) -> None:
        if self._journal is not None:
            with suppress(PowerCutError):  # of a device without power nothing is removed in order
                self._journal.close()
        self._journal = self._manager = self._serving = None

    def _flush(self, _: Path) -> None:
        self.power.point("before flush")
        self.flushes += 1
        self.power.point("after flush")

    def _profile(self) -> DeviceProfile:
        return self.profile_of()  # asked for anew each time: a test may put another in its place

    def _random_bytes(self, count: int) -> bytes:
        return next(_numbers).to_bytes(count, "big") if count > 1 else b"\x80"


def request_for(built: Built, number: int = 1, **more: Any) -> UpdateRequest:
    """The wish that an announcement of rollout `number` stands for (0: no rollout)."""
    wish: dict[str, Any] = {
        "package": built.package,
        "version": built.version,
        "rollout": rollout(number) if number else None,
        "repository": ["https://repo.example/"],
    }
    return UpdateRequest(**{**wish, **more})


async def until(condition: Any, task: asyncio.Task[None] | None = None) -> None:
    """Wait for a condition, within bounds; a task that ended early fails the test at once."""
    deadline = asyncio.get_running_loop().time() + LIMIT_S
    while not condition():
        assert task is None or not task.done(), f"the engine has ended: {task}"
        assert asyncio.get_running_loop().time() < deadline, "the condition never came true"
        await asyncio.sleep(0.002)
