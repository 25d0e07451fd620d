"""Fetching in a process of its own: the same as in the agent's, and nothing of it stays behind whatever ends it."""

import asyncio
import gc
import hashlib
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from device_agent import fetch_frames, fetch_process
from device_agent.fetch_frames import HEAD, MAX_FRAME, Refused
from device_agent.fetch_process import process_source_factory
from device_agent.processes import group_alive
from device_agent.seams import ReleaseSource, SignedManifest, WantedObject
from device_agent.sources import source_factory
from schemas import errors
from schemas.errors import DeviceError, FlotillaError, NetworkError, TrustError
from schemas.manifest import MAX_ENTRIES
from tests.contract.test_sources import Fleet
from tests.support.repository import RangeHandler, add_release, make_repository, serve_folder, tree_of

BIG = hashlib.shake_256(b"big").digest(6_000_000)
FIRST_PART = 3_000_000
SOON_S = 20.0


def ignore(_plain: int, _wire: int) -> None:
    pass


class Started:
    """Every fetching process that a test has had started."""

    def __init__(self) -> None:
        self.all: list[asyncio.subprocess.Process] = []

    @property
    def last(self) -> asyncio.subprocess.Process:
        return self.all[-1]

    async def gone(self) -> None:
        for process in self.all:
            await asyncio.wait_for(process.wait(), SOON_S)
            assert not group_alive(process.pid)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    kept, original = Started(), asyncio.create_subprocess_exec

    async def start(*arguments: Any, **options: Any) -> asyncio.subprocess.Process:
        process = await original(*arguments, **options)
        kept.all.append(process)
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start)
    return kept


def whence(*addresses: str) -> Path | tuple[str, ...]:
    """A test's addresses, or the one file that somebody chose."""
    return Path(addresses[0]) if addresses and addresses[0].startswith("/") else addresses


class Device:
    """One device that fetches in a process, and now and then in this one to compare."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.root = fleet.root
        self.sources = process_source_factory(
            root=fleet.root, trusted_root=lambda: fleet.trusted_root, repositories=[], now=lambda: fleet.now
        )

    def source(self, *addresses: str) -> ReleaseSource:
        return self.sources(whence(*addresses))

    def here(self, *addresses: str) -> ReleaseSource:
        """The source whose behaviour counts, with a root folder of its own."""
        make = source_factory(
            root=self.fleet.folder / "here",
            trusted_root=lambda: self.fleet.trusted_root,
            repositories=[],
            now=lambda: self.fleet.now,
        )
        return make(whence(*addresses))


@pytest.fixture
async def device(tmp_path: Path, started: Started) -> AsyncIterator[Device]:
    fleet = await asyncio.to_thread(Fleet, tmp_path)
    await asyncio.to_thread(add_release, fleet.repository, "tacho", "2.0.0", {"big.bin": BIG, "small": "x"})
    yield Device(fleet)
    for process in started.all:
        if process.returncode is None:
            process.kill()
        await process.wait()
    await asyncio.sleep(0)


async def resolved(source: ReleaseSource, version: str = "1.0.0") -> SignedManifest:
    return await source.resolve("tacho", version, "linux-aarch64")


async def until(condition: Callable[[], bool], limit_s: float = SOON_S) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)


class Valve:
    """Holds contents back after their first part, and notes what was asked for."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.served = 0
        self.asked: list[str | None] = []


class ValveHandler(RangeHandler):
    """See `Valve`."""

    def __init__(self, *args: Any, valve: Valve, **more: Any) -> None:
        self._valve = valve
        super().__init__(*args, **more)

    def copyfile(self, source: Any, outputfile: Any) -> None:
        if not self.path.startswith("/objects/"):
            shutil.copyfileobj(source, outputfile)
            return
        self._valve.asked.append(self.headers.get("Range"))
        sent = 0
        while part := source.read(65_536):
            if sent >= FIRST_PART and not self._valve.open.wait(60):
                return
            outputfile.write(part)
            outputfile.flush()
            sent += len(part)
            self._valve.served += len(part)


@contextmanager
def held_back(folder: Path) -> Iterator[tuple[str, Valve]]:
    valve = Valve()
    handler = partial(ValveHandler, directory=str(folder), valve=valve)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients go away here
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", valve
        finally:
            valve.open.set()
            server.shutdown()
            thread.join(10)


async def begun(device: Device, source: ReleaseSource) -> tuple[asyncio.Task[None], list[WantedObject]]:
    """A fetch that has come as far as the valve lets it."""
    signed = await resolved(source, "2.0.0")
    wanted = [want for want in device.fleet.wanted(signed.manifest) if want.size == len(BIG)]
    fetching = asyncio.create_task(source.fetch(wanted, ignore))
    await until(lambda: fetching.done() or _on_disk(device.root / "downloads") > FIRST_PART // 2)
    assert not fetching.done()
    return fetching, wanted


def _on_disk(folder: Path) -> int:
    return max((len(content) for content in tree_of(folder).values()), default=0)


# The same as without a process


@pytest.mark.parametrize("kind", ["http", "file"])
async def test_a_release_comes_whole(device: Device, kind: str) -> None:
    fleet = device.fleet
    with fleet.serving() as url:
        source = device.source(url if kind == "http" else str(fleet.export()))
        signed = await resolved(source)
        here = await resolved(device.here(url if kind == "http" else str(fleet.export())))
        assert signed == here
        assert signed.sha256 == hashlib.sha256(signed.plain).hexdigest() == fleet.record.manifest
        counted: list[tuple[int, int]] = []
        wanted = fleet.wanted(signed.manifest)
        await source.fetch(wanted, lambda plain, wire: counted.append((plain, wire)))
        await source.close()
    for want in wanted:
        assert hashlib.sha256(want.destination.read_bytes()).hexdigest() == want.sha256
    assert sum(plain for plain, _ in counted) == sum(want.size for want in wanted)
    assert sum(wire for _, wire in counted) == fleet.record.packed


async def both(device: Device, address: str, package: str, version: str) -> FlotillaError:
    """The error of a resolve, which has to be the same in either process."""
    found: list[FlotillaError] = []
    for source in (device.here(address), device.source(address)):
        with pytest.raises(FlotillaError) as caught:
            await source.resolve(package, version, "linux-aarch64")
        await source.close()
        found.append(caught.value)
    here, there = found
    assert type(there) is type(here)
    assert (there.code, there.message, there.log_tail) == (here.code, here.message, here.log_tail)
    return there


async def test_errors_of_a_resolve_are_the_same(device: Device, tmp_path: Path) -> None:
    fleet = device.fleet
    with fleet.serving() as url, serve_folder(tmp_path / "data/repository/objects") as other:
        assert (await both(device, url, "tacho", "9.9.9")).code == "fetch.not_found"
        assert (await both(device, url, "tacho", "1.0")).code == "version.bad"
        assert (await both(device, other, "tacho", "1.0.0")).code == "fetch.not_found"
        fleet.now += timedelta(days=400)
        assert (await both(device, url, "tacho", "1.0.0")).code == "trust.expired"
    assert (await both(device, str(tmp_path / "absent"), "tacho", "1.0.0")).code == "disk.io"
    (tmp_path / "other").write_bytes(b"x" * 5000)
    assert (await both(device, str(tmp_path / "other"), "tacho", "1.0.0")).code == "package.format"


async def test_where_nobody_has_said_where_to_fetch_from_the_error_says_so(device: Device, started: Started) -> None:
    with pytest.raises(NetworkError) as caught:
        await resolved(device.source())
    assert caught.value.code == "fetch.unreachable"
    assert caught.value.message == (
        "tacho: this device has heard no announcement that says where to fetch it from; "
        "check the package's name, or set repositories in agent.toml"
    )
    assert started.all == []
    with pytest.raises(NetworkError, match="heard no announcement"):
        await resolved(device.here())


async def test_errors_of_a_fetch_are_the_same(device: Device) -> None:
    with device.fleet.serving() as url:
        signed = await resolved(device.here(url))
        want = next(w for w in device.fleet.wanted(signed.manifest) if w.size == 10)
        absent = WantedObject(sha256="0" * 64, size=1, destination=want.destination)
        short = WantedObject(sha256=want.sha256, size=9, destination=want.destination)
        for wrong, code in ((absent, "fetch.not_found"), (short, "verify.size")):
            found: list[FlotillaError] = []
            for source in (device.here(url), device.source(url)):
                with pytest.raises(FlotillaError) as caught:
                    await source.fetch([wrong], ignore)
                found.append(caught.value)
            assert [type(e) for e in found] == [type(found[0])] * 2
            assert [e.code for e in found] == [code] * 2
            assert not want.destination.exists()


def _groups() -> list[type[FlotillaError]]:
    return [FlotillaError, *FlotillaError.__subclasses__()]


@pytest.mark.parametrize("group", _groups())
def test_every_group_of_errors_goes_through_a_frame(group: type[FlotillaError]) -> None:
    error = group("internal.error", "one line", log_tail="tail")
    frame = fetch_frames.answers.decode(fetch_frames.framed(Refused.of(error))[HEAD.size :])
    assert isinstance(frame, Refused)
    again = frame.error()
    assert type(again) is (group if hasattr(errors, group.__name__) else DeviceError)
    assert (again.code, again.message, again.log_tail) == ("internal.error", "one line", "tail")


@pytest.mark.parametrize("group", ["_FinalRefusalError", "CODES", "one_line", "Final", ""])
def test_an_unknown_group_is_the_devices(group: str) -> None:
    assert type(Refused(group=group, code="disk.io", message="x").error()) is DeviceError


async def test_what_a_final_refusal_was_in_the_process_is_still_the_networks(device: Device) -> None:
    """Errors have private classes where they come from; whether to try again goes by the public one."""
    with device.fleet.serving() as url:
        want = WantedObject(sha256="0" * 64, size=1, destination=device.root / "objects/x")
        source = device.source(url)
        with pytest.raises(NetworkError):
            await source.fetch([want], ignore)


async def test_a_defect_is_told_and_the_process_goes_on(device: Device, started: Started) -> None:
    with device.fleet.serving() as url:
        source = device.source(url)
        want = WantedObject(sha256="not a hash", size=1, destination=Path("/nowhere\0"))
        with pytest.raises(FlotillaError) as caught:
            await source.fetch([want], ignore)
        assert "\n" not in caught.value.message
        assert (await resolved(source)).sha256 == device.fleet.record.manifest
    assert len(started.all) == 1


# Cancelled, killed, ended


async def test_cancelling_kills_the_process_and_the_next_call_resumes(device: Device, started: Started) -> None:
    with held_back(device.fleet.repository.folder) as (url, valve):
        source = device.source(url)
        fetching, wanted = await begun(device, source)
        at = time.monotonic()
        fetching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetching
        assert time.monotonic() - at < 1.0
        assert started.last.returncode is not None
        assert not group_alive(started.last.pid)
        assert not wanted[0].destination.exists()
        assert tree_of(device.root / "downloads")
        first, asked = valve.served, len(valve.asked)
        valve.open.set()
        await source.fetch(wanted, ignore)
        assert wanted[0].destination.read_bytes() == BIG
        assert all(one and one.startswith("bytes=") for one in valve.asked[asked:])
        assert valve.served - first < len(BIG)
        await source.close()
    assert len(started.all) == 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
async def test_a_killed_process_is_one_clear_error_that_may_pass(
    device: Device, started: Started, number: signal.Signals
) -> None:
    with held_back(device.fleet.repository.folder) as (url, valve):
        source = device.source(url)
        fetching, wanted = await begun(device, source)
        os.kill(started.last.pid, number)
        with pytest.raises(DeviceError) as caught:
            await fetching
        assert caught.value.code == "interrupted.fetch"
        assert number.name in caught.value.message
        assert "\n" not in caught.value.message
        valve.open.set()
        await source.fetch(wanted, ignore)
        assert wanted[0].destination.read_bytes() == BIG


async def test_signals_that_are_meant_for_the_agent_do_not_end_a_fetch(device: Device, started: Started) -> None:
    with held_back(device.fleet.repository.folder) as (url, valve):
        source = device.source(url)
        fetching, wanted = await begun(device, source)
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(started.last.pid, number)
        assert os.getsid(started.last.pid) != os.getsid(0)
        valve.open.set()
        await fetching
        assert wanted[0].destination.read_bytes() == BIG


async def test_a_process_that_was_killed_while_it_waited_is_not_used(device: Device, started: Started) -> None:
    with device.fleet.serving() as url:
        first = device.source(url)
        await resolved(first)
        await first.close()
        os.kill(started.last.pid, signal.SIGKILL)
        await started.last.wait()
        assert (await resolved(device.source(url))).sha256 == device.fleet.record.manifest
    assert len(started.all) == 2


def _stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str) -> None:
    """Something else in place of the interpreter that the worker is started with."""
    path = tmp_path / "stand-in"
    path.write_text(f"#!{sys.executable}\nimport sys, time\n{program}\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))


@pytest.mark.parametrize(
    ("program", "says"),
    [
        (f"sys.stdout.buffer.write(({MAX_FRAME + 1}).to_bytes(4, 'big')); sys.stdout.flush(); time.sleep(60)", "bytes"),
        ("sys.stdout.buffer.write(b'\\0\\0\\0\\3abc'); sys.stdout.flush(); time.sleep(60)", "said"),
        ("sys.stdout.buffer.write(b'\\0\\0\\0\\3a'); sys.exit(3)", "status 3"),
        ("sys.exit(0)", "status 0"),
    ],
)
async def test_a_process_that_says_nonsense_is_ended(
    device: Device, started: Started, monkeypatch: pytest.MonkeyPatch, program: str, says: str
) -> None:
    with monkeypatch.context() as patch:
        _stand_in(patch, device.fleet.folder, program)
        with pytest.raises(DeviceError) as caught:
            await resolved(device.source("http://127.0.0.1:1"))
    assert caught.value.code == "internal.error"
    assert says in caught.value.message
    await started.gone()


async def test_an_oversize_wish_ends_the_process(started: Started) -> None:
    process = await _bare_worker()
    assert process.stdin is not None
    process.stdin.write(HEAD.pack(fetch_frames.MAX_WISH + 1))
    assert await asyncio.wait_for(process.wait(), SOON_S) == 0


@pytest.mark.parametrize("said", [b"", b"\0", b"\0\0\1\0half of it", b"\0\0\0\3abc"])
async def test_a_process_ends_with_its_input_whatever_was_said_last(started: Started, said: bytes) -> None:
    process = await _bare_worker()
    assert process.stdin is not None
    process.stdin.write(said)
    process.stdin.close()
    assert await asyncio.wait_for(process.wait(), SOON_S) == 0


async def _bare_worker() -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "device_agent.fetch_worker",
        stdin=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )


def test_every_file_of_the_largest_manifest_can_be_wished_for() -> None:
    longest = "/var/lib/" + "x" * 200 + "/objects/ab/" + "0" * 64 + ".555"
    one = fetch_frames.Fetch(wanted=[("0" * 64, 2**33, longest)], now=0.0)
    assert (len(fetch_frames.framed(one)) - HEAD.size) * MAX_ENTRIES <= fetch_frames.MAX_WISH


AGENT = """
import asyncio, sys
from datetime import UTC, datetime
from pathlib import Path
from device_agent.fetch_process import process_source_factory
from device_agent.seams import WantedObject

async def main(url, root, trusted, sha256, size):
    make = process_source_factory(
        root=Path(root), trusted_root=Path(trusted).read_bytes, repositories=[],
        now=lambda: datetime(2030, 1, 1, tzinfo=UTC),
    )
    want = WantedObject(sha256=sha256, size=int(size), destination=Path(root) / "objects" / sha256)
    fetching = asyncio.create_task(make([url]).fetch([want], lambda *_: print("bytes", flush=True)))
    real = asyncio.create_subprocess_exec
    async def start(*a, **k):
        process = await real(*a, **k)
        print(process.pid, flush=True)
        return process
    asyncio.create_subprocess_exec = start
    await fetching

asyncio.run(main(*sys.argv[1:]))
"""


async def test_the_process_ends_with_a_killed_agent(device: Device, tmp_path: Path) -> None:
    fleet = device.fleet
    with held_back(fleet.repository.folder) as (url, _):
        signed = await resolved(device.here(url), "2.0.0")
        want = next(w for w in fleet.wanted(signed.manifest) if w.size == len(BIG))
        (tmp_path / "root.json").write_bytes(fleet.trusted_root)
        agent = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", AGENT, url, str(fleet.root), str(tmp_path / "root.json")),
            *(want.sha256, str(want.size)),
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            assert agent.stdout is not None
            pid = int(await asyncio.wait_for(agent.stdout.readline(), SOON_S))
            assert await asyncio.wait_for(agent.stdout.readline(), SOON_S) == b"bytes\n"
            assert group_alive(pid)
        finally:
            agent.kill()
            await agent.wait()
        await until(lambda: not group_alive(pid))
        assert not want.destination.exists()


# One process serves the steps of an update


async def test_a_waiting_process_is_used_again_and_then_ends(
    device: Device, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    with device.fleet.serving() as url:
        for _ in range(3):
            source = device.source(url)
            await resolved(source)
            await source.close()
        assert len(started.all) == 1
        assert started.last.returncode is None
        monkeypatch.setattr(fetch_process, "LINGER_S", 0.01)
        source = device.source(url)
        await resolved(source)
        await source.close()
        await started.gone()
        assert len(started.all) == 1
        assert (await resolved(device.source(url))).sha256 == device.fleet.record.manifest


async def test_another_address_or_root_of_trust_gets_another_process(
    device: Device, started: Started, tmp_path: Path
) -> None:
    with device.fleet.serving() as url, device.fleet.serving() as other:
        for address in (url, other):
            source = device.source(address)
            await resolved(source)
            await source.close()
        assert started.all[0].returncode is not None
        device.fleet.trusted_root = (await asyncio.to_thread(make_repository, tmp_path / "another")).trusted_root()
        with pytest.raises(TrustError):
            await resolved(device.source(other))
    assert len(started.all) == 3


async def test_two_sources_at_once_leave_one_process_at_most(device: Device, started: Started) -> None:
    with device.fleet.serving() as url:
        sources = [device.source(url), device.source(url)]
        found = await asyncio.gather(*(resolved(source) for source in sources))
        assert {one.sha256 for one in found} == {device.fleet.record.manifest}
        for source in sources:
            await source.close()
        await until(lambda: sum(process.returncode is None for process in started.all) <= 1)


# Python says so of the pipes of a process that an event loop was ended without
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("closed", [True, False])
def test_nothing_is_left_when_the_event_loop_ends(tmp_path: Path, started: Started, closed: bool) -> None:
    fleet = Fleet(tmp_path)

    async def use(url: str) -> None:
        source = Device(fleet).source(url)
        await resolved(source)
        if closed:
            await source.close()
            return
        await begin_and_leave(source)

    async def begin_and_leave(source: ReleaseSource) -> None:
        add = asyncio.create_task(resolved(source))
        await asyncio.sleep(0)
        assert not add.done()

    with fleet.serving() as url:
        asyncio.run(use(url))
        deadline = time.monotonic() + SOON_S
        while any(group_alive(process.pid) for process in started.all):
            assert time.monotonic() < deadline, "a fetching process outlives the event loop"
            time.sleep(0.01)
    assert len(started.all) == 1
    gc.collect()


async def test_a_waiting_process_is_gone_when_its_factory_is_closed(device: Device, started: Started) -> None:
    """Ended by the end of the event loop it would leave its pipes behind, which Python says on stderr."""
    with device.fleet.serving() as url:
        source = device.source(url)
        await resolved(source)
        await source.close()
        assert started.last.returncode is None
        await device.sources.close()
        assert started.last.returncode is not None
        await device.sources.close()
        assert (await resolved(device.source(url))).sha256 == device.fleet.record.manifest


@pytest.mark.parametrize("size", [10, 450_000])
async def test_a_cancelled_start_leaves_no_process(device: Device, started: Started, size: int) -> None:
    """At every moment of it: a root of trust that does not fit into a pipe at once makes even the first word wait."""
    device.fleet.trusted_root = b"x" * size
    for turns in range(0, 60, 2):
        asking = asyncio.create_task(resolved(device.source("http://127.0.0.1:1")))
        for _ in range(turns):
            await asyncio.sleep(0.001)
        if asking.done():
            break
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await started.gone()
    assert started.all


async def test_nothing_is_asked_for_nothing(device: Device, started: Started) -> None:
    wanted: Sequence[WantedObject] = []
    await device.source("http://127.0.0.1:1").fetch(wanted, ignore)
    assert not started.all


def test_configured_repositories_are_asked_before_an_announcements(tmp_path: Path) -> None:
    make = process_source_factory(
        root=tmp_path,
        trusted_root=lambda: b"",
        repositories=["https://near.example", "https://far.example"],
        now=lambda: datetime.now(UTC),
    )
    asked = make(["https://announced.example", "https://far.example"])._whence  # type: ignore[attr-defined]
    assert asked == ("https://near.example", "https://far.example", "https://announced.example")
    file = Path("/media/usb/tacho.flotilla")
    assert make(file)._whence == file  # type: ignore[attr-defined]
    assert make([str(file)])._whence[2:] == (str(file),)  # type: ignore[attr-defined]


async def test_an_address_is_never_a_file(device: Device) -> None:
    file = str(device.fleet.export())
    source = device.sources([file])
    with pytest.raises(NetworkError) as caught:
        await resolved(source)
    assert caught.value.code == "fetch.unreachable"
    await source.close()
