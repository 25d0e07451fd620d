"""From a real repository to a real update engine: which route an update takes, what it costs, and what goes wrong.

The engine has fakes only for what is not fetched: hooks, services, time.
"""

import asyncio
import hashlib
import select
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from controller.repository.records import ReleaseRecord
from device_agent import bundle_fetch, resolving
from device_agent.fetcher import Patience
from device_agent.http_source import HttpSource
from device_agent.updates import Submitted, UpdateRequest
from schemas.errors import DeviceError
from schemas.messages import Phase, UpdateEvent
from tests.support.bundles import bundle_files, index_file, index_of, make_bundles, pages
from tests.support.repository import add_release, make_repository, tree_of
from tests.unit.agent.device import Device, rollout
from tests.unit.agent_leaves.hostile_server import (
    Handler,
    HostileServer,
    cut_after,
    endless,
    hostile_server,
    instead,
    status,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PATIENCE = Patience(connect_s=5, read_s=5, attempts=3, first_delay_s=0.001, max_delay_s=0.001)


class Bench:
    """A repository, a server that may misbehave, and one device."""

    def __init__(self, folder: Path, server: HostileServer) -> None:
        self.server = server
        self.repository = make_repository(folder / "data", clock=lambda: NOW)
        self.device = Device(folder / "device")
        self.device.shelf.source = self.source  # type: ignore[assignment, method-assign]  # a real one
        self.rollouts = 1
        self.runs = False

    def source(self, _addresses: object) -> HttpSource:
        return HttpSource(
            [self.server.url],
            root=self.device.root,
            trusted_root=self.repository.trusted_root(),
            now=self.device.clock.now,
            patience=PATIENCE,
        )

    def add(self, version: str, files: dict[str, bytes | str], *, bundles: bool = True) -> ReleaseRecord:
        record = add_release(self.repository, "tacho", version, files)
        if bundles:
            make_bundles(self.repository, record)
        return record

    async def start(self, **options: Any) -> None:
        await self.stop()
        self.runs = True
        self.device.options.update(options)
        await self.device.start()

    async def stop(self) -> None:
        if self.runs:
            self.runs = False
            await self.device.stop()

    async def submit(self, record: ReleaseRecord, **more: Any) -> Submitted:
        """As an announcement of a rollout of its own would; what the repository has now is served."""
        self.serve()
        self.rollouts += 1
        request = UpdateRequest(package="tacho", version=record.version, rollout=rollout(self.rollouts), **more)
        return await self.device.manager.submit(request)

    async def update_to(self, record: ReleaseRecord, **more: Any) -> UpdateEvent:
        """Have a release installed and give the event with its last word."""
        submitted = await self.submit(record, **more)
        assert submitted.update is not None
        await self.device.end_of(submitted.update)
        return self.device.events()[-1]

    def serve(self) -> None:
        self.server.files = {f"/{path}": data for path, data in tree_of(self.repository.folder).items()}

    def staged(self) -> dict[str, Any]:
        """What the last `staged` event says of the route."""
        found = [event for event in self.device.events() if event.phase is Phase.STAGED][-1]
        return dict(found.detail or {})

    def asked(self, part: str) -> list[tuple[str, str]]:
        return [one for one in self.server.asked if part in one[0]]

    def check_tree(self, files: dict[str, bytes | str]) -> None:
        current = self.device.folders.package("tacho").current
        assert tree_of(current.resolve()) == {
            path: text.encode() if isinstance(text, str) else text for path, text in files.items()
        }
        assert not [path for path in tree_of(self.device.root / "downloads") if not path.endswith(".manifest.zst")]


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with hostile_server() as running:
        yield running


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the release before is installed, and its successor is in the repository with bundles."""
    folder = tmp_path_factory.mktemp("template")

    async def prepare() -> None:
        with hostile_server() as server:
            made = Bench(folder, server)
            first = made.add("1.0.0", pages(1))
            await made.start()
            assert (await made.update_to(first)).phase is Phase.SUCCEEDED
            await made.stop()
            made.add("1.1.0", pages(2))

    asyncio.run(prepare())
    return folder


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    if "second" in request.fixturenames:
        template: Path = request.getfixturevalue("template")
        # -a: contents are hard-linked into releases
        subprocess.run(["cp", "-a", f"{template}/.", str(tmp_path)], check=True, timeout=30)
    return tmp_path


@pytest.fixture
async def bench(folder: Path, server: HostileServer) -> AsyncIterator[Bench]:
    made = Bench(folder, server)
    yield made
    await made.stop()


@pytest.fixture
async def second(bench: Bench) -> ReleaseRecord:
    """The release before is installed, its successor is in the repository with bundles."""
    await bench.start()
    return bench.repository.get("tacho", "1.1.0")


def the_bundle(bench: Bench, record: ReleaseRecord) -> tuple[str, bytes]:
    """The URL path and the bytes of the bundle from the release before."""
    (file,) = bundle_files(bench.repository, record, "from-*.bundle")
    return f"/bundles/{record.manifest}/{file.name}", file.read_bytes()


async def test_a_device_with_the_release_before_takes_a_bundle(bench: Bench, second: ReleaseRecord) -> None:
    path, data = the_bundle(bench, second)
    assert (await bench.update_to(second)).phase is Phase.SUCCEEDED
    bench.check_tree(pages(2))
    told = bench.staged()
    assert (told["route"], told["from"]) == ("bundle", "1.0.0")
    assert "fell_back" not in told
    assert not bench.asked("/objects/")
    assert bench.asked("/bundles/") and bench.asked(path) == [(path, "")]
    # everything is counted: what the server gave is what the event says
    assert told["wire_bytes"] == sum(len(bench.server.files.get(asked, b"")) for asked, _ in bench.server.asked)
    assert told["wire_bytes"] <= told["expected_bytes"] < told["wire_bytes"] + 1000
    assert len(data) < told["wire_bytes"]


async def test_a_device_with_nothing_takes_the_full_bundle(bench: Bench) -> None:
    record = bench.add("1.0.0", pages(1))
    await bench.start()
    assert (await bench.update_to(record)).phase is Phase.SUCCEEDED
    bench.check_tree(pages(1))
    assert bench.staged()["route"] == "full"
    assert "from" not in bench.staged()
    assert not bench.asked("/objects/")


async def test_without_bundles_and_with_ones_from_elsewhere_objects_are_taken(bench: Bench) -> None:
    first = bench.add("1.0.0", pages(1), bundles=False)
    await bench.start()
    await bench.update_to(first)
    assert bench.staged()["route"] == "objects"
    few = {**pages(1), "small": "new"}
    second = bench.add("1.1.0", few)
    index = index_of(bench.repository, second)
    # only a full one is left, and one object is less than that
    rest = msgspec.structs.replace(index, bundles=[one for one in index.bundles if one.source is None])
    index_file(bench.repository, second).write_bytes(msgspec.json.encode(rest))
    await bench.update_to(second)
    bench.check_tree(few)
    assert bench.staged()["route"] == "objects"
    assert bench.staged()["objects"] == 1
    assert not bench.asked(".bundle")


async def test_a_release_that_is_kept_besides_the_current_one_is_started_from(bench: Bench) -> None:
    first, far = bench.add("1.0.0", pages(1)), bench.add("1.1.0", {"other": hashlib.shake_256(b"x").digest(40_000)})
    await bench.start()
    await bench.update_to(first)
    await bench.update_to(far)
    await bench.update_to(bench.add("1.2.0", pages(2)))
    bench.check_tree(pages(2))
    assert (bench.staged()["route"], bench.staged()["from"]) == ("bundle", "1.0.0")


async def test_a_bundle_is_not_started_from_a_release_whose_contents_are_not_whole(
    bench: Bench, second: ReleaseRecord
) -> None:
    text = pages(1)["pages/3.txt"]
    assert isinstance(text, str)
    bench.device.folders.object(hashlib.sha256(text.encode()).hexdigest()).unlink()
    assert (await bench.update_to(second)).phase is Phase.SUCCEEDED
    assert bench.staged()["route"] in ("objects", "full")
    bench.check_tree(pages(2))


def flipped(data: bytes) -> bytes:
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 0xFF]) + data[len(data) // 2 + 1 :]


TROUBLE: dict[str, tuple[Callable[[bytes], bytes | None], str]] = {
    "missing": (lambda _: None, "fetch.not_found"),
    "cut short": (lambda data: data[:-20], "verify."),
    "flipped": (flipped, "verify."),
    "of a newer format": (lambda data: b"FLB\x02" + data[4:], "verify.bundle"),
    "of another pair": (lambda data: data[:4] + bytes([data[4] ^ 1]) + data[5:], "verify.bundle"),
    "noise": (lambda data: hashlib.shake_256(b"noise").digest(len(data)), "verify.bundle"),
    "empty": (lambda _: b"", "verify.bundle"),
    "longer": (lambda data: data + b"more", "fetch.limit"),
}


@pytest.mark.parametrize("how", TROUBLE)
async def test_objects_are_taken_where_the_bundle_is(how: str, bench: Bench, second: ReleaseRecord) -> None:
    change, code = TROUBLE[how]
    path, data = the_bundle(bench, second)
    wrong = change(data)
    bench.server.tricks[path] = [status(404) if wrong is None else instead(wrong)]
    assert (await bench.update_to(second)).phase is Phase.SUCCEEDED
    bench.check_tree(pages(2))
    assert bench.staged()["route"] == "bundle"
    assert bench.staged()["fell_back"].startswith(code), bench.staged()
    assert bench.asked("/objects/")


async def test_objects_are_taken_where_the_reader_itself_breaks(
    bench: Bench, second: ReleaseRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise IndexError("a defect")

    monkeypatch.setattr(bundle_fetch, "BundleReader", broken)
    assert (await bench.update_to(second)).phase is Phase.SUCCEEDED
    assert bench.staged()["fell_back"].startswith("internal.error")
    bench.check_tree(pages(2))


async def test_objects_are_taken_where_the_bundle_ends_the_process_that_reads_it(
    bench: Bench, second: ReleaseRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def killed(*_: Any) -> str:
        raise DeviceError("interrupted.fetch", "the fetching process was killed by SIGKILL")

    monkeypatch.setattr(HttpSource, "_fetch_bundle", killed)
    assert (await bench.update_to(second)).phase is Phase.SUCCEEDED
    assert bench.staged()["fell_back"].startswith("interrupted.fetch")
    bench.check_tree(pages(2))


async def test_a_bundle_that_is_cut_off_goes_on_where_it_was(bench: Bench, second: ReleaseRecord) -> None:
    path, data = the_bundle(bench, second)
    bench.server.tricks[path] = [cut_after(len(data) // 3, data), None]
    assert (await bench.update_to(second)).phase is Phase.SUCCEEDED
    bench.check_tree(pages(2))
    assert "fell_back" not in bench.staged()
    assert bench.asked(path) == [(path, ""), (path, f"bytes={len(data) // 3}-")]


async def test_a_server_that_ignores_ranges_costs_only_bytes(bench: Bench, second: ReleaseRecord) -> None:
    path, data = the_bundle(bench, second)
    bench.server.tricks[path] = [cut_after(len(data) // 3, data), instead(data)]
    assert (await bench.update_to(second)).phase is Phase.SUCCEEDED
    bench.check_tree(pages(2))
    assert "fell_back" not in bench.staged()
    assert bench.staged()["wire_bytes"] >= len(data) + len(data) // 3


async def test_only_the_manifests_difference_comes(bench: Bench, second: ReleaseRecord) -> None:
    await bench.update_to(second)
    assert bench.asked(".manifest")
    assert not bench.asked("/targets/")


@pytest.mark.parametrize("how", ["missing", "flipped", "noise"])
async def test_the_whole_manifest_comes_where_its_difference_is(how: str, bench: Bench, second: ReleaseRecord) -> None:
    (file,) = bundle_files(bench.repository, second, "*.manifest")
    wrong = TROUBLE[how][0](file.read_bytes())
    path = f"/bundles/{second.manifest}/{file.name}"
    bench.server.tricks[path] = [status(404) if wrong is None else instead(wrong)]
    assert (await bench.update_to(second)).phase is Phase.SUCCEEDED
    assert bench.asked("/targets/")
    bench.check_tree(pages(2))
    assert bench.staged()["route"] == "bundle"


async def test_a_difference_that_leads_elsewhere_is_not_believed(
    bench: Bench, second: ReleaseRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever applies differences: the hash that was signed is looked at where the manifest is taken."""
    import device_agent.bundles  # noqa: PLC0415  # what is changed is its attribute

    monkeypatch.setattr(device_agent.bundles, "apply_manifest_patch", lambda *_, **__: b'{"format":1}')
    assert (await bench.update_to(second)).phase is Phase.SUCCEEDED
    assert bench.asked("/targets/")
    bench.check_tree(pages(2))


@pytest.mark.parametrize(
    "index",
    [b"", b"{}", b"[" * 20_000, b'{"format": 2}', b"\xff\xfe", b" " * 300_000],
    ids=["empty", "nothing in it", "deep", "newer", "no text", "large"],
)
async def test_a_list_of_bundles_that_is_none_is_passed_over(index: bytes, bench: Bench, second: ReleaseRecord) -> None:
    bench.server.tricks[f"/bundles/{second.manifest}/index.json"] = [instead(index)]
    assert (await bench.update_to(second)).phase is Phase.SUCCEEDED
    assert bench.staged()["route"] == "objects"
    bench.check_tree(pages(2))


async def test_a_list_that_never_ends_is_passed_over(bench: Bench, second: ReleaseRecord) -> None:
    bench.server.tricks[f"/bundles/{second.manifest}/index.json"] = [endless(200)]
    assert (await bench.update_to(second)).phase is Phase.SUCCEEDED
    bench.check_tree(pages(2))


async def test_a_release_of_before_is_updated_as_ever(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its metadata does not say what its plain manifest is."""
    monkeypatch.setattr("controller.repository.publishing._plain", lambda _package: {})
    first = bench.add("1.0.0", pages(1))
    second = bench.add("1.1.0", pages(2))
    await bench.start()
    await bench.update_to(first)
    bench.server.asked.clear()
    assert (await bench.update_to(second)).phase is Phase.SUCCEEDED
    assert bench.asked("/targets/") and not bench.asked(".manifest")
    assert bench.staged()["route"] == "bundle"
    bench.check_tree(pages(2))


async def test_what_an_interrupted_bundle_has_put_in_place_is_left_out(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head of the bundle tells where the rest begins, which is asked for, if the server knows of parts."""
    monkeypatch.setattr(bundle_fetch, "WORTH_A_REQUEST", 1)
    code = b"\x7fELF" + hashlib.shake_256(b"code").digest(60_000)
    first = bench.add("1.0.0", {**pages(1), "code": code})
    await bench.start()
    await bench.update_to(first)
    fresh = hashlib.shake_256(b"fresh").hexdigest(20_000)
    files: dict[str, bytes | str] = {**pages(2), "fresh.txt": fresh, "code": code[:30_000] + b"new" + code[30_003:]}
    second = bench.add("1.1.0", files)
    texts = [text.encode() for text in [*pages(2).values(), fresh] if isinstance(text, str)]
    for text in texts:
        there = bench.device.folders.object(hashlib.sha256(text).hexdigest())
        there.parent.mkdir(parents=True, exist_ok=True)
        if not there.exists():
            there.write_bytes(text)
            there.chmod(0o444)
    path, data = the_bundle(bench, second)
    bench.server.tricks[path] = [pausing(200, data), None]
    bench.server.asked.clear()
    assert (await bench.update_to(second)).phase is Phase.SUCCEEDED
    bench.check_tree(files)
    assert bench.staged()["route"] == "bundle"
    assert "fell_back" not in bench.staged()
    (first_part, rest) = bench.asked(path)
    assert first_part[1] == "" and int(rest[1].removeprefix("bytes=").removesuffix("-")) > 0


# What the owner pays for


async def test_an_update_over_the_limit_is_not_fetched(bench: Bench, second: ReleaseRecord) -> None:
    await bench.start(max_bytes=3000)
    bench.serve()
    path, _ = the_bundle(bench, second)
    index = index_of(bench.repository, second)
    large = [msgspec.structs.replace(one, size=one.size + 100_000) for one in index.bundles]
    data = msgspec.json.encode(msgspec.structs.replace(index, bundles=large))
    bench.server.tricks[f"/bundles/{second.manifest}/index.json"] = [instead(data)]
    last = await bench.update_to(second)
    assert last.phase is Phase.REJECTED
    assert last.error is not None
    assert last.error.code == "fetch.metered"
    assert "--any-size" in last.error.message
    assert not bench.asked("/objects/") and not bench.asked(path)
    # and not by hearing of it again, but when somebody says so
    again = await bench.device.manager.submit(
        UpdateRequest(package="tacho", version="1.1.0", rollout=rollout(bench.rollouts))
    )
    assert again.update is None
    let_through = await bench.device.manager.retry("tacho", any_size=True)
    assert let_through is not None and let_through.update is not None
    assert (await bench.device.end_of(let_through.update)).phase is Phase.SUCCEEDED
    bench.check_tree(pages(2))


async def test_an_update_within_the_limit_is_fetched(bench: Bench, second: ReleaseRecord) -> None:
    await bench.start(max_bytes=6000)
    assert (await bench.update_to(second)).phase is Phase.SUCCEEDED
    assert bench.staged()["wire_bytes"] <= 6000


async def test_being_let_through_counts_once(bench: Bench, second: ReleaseRecord) -> None:
    await bench.start(max_bytes=1100)
    assert (await bench.update_to(second)).phase in (Phase.REJECTED, Phase.FAILED)
    let_through = await bench.device.manager.retry("tacho", any_size=True)
    assert let_through is not None and let_through.update is not None
    assert (await bench.device.end_of(let_through.update)).phase is Phase.SUCCEEDED
    third = bench.add("1.2.0", pages(3))
    assert (await bench.update_to(third)).phase in (Phase.REJECTED, Phase.FAILED)


async def test_a_server_that_sends_more_does_not_get_an_update_over_the_limit(bench: Bench) -> None:
    """The route is chosen by what it says, and counted by what it sends."""
    noise = hashlib.shake_256(b"noise").digest(200_000)
    first = bench.add("1.0.0", {"a": "b"}, bundles=False)
    await bench.start(max_bytes=50_000)
    await bench.update_to(first)
    second = bench.add("1.1.0", {"a": "b", "noise": noise})
    index = index_of(bench.repository, second)
    small = msgspec.structs.replace(index, objects=msgspec.structs.replace(index.objects, packed=10), bundles=[])
    index_file(bench.repository, second).write_bytes(msgspec.json.encode(small))
    bench.server.asked.clear()
    last = await bench.update_to(second)
    assert last.phase is Phase.FAILED
    assert last.error is not None
    assert last.error.code == "fetch.limit"
    ended = bench.device.journal.history("tacho")[0]
    assert ended.fetched_bytes <= 50_000


async def test_all_attempts_count_together(bench: Bench) -> None:
    """A server that breaks off again and again gets no more than one that does not."""
    noise = hashlib.shake_256(b"noise").digest(30_000)
    record = bench.add("1.0.0", {"noise": noise}, bundles=False)
    await bench.start(max_bytes=50_000)
    sha256 = hashlib.sha256(noise).hexdigest()
    path = f"/objects/{sha256[:2]}/{sha256}.zst"
    bench.serve()
    bench.server.tricks[path] = [cut_and_forget(bench.server.files[path][:20_000])]
    last = await bench.update_to(record, retries=5)
    assert last.error is not None
    assert last.error.code in ("fetch.limit", "fetch.metered")
    assert bench.device.journal.history("tacho")[0].fetched_bytes <= 50_000


def cut_and_forget(data: bytes) -> Callable[[Handler], None]:
    """Breaks off after `data` and knows nothing of parts."""

    def trick(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data) + 9000))
        handler.end_headers()
        with suppress(OSError):
            handler.wfile.write(data)
        handler.close_connection = True

    return trick


def pausing(count: int, data: bytes) -> Callable[[Handler], None]:
    """A whole answer that is interrupted after so many bytes until the client hangs up, or for a moment."""

    def trick(handler: Handler) -> None:
        handler.close_connection = True
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[:count])
        handler.wfile.flush()
        select.select([handler.connection], [], [], 3)
        with suppress(OSError):
            handler.wfile.write(data[count:])

    return trick


async def test_a_manifest_that_was_fetched_is_not_fetched_again(bench: Bench, second: ReleaseRecord) -> None:
    path, _ = the_bundle(bench, second)
    source = bench.source([])
    bench.serve()
    signed = await source.resolve("tacho", "1.1.0", "any")
    assert resolving.kept_manifest(bench.device.root / "downloads", second.manifest) == signed.plain
    asked = len(bench.asked("/targets/"))
    again = await bench.source([]).resolve("tacho", "1.1.0", "any")
    assert len(bench.asked("/targets/")) == asked
    assert again.wire_bytes < signed.wire_bytes
    assert path
