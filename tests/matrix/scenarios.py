"""The stories that are cut off: installing, updating, going back, clearing up, repairing; and what must hold then."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from device_agent.journal import Journal
from device_agent.layout import DeviceFolders
from device_agent.updates import UpdateRequest
from schemas.codec import decode
from schemas.messages import LAST_WORDS, Phase, UpdateEvent
from tests.matrix.bench import SICK, Bench, Ran, Trace, files_of, parts_of
from tests.matrix.strace import Point, cutting, points, tracing
from tests.unit.agent.releases import build, expected_tree, tree_of

REFUSALS: Final = ("disk.full", "disk.io")
ENDED_BADLY: Final = ("failed", "rolled_back", "rejected")


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One story.

    Attributes:
        before: the version that runs before; None for none.
        wanted: the version that is announced; None where nothing is.
        after: the version that runs when all has gone well.
        word: the update's last word then.
    """

    name: str
    before: str | None
    wanted: str | None
    after: str
    word: Phase | None
    number: int = 9
    prepare: Callable[[Bench], None] = field(default=lambda _: None)

    def request(self, bench: Bench) -> UpdateRequest | None:
        """The wish."""
        return bench.request(self.wanted, self.number) if self.wanted else None


def _leave_rubbish(bench: Bench) -> None:
    """What cuts at many places could have left, all at once."""
    folders = DeviceFolders(bench.root)
    package = folders.package("tacho")
    for tree in (
        folders.trash / "tmpabcdefgh/1.2.0+00000000",
        package.staging / "1.3.0+00000000",
        package.staging / "state",
    ):
        (tree / "lib").mkdir(parents=True)
        (tree / "lib/one.txt").write_bytes(b"left")
        (tree / "lib/current").symlink_to("one.txt")
    (package.releases / "1.4.0+00000000/bin").mkdir(parents=True)
    (package.releases / "1.4.0+00000000/bin/run").write_bytes(b"left")
    (package.manifests / "1.4.0+00000000.json").write_bytes(b"{")
    for name in ("ab" * 32, "cd" * 32):
        stray = folders.object(name)
        stray.parent.mkdir(exist_ok=True)
        stray.write_bytes(b"left")


def _tear(bench: Bench) -> None:
    """What a power cut can do to a disk that does not keep its promises, while the agent was killed with it."""
    tree = DeviceFolders(bench.root).package("tacho").current.resolve()
    for name, content in (("lib/only-1.1.0.txt", b""), ("lib/common.txt", b"the same"), ("etc/app.conf", b"\0" * 30)):
        path = tree / name
        looks = path.stat()
        path.chmod(0o644)
        path.write_bytes(content)
        path.chmod(looks.st_mode & 0o7777)
        os.utime(path, ns=(looks.st_mtime_ns, looks.st_mtime_ns))
    (bench.root / "agent.db-wal").write_bytes(b"\0" * 4096)


SCENARIOS: Final = {
    one.name: one
    for one in (
        Scenario(name="install", before=None, wanted="1.0.0", after="1.0.0", word=Phase.SUCCEEDED),
        Scenario(name="update", before="1.0.0", wanted="1.1.0", after="1.1.0", word=Phase.SUCCEEDED),
        Scenario(name="rollback", before="1.1.0", wanted=SICK, after="1.1.0", word=Phase.ROLLED_BACK),
        Scenario(name="clearing", before="1.1.0", wanted=None, after="1.1.0", word=None, prepare=_leave_rubbish),
        Scenario(name="repair", before="1.1.0", wanted=None, after="1.1.0", word=None, prepare=_tear),
    )
}


class Matrix:
    """The points of each story, found once, and what a device looks like that nothing was done to."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._points: dict[str, list[Point]] = {}
        self._names: dict[tuple[str, bool], set[str]] = {}

    def points(self, scenario: Scenario) -> list[Point]:
        """Every call that changes something, in the order in which each thread makes them."""
        if scenario.name not in self._points:
            self._explore(scenario)
        return self._points[scenario.name]

    def complaints(self, scenario: Scenario, point: Point, fault: str) -> tuple[list[str], str]:
        """Cut or refuse one call, let the agent start again, and say what is not as it must be; and a story for people.

        Gives `missed` as the only complaint where the run ended without coming to the point.
        """
        self.points(scenario)
        bench = self._bench
        bench.begin_from(f"before {scenario.name}")
        first = bench.run(scenario.request(bench), Trace(thread=point.thread, options=cutting(point, fault)))
        found = list(_of_first(first, fault))
        second = bench.run(scenario.request(bench))
        found += _of_second(second)
        if not found:
            found += self._of_disk(scenario, second, point, fault)
        return found, _story(bench, first, second)

    def _explore(self, scenario: Scenario) -> None:
        bench = self._bench
        self._install_before(scenario)
        bench.keep(f"before {scenario.name}")
        self._settle(scenario, good=False)
        bench.begin_from(f"before {scenario.name}")
        logs = {thread: bench.folder / f"{scenario.name}.{thread}.strace" for thread in ("main", "worker")}
        ran = bench.run(
            scenario.request(bench),
            *(Trace(thread=thread, options=tracing(), log=log) for thread, log in logs.items()),
        )
        assert ran.result is not None, ran.log
        assert ran.result.phase == (scenario.word or Phase.SUCCEEDED), ran
        self._settle(scenario, good=True)
        self._points[scenario.name] = [
            point for thread, log in logs.items() for point in points(log, thread, bench.area)
        ]

    def _install_before(self, scenario: Scenario) -> None:
        self._bench.clear()
        earlier = {"1.0.0": ("0.9.0", "1.0.0"), "1.1.0": ("1.0.0", "1.1.0"), None: ()}[scenario.before]
        for number, version in enumerate(earlier, start=1):
            ran = self._bench.run(self._bench.request(version, number))
            assert ran.result is not None, ran.log
            assert (ran.result.phase, ran.result.ill) == ("succeeded", ""), ran
        scenario.prepare(self._bench)

    def _settle(self, scenario: Scenario, *, good: bool) -> None:
        self._bench.run(None)
        self._names[scenario.name, good] = names_below(self._bench.root)

    def _of_disk(self, scenario: Scenario, ran: Ran, point: Point, fault: str) -> list[str]:
        assert ran.result is not None
        # a place outside the agent's folder that is read-only is told as what it is; of a link, its target comes first
        outside = any(path.startswith("opt") for path in point.what.split())
        codes = (*REFUSALS, *(("conflict.install_path",) if fault == "EROFS" and outside else ()))
        good = scenario.word is None or ran.result.phase == scenario.word
        refused = fault != "SIGKILL" and ran.result.phase in ENDED_BADLY and ran.result.code in codes
        if not good and not refused:
            return [f"the update ended {ran.result.phase} ({ran.result.code})"]
        version = scenario.after if good else scenario.before
        found = [*_of_tree(self._bench, version), *_of_journal(self._bench)]
        if self._strays(scenario, good):
            self._bench.run(None)  # one more start, which clears up
        strays = self._strays(scenario, good)
        return found + ([f"files that are left or missing: {sorted(strays)}"] if strays else [])

    def _strays(self, scenario: Scenario, good: bool) -> set[str]:
        strays = names_below(self._bench.root) ^ self._names[scenario.name, good]
        if good:
            return strays
        # a first installation that failed leaves the folders that the next one needs, and the repository's metadata
        usual = self._names[scenario.name, True]
        return {
            name
            for name in strays
            if not (name in usual and (name.startswith("metadata") or _is_skeleton(self._bench.root / name)))
        }


def _of_first(ran: Ran, fault: str) -> list[str]:
    if fault == "SIGKILL":
        return [] if ran.was_killed else [f"missed: {ran.status}"]
    if ran.status != 0 or ran.result is None or "Traceback" in ran.log:
        return [f"the agent crashed (status {ran.status})"]
    return [f"while the disk refused: {ran.result.ill}"] if ran.result.ill and not ran.result.troubles else []


def _of_second(ran: Ran) -> list[str]:
    if ran.status != 0 or ran.result is None or "Traceback" in ran.log:
        return [f"the agent crashed when it was started again (status {ran.status})"]
    bad = [trouble for trouble in ran.result.troubles if not trouble.endswith("will be repaired")]
    found = [f"when started again: {trouble}" for trouble in bad]
    found += [f"the agent refused to go on: {ran.result.refused}"] if ran.result.refused else []
    found += [f"what runs at the end: {ran.result.ill}"] if ran.result.ill else []
    return found


def _of_tree(bench: Bench, version: str | None) -> list[str]:
    package = DeviceFolders(bench.root).package("tacho")
    if version is None:
        return [f"{link} is there" for link in (package.current, bench.place) if link.is_symlink()]
    parts = {name: part for name, part in parts_of(version).items() if name != "services"}
    wanted = expected_tree(build(version=version, files=files_of(version), **parts), "pi-1")
    there = tree_of(package.current.resolve())
    found = [
        f"the current tree differs in {path}"
        for path in sorted(wanted.keys() | there.keys())
        if wanted.get(path) != there.get(path)
    ]
    if not bench.place.is_symlink() or bench.place.readlink() != package.current:
        found.append(f"{bench.place} does not lead to the current release")
    return found


def _of_journal(bench: Bench) -> list[str]:
    found = []
    with Journal(bench.root, read_only=True) as journal:
        updates, last = journal.history(limit=100), journal.last_seq()
        kept = {event.seq: event.payload for event in journal.events_after(0, 10_000)}
        found += [f"update {update.version} has no last word" for update in journal.unfinished()]
    told: dict[int, bytes] = {}
    for payload in bench.controller.read_bytes().splitlines() if bench.controller.exists() else ():
        seq = decode(payload, UpdateEvent).seq
        if told.setdefault(seq, payload) != payload:
            found.append(f"event {seq} was told in two ways")
    if sorted(told) != list(range(1, last + 1)) or told != kept:
        found.append(f"the controller has events {sorted(told)} of {sorted(kept)}, the last is {last}")
    events = [decode(payload, UpdateEvent) for _, payload in sorted(told.items())]
    for update in updates:
        said = [event.phase for event in events if event.update == update.id]
        words = [phase for phase in said if phase in LAST_WORDS]
        if words != [update.phase] or said[-1:] != words:
            found.append(f"update {update.version} said {[phase.value for phase in said]}")
    if {event.update for event in events} != {update.id for update in updates}:
        found.append("there are events of updates that the journal does not know")
    return found


def _story(bench: Bench, first: Ran, second: Ran) -> str:
    lines = [f"first run: {first}", f"second run: {second}"]
    if (bench.root / "agent.db").exists():
        with Journal(bench.root, read_only=True) as journal:
            lines += [f"update {update}" for update in journal.history(limit=3)]
            lines += [f"installed {install}" for install in journal.installs().values()]
    lines += sorted(str(path.relative_to(bench.area)) for path in bench.area.rglob("*"))
    return "\n".join(lines)


def _is_skeleton(path: Path) -> bool:
    return path.is_dir() and "+" not in str(path)


def names_below(root: Path) -> set[str]:
    """Every path below an agent's folder, but what is the database's own, what applications write, and at most 256
    folders of the object store."""
    found = set()
    for path in root.rglob("*"):
        name = str(path.relative_to(root))
        own = name.startswith(("agent.db", "agent.lock", "agent.running")) or "/state/" in name
        if not own and not (path.parent.name == "objects" and path.is_dir()):
            found.add(name)
    return found
