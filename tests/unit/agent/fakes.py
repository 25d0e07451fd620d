"""Fakes of the update engine's seams. Each says what it does to one list of calls, and any call can be a power cut."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from device_agent.journal import Journal
from device_agent.rendering import FileTemplateRenderer
from device_agent.seams import (
    NOTHING_AT_HAND,
    ONE_BY_ONE,
    AtHand,
    HookResult,
    OnBytes,
    ReleaseContext,
    SignedManifest,
    WantedObject,
    Way,
    Whence,
)
from schemas.errors import DeviceError, FlotillaError, NetworkError
from schemas.manifest import Health, Hook, Manifest, Service
from tests.unit.agent.releases import Built


class PowerCutError(BaseException):
    """The process is gone at this very point; nobody may catch it."""


class Power:
    """Counts the points at which the power may fail, and lets it fail at one. A dead process does nothing more."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.points: list[str] = []
        self.cut_at: int | None = None
        self.cut_when: Callable[[str], bool] | None = None
        self.dead = False

    def point(self, name: str) -> None:
        if self.dead:
            raise PowerCutError(name)
        self.points.append(name)
        if len(self.points) == self.cut_at or (self.cut_when is not None and self.cut_when(name)):
            self.dead = True
            raise PowerCutError(name)

    def call(self, name: str) -> None:
        self.point(f"before {name}")
        self.calls.append(name)

    def back(self) -> None:
        self.dead, self.cut_at, self.cut_when = False, None, None
        self.points.clear()


class FakeClock:
    """Time that passes only while somebody sleeps, and then at once."""

    def __init__(self) -> None:
        self.elapsed = 0.0
        self.jumped = timedelta()
        self.sleeps: list[float] = []
        self.running = asyncio.Event()
        self.running.set()

    def now(self) -> datetime:
        return datetime(2026, 3, 1, 12, tzinfo=UTC) + timedelta(seconds=self.elapsed) + self.jumped

    def monotonic(self) -> float:
        return self.elapsed

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        await asyncio.sleep(0)
        await self.running.wait()
        self.elapsed += seconds


class Shelf:
    """The repository that fake sources serve from, with its faults."""

    def __init__(self, power: Power) -> None:
        self.power = power
        self.releases: dict[tuple[str, str], Built] = {}
        self.resolve_errors: list[FlotillaError] = []
        self.fetch_errors: list[FlotillaError] = []
        self.fetched: list[str] = []
        self.block: asyncio.Event | None = None
        self.blocked = asyncio.Event()
        self.open_sources = 0
        self.pace: Callable[[], Awaitable[None]] | None = None
        self.asked: list[Path | list[str]] = []
        self.at_hand: list[AtHand] = []
        self.ways: list[Way] = []
        self.fell_back = ""
        self.index = b""

    def put(self, *built: Built) -> None:
        for one in built:
            self.releases[one.package, one.version] = one

    def source(self, whence: Whence) -> "FakeSource":
        self.asked.append(whence if isinstance(whence, Path) else list(whence))
        self.open_sources += 1
        return FakeSource(self)


class FakeSource:
    """A `ReleaseSource` that serves from a `Shelf`."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    async def resolve(
        self, package: str, version: str, platform: str, at_hand: AtHand = NOTHING_AT_HAND
    ) -> SignedManifest:
        shelf = self._shelf
        shelf.at_hand.append(at_hand)
        shelf.power.call(f"resolve {package} {version} {platform}")
        if shelf.resolve_errors:
            raise shelf.resolve_errors.pop(0)
        built = shelf.releases.get((package, version))
        if built is None:
            raise NetworkError("fetch.not_found", f"no repository has {package} {version}")
        return SignedManifest(
            manifest=built.manifest, sha256=built.sha256, plain=built.plain, wire_bytes=100, index=shelf.index
        )

    async def fetch(self, wanted: Sequence[WantedObject], on_bytes: OnBytes, way: Way = ONE_BY_ONE) -> str:
        shelf = self._shelf
        shelf.ways.append(way)
        shelf.power.call("fetch")
        contents = {sha: content for built in shelf.releases.values() for sha, content in built.contents.items()}
        for number, want in enumerate(wanted):
            if number and shelf.fetch_errors:
                raise shelf.fetch_errors.pop(0)
            if number and shelf.block is not None:
                shelf.blocked.set()
                await shelf.block.wait()
            if shelf.pace is not None:
                await shelf.pace()
            shelf.power.point(f"fetching {number}")
            content = contents[want.sha256]
            part = want.destination.with_name("part")
            part.write_bytes(content)
            part.replace(want.destination)
            shelf.fetched.append(want.sha256)
            on_bytes(len(content), len(content) // 2)
            await asyncio.sleep(0)
        return shelf.fell_back

    async def close(self) -> None:
        self._shelf.open_sources -= 1


class FakeHooks:
    """A `HookRunner`: a hook fails where `failing` has its name and version."""

    def __init__(self, power: Power) -> None:
        self.power = power
        self.failing: set[tuple[str, str]] = set()
        self.block: tuple[str, str] | None = None
        self.blocked = asyncio.Event()
        self.contexts: dict[str, ReleaseContext] = {}

    async def run(self, name: str, hook: Hook, context: ReleaseContext) -> HookResult:
        self.power.call(f"{name} {context.package} {context.version}")
        self.contexts[name] = context
        assert (context.folder / hook.command[0]).is_file()
        if self.block == (name, context.version):
            self.blocked.set()
            await asyncio.Event().wait()
        if (name, context.version) in self.failing:
            raise DeviceError("hook.failed", f"{name} ended with 1", log_tail="what the hook printed")
        self.power.point(f"after {name}")
        return HookResult(seconds=0.1, output=f"{name} was here")


class FakeServices:
    """A `ServiceManager` in which services run until they are stopped; those of broken versions do not stay up."""

    def __init__(self, power: Power) -> None:
        self.power = power
        self.running: dict[str, dict[str, str]] = {}
        self.broken: set[tuple[str, str]] = set()
        self.unstartable: set[tuple[str, str]] = set()
        self.removed: list[str] = []
        self.said: dict[str, str] = {}

    async def start(self, services: Sequence[Service], context: ReleaseContext) -> None:
        self.power.call(f"start {context.package} {context.version}")
        if (context.package, context.version) in self.unstartable:
            raise DeviceError("service.start", f"{context.package} {context.version} cannot be started")
        assert context.folder.is_symlink()
        there = self.running.setdefault(context.package, {})
        there |= {service.name: context.version for service in services}
        self.power.point("after start")

    async def stop(self, package: str, services: Sequence[Service]) -> None:
        self.power.call(f"stop {package}")
        for service in services:
            self.running.get(package, {}).pop(service.name, None)
        self.power.point("after stop")

    async def remove(self, package: str, services: Sequence[Service]) -> None:
        await self.stop(package, services)
        self.removed += [service.name for service in services]

    async def failed(self, package: str, services: Sequence[Service]) -> str:
        self.power.point("before failed")
        there = self.running.get(package, {})
        for service in services:
            if service.name not in there:
                return f"service {service.name} of {package} is not running"
            if (package, there[service.name]) in self.broken:
                return f"service {service.name} of {package} keeps ending"
        return ""

    def output(self, package: str) -> str:
        return self.said.get(package, f"last lines of {package}")

    async def close(self) -> None:
        self.running.clear()


class FakeProbe:
    """A `HealthProbe`: sick versions never pass; others may be given a list of results to go through first."""

    def __init__(self, power: Power) -> None:
        self.power = power
        self.sick: set[str] = set()
        self.results: dict[str, list[bool]] = {}
        self.rounds: Counter[str] = Counter()
        self.on_check: Callable[[str, int], None] | None = None

    async def check(self, health: Health, context: ReleaseContext) -> None:
        self.power.point("before check")
        assert health.retries >= 1
        self.rounds[context.version] += 1
        if self.on_check is not None:
            self.on_check(context.version, self.rounds[context.version])
        results = self.results.get(context.version, [])
        passes = results.pop(0) if results else context.version not in self.sick
        await asyncio.sleep(0)
        if not passes:
            raise DeviceError("health.http", f"{context.version} answered 500")
        self.power.point("after check")


class FakeTemplates(FileTemplateRenderer):
    """The real renderer, with points at which the power may fail."""

    def __init__(self, power: Power) -> None:
        self.power = power

    def render(self, manifest: Manifest, context: ReleaseContext) -> None:
        self.power.point("before render")
        super().render(manifest, context)
        self.power.point("after render")


class CutJournal(Journal):
    """The real journal, with points at which the power may fail right before and right after each commit."""

    def __init__(self, root: Path, power: Power, **more: Any) -> None:
        super().__init__(root, **more)
        self.power = power

    def begin(self, *args: Any, **more: Any) -> Any:
        return self._cut("begin", lambda: super(CutJournal, self).begin(*args, **more))

    def advance(self, update: str, outcome: Any, **more: Any) -> Any:
        return self._cut(f"advance by {outcome}", lambda: super(CutJournal, self).advance(update, outcome, **more))

    def change(self, update: str, **changes: Any) -> Any:
        return self._cut("change", lambda: super(CutJournal, self).change(update, **changes))

    def _cut(self, name: str, act: Callable[[], Any]) -> Any:
        self.power.point(f"before {name}")
        result = act()
        self.power.point(f"after {name}")
        return result
