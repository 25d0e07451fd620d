"""Fetching contents from servers that fail, lie, stall or cut off."""

import asyncio
import hashlib
import json
import random
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import cycle
from pathlib import Path

import pytest

from device_agent.batch import packed_limit
from device_agent.fetcher import HttpFetcher, MemorySink, Patience
from device_agent.http_source import HttpSource
from device_agent.seams import WantedObject
from device_agent.unpacking import PART_FROM_BYTES, part_name
from schemas.errors import DeviceError, FlotillaError, NetworkError
from schemas.layout import object_path
from tests.unit.agent_leaves.hostile_server import (
    HostileServer,
    Trick,
    announcing,
    cut_after,
    endless,
    hostile_server,
    instead,
    stall_after,
    status,
)
from tests.unit.agent_leaves.waiting import until
from tests.unit.agent_leaves.zstd_frames import compressed, frame_with_huge_window

QUICK = Patience(
    connect_s=2, read_s=0.3, slow_window_s=0.2, slow_bytes=1000, attempts=3, first_delay_s=0.01, max_delay_s=0.02
)
SMALL = b"small content" * 10
LARGE = random.Random(1).randbytes(PART_FROM_BYTES + 500_000)


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with hostile_server() as running:
        yield running


class Fetch:
    """Fetches contents from servers into a folder."""

    def __init__(self, root: Path, *bases: str, patience: Patience = QUICK) -> None:
        self.root = root
        self.plain = 0
        self.wire = 0
        self.source = HttpSource(bases, root=root, trusted_root=b"", now=lambda: datetime.now(UTC), patience=patience)

    def wanted(self, content: bytes, sha256: str | None = None) -> WantedObject:
        sha256 = sha256 or hashlib.sha256(content).hexdigest()
        return WantedObject(sha256=sha256, size=len(content), destination=self.root / "objects" / sha256[:2] / sha256)

    def count(self, plain: int, wire: int) -> None:
        self.plain += plain
        self.wire += wire

    async def get(self, *contents: bytes) -> None:
        """Fetch, and check that they are there."""
        wanted = [self.wanted(content) for content in contents]
        await self.source.fetch(wanted, self.count)
        for want, content in zip(wanted, contents, strict=True):
            assert want.destination.read_bytes() == content

    async def problem(self, *wanted: WantedObject) -> FlotillaError:
        """Fetch what must fail, and check that nothing came of it."""
        with pytest.raises(FlotillaError) as caught:
            await self.source.fetch(wanted, self.count)
        assert "\n" not in caught.value.message
        for want in wanted:
            assert not want.destination.exists()
        assert self.leftovers() <= {part_name(want.sha256) for want in wanted}
        return caught.value

    def leftovers(self) -> set[str]:
        folder = self.root / "downloads"
        return {path.name for path in folder.iterdir()} if folder.exists() else set()


@pytest.fixture
def fetch(server: HostileServer, tmp_path: Path) -> Fetch:
    return Fetch(tmp_path, server.url)


def path_of(content: bytes) -> str:
    return "/" + object_path(hashlib.sha256(content).hexdigest())


def put(server: HostileServer, *contents: bytes) -> None:
    for content in contents:
        server.files[path_of(content)] = compressed(content)


async def test_contents_arrive_whole_and_every_byte_is_told_once(server: HostileServer, fetch: Fetch) -> None:
    contents = [b"", SMALL, LARGE, *(b"content %d" % number for number in range(50))]
    put(server, *contents)
    await fetch.get(*contents)
    assert fetch.plain == sum(map(len, contents))
    assert fetch.wire == sum(map(len, server.files.values()))
    assert fetch.leftovers() == set()


async def test_nothing_to_fetch_asks_nobody(server: HostileServer, fetch: Fetch) -> None:
    await fetch.get()
    assert server.asked == []


async def test_what_is_missing_is_told_at_once(server: HostileServer, fetch: Fetch) -> None:
    error = await fetch.problem(fetch.wanted(SMALL))
    assert isinstance(error, NetworkError)
    assert error.code == "fetch.not_found"
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("trick", "code", "requests"),
    [
        (status(500), "fetch.refused", 3),
        (endless(500), "fetch.refused", 3),
        (status(429), "fetch.refused", 3),
        (status(403), "fetch.refused", 1),
        (status(204), "fetch.refused", 1),
        (status(206), "fetch.refused", 1),
        (stall_after(-1, b""), "fetch.timeout", 3),
        (stall_after(10, compressed(SMALL)), "fetch.timeout", 3),
        (cut_after(0, compressed(SMALL)), "fetch.unreachable", 3),
        (announcing(10**12), "fetch.limit", 1),
        (status(302, Location="http://elsewhere.example/x"), "fetch.refused", 1),
        (status(302, Location="ftp://127.0.0.1/x"), "fetch.refused", 1),
        (status(302), "fetch.refused", 4),
        (status(302, Location="http://[broken"), "fetch.unreachable", 3),
    ],
    ids=[
        "500",
        "endless 500",
        "429",
        "403",
        "204",
        "part not asked for",
        "silence",
        "stall",
        "cut",
        "too long",
        "other host",
        "other scheme",
        "circle",
        "no address",
    ],
)
async def test_a_server_that_fails_is_given_up_within_a_bound(
    server: HostileServer, fetch: Fetch, trick: Trick, code: str, requests: int
) -> None:
    server.tricks[path_of(SMALL)] = [trick]
    begun = time.monotonic()
    error = await fetch.problem(fetch.wanted(SMALL))
    assert error.code == code
    assert server.url in error.message
    assert len(server.asked) == requests
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
async def test_a_download_goes_on_where_it_was_cut(server: HostileServer, fetch: Fetch, content: bytes) -> None:
    put(server, content)
    packed = compressed(content)
    half = len(packed) // 2
    server.tricks[path_of(content)] = [cut_after(half, packed), None]
    await fetch.get(content)
    assert [asked for _, asked in server.asked] == ["", f"bytes={half}-"]
    assert fetch.plain == len(content)
    assert fetch.wire == len(packed)


async def test_a_large_download_goes_on_after_a_restart_of_the_agent(server: HostileServer, tmp_path: Path) -> None:
    put(server, LARGE)
    packed = compressed(LARGE)
    server.tricks[path_of(LARGE)] = [cut_after(len(packed) // 2, packed), status(403), None]
    first = Fetch(tmp_path, server.url)
    await first.problem(first.wanted(LARGE))
    assert first.leftovers() == {part_name(first.wanted(LARGE).sha256)}
    second = Fetch(tmp_path, server.url)
    await second.get(LARGE)
    assert second.wire == len(packed) - len(packed) // 2
    assert second.plain == len(LARGE)
    assert second.leftovers() == set()


async def test_a_source_can_be_used_again_after_a_failure(server: HostileServer, fetch: Fetch) -> None:
    put(server, SMALL)
    server.tricks[path_of(SMALL)] = [status(403), None]
    await fetch.problem(fetch.wanted(SMALL))
    await fetch.get(SMALL)


async def test_many_cuts_do_not_matter_while_it_goes_on(server: HostileServer, fetch: Fetch) -> None:
    packed = compressed(LARGE)
    server.tricks[path_of(LARGE)] = [cut_after(100_000, packed)]
    await fetch.get(LARGE)
    assert len(server.asked) > QUICK.attempts


async def test_a_server_without_ranges_sends_it_all_again(server: HostileServer, fetch: Fetch) -> None:
    packed = compressed(LARGE)
    server.tricks[path_of(LARGE)] = [cut_after(len(packed) // 2, packed), instead(packed)]
    await fetch.get(LARGE)
    assert fetch.plain == len(LARGE)


async def test_a_partial_download_that_is_damaged_is_fetched_anew(server: HostileServer, fetch: Fetch) -> None:
    put(server, LARGE)
    packed = compressed(LARGE)
    part = fetch.root / "downloads" / part_name(fetch.wanted(LARGE).sha256)
    part.parent.mkdir()
    for damaged in (
        b"no zstd",
        packed[:1000] + bytes(500_000),
        compressed(SMALL),
        packed + b"more",
        packed[:-1] + b"x",
    ):
        part.write_bytes(damaged)
        await fetch.get(LARGE)
        assert fetch.leftovers() == set()


async def test_a_partial_download_that_is_whole_asks_nobody(server: HostileServer, fetch: Fetch) -> None:
    part = fetch.root / "downloads" / part_name(fetch.wanted(LARGE).sha256)
    part.parent.mkdir()
    part.write_bytes(compressed(LARGE))
    await fetch.get(LARGE)
    assert server.asked == []


async def test_partial_downloads_that_nobody_wants_are_removed(server: HostileServer, fetch: Fetch) -> None:
    put(server, SMALL)
    folder = fetch.root / "downloads"
    folder.mkdir()
    for name in (part_name("0" * 64), "x.tmp", ".y.new"):
        (folder / name).write_text("old")
    (folder / "kept").write_text("not ours")
    await fetch.get(SMALL)
    assert fetch.leftovers() == {"kept"}


BOMB = compressed(bytes(200_000_000))


@pytest.mark.parametrize("size", [len(SMALL), PART_FROM_BYTES], ids=["small", "large"])
@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (lambda content: compressed(bytes(len(content))), "verify.digest"),
        (lambda content: compressed(content[:-1]), "verify.size"),
        (lambda content: compressed(content + b"x"), "verify.size"),
        (lambda content: compressed(content)[:-3], "verify.size"),
        (lambda content: compressed(content) + b"x", "verify.size"),
        (lambda content: compressed(content) + compressed(b"x"), "verify.size"),
        (lambda content: content, "verify.digest"),
        (lambda _: b"", "verify.size"),
        (lambda _: BOMB, "verify.size"),
        (frame_with_huge_window, "verify.digest"),
    ],
    ids=["other", "short", "long", "cut frame", "tail", "second frame", "not packed", "empty", "bomb", "window"],
)
async def test_wrong_content_is_refused(
    server: HostileServer, fetch: Fetch, size: int, answer: Callable[[bytes], bytes], code: str
) -> None:
    content = random.Random(size).randbytes(size)
    server.tricks[path_of(content)] = [instead(answer(content))]
    error = await fetch.problem(fetch.wanted(content))
    assert isinstance(error, DeviceError)
    assert error.code == code
    assert len(server.asked) == 1
    assert fetch.leftovers() == set()
    assert fetch.plain <= size


async def test_a_bomb_inside_the_limit_of_bytes_stops_at_the_declared_size(server: HostileServer, fetch: Fetch) -> None:
    want = WantedObject(sha256="0" * 64, size=10_000_000, destination=fetch.root / "objects/x")
    server.files["/" + object_path(want.sha256)] = BOMB
    assert len(BOMB) < packed_limit(want.size)
    error = await fetch.problem(want)
    assert error.code == "verify.size"
    assert fetch.plain <= want.size


async def test_content_encoding_is_not_undone(server: HostileServer, fetch: Fetch) -> None:
    import gzip  # noqa: PLC0415

    server.tricks[path_of(SMALL)] = [instead(gzip.compress(compressed(SMALL)), **{"Content-Encoding": "gzip"})]
    error = await fetch.problem(fetch.wanted(SMALL))
    assert error.code == "verify.digest"


async def test_a_redirect_on_the_same_host_is_followed(server: HostileServer, fetch: Fetch) -> None:
    server.files["/moved"] = compressed(SMALL)
    server.tricks[path_of(SMALL)] = [status(307, Location="/moved")]
    await fetch.get(SMALL)


async def test_the_next_repository_is_asked_and_remembered(server: HostileServer, tmp_path: Path) -> None:
    contents = [SMALL, LARGE, *(b"content %d" % number for number in range(20))]
    put(server, *contents)
    with hostile_server() as broken:
        for content in contents:
            broken.tricks[path_of(content)] = [status(500)]
        fetch = Fetch(tmp_path, "not an address", broken.url, server.url + "/")
        await fetch.get(*contents)
        assert len(broken.asked) < len(contents)


async def test_a_repository_that_lies_does_not_keep_another_from_being_asked(
    server: HostileServer, tmp_path: Path
) -> None:
    put(server, LARGE)
    with hostile_server() as liar:
        liar.tricks[path_of(LARGE)] = [instead(compressed(bytes(len(LARGE))))]
        await Fetch(tmp_path, liar.url, server.url).get(LARGE)


async def test_the_failure_that_says_most_is_told(server: HostileServer, tmp_path: Path) -> None:
    with hostile_server() as liar:
        liar.tricks[path_of(SMALL)] = [instead(compressed(SMALL[::-1]))]
        fetch = Fetch(tmp_path, server.url, liar.url)
        assert (await fetch.problem(fetch.wanted(SMALL))).code == "verify.digest"
        liar.tricks[path_of(SMALL)] = [status(503)]
        assert (await fetch.problem(fetch.wanted(SMALL))).code == "fetch.refused"


async def test_no_repository_is_an_error_of_its_own(tmp_path: Path) -> None:
    fetch = Fetch(tmp_path, "file:///etc", "http://")
    error = await fetch.problem(fetch.wanted(SMALL))
    assert error.code == "fetch.unreachable"
    assert "there is no repository address" in error.message


async def test_a_port_where_nobody_listens_is_unreachable(tmp_path: Path) -> None:
    with hostile_server() as server:
        url = server.url
    fetch = Fetch(tmp_path, url)
    error = await fetch.problem(fetch.wanted(SMALL))
    assert (error.code, error.message.split(": ", 1)[1]) == ("fetch.unreachable", "no connection")


async def test_a_trickle_is_a_timeout(server: HostileServer, fetch: Fetch) -> None:
    def trickle(handler: object) -> None:
        handler.send_response(200)  # type: ignore[attr-defined]
        handler.send_header("Content-Length", "100000")  # type: ignore[attr-defined]
        handler.end_headers()  # type: ignore[attr-defined]
        packed = compressed(LARGE)
        for start in range(0, 100_000, 10):
            handler.wfile.write(packed[start : start + 10])  # type: ignore[attr-defined]
            if server.released.wait(0.05):
                return

    server.tricks[path_of(LARGE)] = [trickle]
    begun = time.monotonic()
    error = await fetch.problem(fetch.wanted(LARGE))
    assert error.code == "fetch.timeout"
    assert time.monotonic() - begun < 10


async def test_cancelling_stops_within_a_second_and_keeps_what_has_come(server: HostileServer, tmp_path: Path) -> None:
    packed = compressed(LARGE)
    server.tricks[path_of(LARGE)] = [stall_after(300_000, packed), None]
    put(server, LARGE)
    slow = Fetch(tmp_path, server.url, patience=Patience(read_s=60))
    want = slow.wanted(LARGE)
    running = asyncio.create_task(slow.source.fetch([want], slow.count))
    await until(lambda: slow.wire == 300_000, "the first bytes are there")
    begun = time.monotonic()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert time.monotonic() - begun < 1
    assert slow.leftovers() == {part_name(want.sha256)}
    again = Fetch(tmp_path, server.url)
    await again.get(LARGE)
    assert again.wire == len(packed) - 300_000
    server.released.set()
    await asyncio.sleep(0)
    assert want.destination.read_bytes() == LARGE


async def test_closing_a_source_ends_what_runs_with_an_error(server: HostileServer, fetch: Fetch) -> None:
    server.tricks[path_of(SMALL)] = [status(500)]
    patient = Fetch(fetch.root, server.url, patience=Patience(first_delay_s=60, max_delay_s=60))
    running = asyncio.create_task(patient.problem(patient.wanted(SMALL)))
    await until(lambda: server.asked, "it has asked")
    await patient.source.close()
    assert (await running).code == "fetch.unreachable"


async def test_a_full_disk_is_told_and_leaves_nothing(
    server: HostileServer, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(server, SMALL)
    real = Path.open

    def full(path: Path, *args: object, **kwargs: object) -> object:
        if path.suffix == ".tmp":
            raise OSError(28, "No space left on device")
        return real(path, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", full)
    error = await fetch.problem(fetch.wanted(SMALL))
    assert error.code == "disk.full"
    assert len(server.asked) == 1


def test_an_answer_of_unknown_length_stops_at_the_limit(server: HostileServer) -> None:
    server.tricks["/x"] = [endless(200)]
    sink = MemorySink()
    with pytest.raises(NetworkError) as caught:
        HttpFetcher([server.url], patience=QUICK).get("x", sink, limit=1_000_000)
    assert caught.value.code == "fetch.limit"
    assert sink.offset <= 1_000_000


def test_the_pause_between_rounds_is_random_below_a_doubling_bound(
    server: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounds: list[float] = []
    chances = cycle([1.0, 0.25])
    patience = Patience(attempts=6, first_delay_s=1, max_delay_s=5)
    http = HttpFetcher([server.url], patience=patience, uniform=lambda: next(chances))
    monkeypatch.setattr(http._stopped, "wait", bounds.append)
    server.tricks["/x"] = [status(500)]
    with pytest.raises(NetworkError):
        http.get("x", MemorySink(), limit=10)
    assert bounds == [1, 2 / 4, 4, 5 / 4, 5]


def test_names_are_escaped_and_proxies_are_not_used(server: HostileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    server.files["/a/x@1.0.0%2Bb%20c%3F"] = b"found"
    sink = MemorySink()
    HttpFetcher([server.url]).get("a/x@1.0.0+b c?", sink, limit=10)
    assert bytes(sink.data) == b"found"
    assert json.dumps(server.asked) == '[["/a/x@1.0.0%2Bb%20c%3F", ""]]'
