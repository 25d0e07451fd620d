"""What fetching makes of servers that drip, stall, cut, lie, lead astray and never end."""

import datetime
import gzip
import hashlib
import random
import threading
import time
from collections.abc import Callable, Mapping
from email.utils import format_datetime
from pathlib import Path

import pytest

from device_agent.bandwidth import Bandwidth
from device_agent.fetcher import HttpFetcher, MemorySink, Patience
from device_agent.http_source import HttpSource
from device_agent.seams import WantedObject
from device_agent.unpacking import PART_FROM_BYTES
from schemas.errors import FlotillaError, NetworkError
from schemas.layout import MAX_MANIFEST_BYTES, object_path, target_name, target_path
from tests.support.certificates import Authority
from tests.support.repository import tree_of
from tests.support.scripted_http import (
    Exchange,
    HungUpError,
    Script,
    ScriptedServer,
    always,
    header,
    one_of,
    scripted_server,
    serving,
)
from tests.unit.agent_leaves.signed_repository import NOW, SignedRepository
from tests.unit.agent_leaves.zstd_frames import compressed

QUICK = Patience(
    connect_s=1,
    answer_s=0.5,
    read_s=0.4,
    slow_window_s=0.3,
    slow_bytes=1000,
    attempts=3,
    first_delay_s=0.01,
    max_delay_s=0.02,
    max_retry_after_s=100,
)
CONTENT = random.Random(7).randbytes(PART_FROM_BYTES + 300_000)
PACKED = compressed(CONTENT)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PATH = "/" + object_path(SHA256)
GOOD = serving({PATH: PACKED})


class Device:
    """Fetches the content from servers."""

    def __init__(self, root: Path, *urls: str) -> None:
        self.root = root
        self.wire = 0
        self.source = HttpSource(urls, root=root, trusted_root=b"", now=lambda: NOW, patience=QUICK)
        self.want = WantedObject(sha256=SHA256, size=len(CONTENT), destination=root / "objects" / SHA256)

    async def gets_it(self) -> None:
        await self.source.fetch([self.want], self._count)
        assert self.want.destination.read_bytes() == CONTENT

    async def is_refused(self) -> FlotillaError:
        begun = time.monotonic()
        with pytest.raises(FlotillaError) as caught:
            await self.source.fetch([self.want], self._count)
        assert time.monotonic() - begun < 15
        assert not self.want.destination.exists()
        assert "\n" not in str(caught.value)
        return caught.value

    def _count(self, _plain: int, wire: int) -> None:
        self.wire += wire


def small(server: ScriptedServer, patience: Patience = QUICK) -> bytes:
    """Get `/x` of at most 100 bytes."""
    sink = MemorySink()
    HttpFetcher([server.url], patience=patience).get("x", sink, limit=100)
    return bytes(sink.data)


def refusal(server: ScriptedServer, patience: Patience = QUICK) -> NetworkError:
    """Why `small` fails; within a bound."""
    begun = time.monotonic()
    with pytest.raises(NetworkError) as caught:
        small(server, patience)
    assert time.monotonic() - begun < 15
    return caught.value


def partly(count: int) -> Script:
    """Announces the whole from where it is asked for, sends so many bytes of it and hangs up."""

    def script(exchange: Exchange) -> None:
        start = int(header(exchange.hear(), "Range").removeprefix("bytes=").rstrip("-") or 0)
        if start:
            part = f"bytes {start}-{len(PACKED) - 1}/{len(PACKED)}"
            exchange.head("206 Partial Content", Content_Length=str(len(PACKED) - start), Content_Range=part)
        else:
            exchange.head(Content_Length=str(len(PACKED)))
        exchange.send(PACKED[start : start + count])

    return script


def raw(data: bytes) -> Script:
    """Answers the first request with these bytes and hangs up."""

    def script(exchange: Exchange) -> None:
        exchange.hear()
        exchange.send(data)

    return script


# slow and stalled


def drip_body(exchange: Exchange) -> None:
    exchange.hear()
    exchange.head(Content_Length="100")
    exchange.drip(b"x" * 100, 0.02)


def drip_head(exchange: Exchange) -> None:
    exchange.hear()
    exchange.drip(b"HTTP/1.1 200 OK\r\nX-Long: " + b"y" * 1000, 0.02)


def drip_chunk_length(exchange: Exchange) -> None:
    exchange.hear()
    exchange.head(Transfer_Encoding="chunked")
    exchange.drip(b"0" * 1000, 0.02)


def drip_trailers(exchange: Exchange) -> None:
    exchange.hear()
    exchange.head(Transfer_Encoding="chunked")
    exchange.send(b"1\r\nx\r\n0\r\n")
    exchange.drip(b"X: y\r\n" * 1000, 0.02)


def stall(exchange: Exchange) -> None:
    exchange.hear()
    exchange.rest()


def stall_in_body(exchange: Exchange) -> None:
    exchange.hear()
    exchange.head(Content_Length="100")
    exchange.send(b"x" * 50)
    exchange.rest()


@pytest.mark.parametrize("script", [drip_body, drip_head, drip_chunk_length, drip_trailers, stall, stall_in_body])
def test_who_drips_or_stalls_is_given_up(script: Script) -> None:
    with scripted_server(script) as server:
        assert refusal(server).code == "fetch.timeout"
        assert len(server.heard) == QUICK.attempts


def test_a_stalled_tls_handshake_is_given_up() -> None:
    def hello(exchange: Exchange) -> None:
        exchange.line.recv(65536)
        # the head of a TLS record that would bring 16 000 bytes of handshake
        exchange.send(b"\x16\x03\x03\x3e\x80")
        exchange.drip(b"\x02" * 16_000, 0.05)

    with scripted_server(hello) as server:
        server.url = server.url.replace("http:", "https:")
        refusal(server)
        assert server.connections == QUICK.attempts


# cut, and gone on with


@pytest.mark.parametrize("tenth", range(10))
async def test_a_download_cut_at_any_tenth_goes_on_from_there(tmp_path: Path, tenth: int) -> None:
    cut = len(PACKED) * tenth // 10
    with scripted_server(partly(cut), GOOD) as server:
        device = Device(tmp_path, server.url)
        await device.gets_it()
        assert server.ranges == ["", f"bytes={cut}-" if cut else ""]
        assert device.wire == len(PACKED)


async def test_what_one_repository_began_another_ends(tmp_path: Path) -> None:
    half = len(PACKED) // 2
    with scripted_server(partly(half)) as first, scripted_server(GOOD) as second:
        device = Device(tmp_path, first.url, second.url)
        await device.gets_it()
        assert first.ranges == [""]
        assert second.ranges == [f"bytes={half}-"]
        assert device.wire == len(PACKED)


async def test_what_stalls_in_the_middle_is_ended_by_the_next(tmp_path: Path) -> None:
    def stalled(exchange: Exchange) -> None:
        exchange.hear()
        exchange.head(Content_Length=str(len(PACKED)))
        exchange.send(PACKED[:100_000])
        exchange.rest()

    with scripted_server(stalled) as first, scripted_server(GOOD) as second:
        device = Device(tmp_path, first.url, second.url)
        await device.gets_it()
        assert second.ranges == ["bytes=100000-"]


async def test_an_answer_without_a_length_that_is_cut_is_asked_for_again(tmp_path: Path) -> None:
    with scripted_server(raw(b"HTTP/1.0 200 OK\r\n\r\n" + PACKED[:-1000]), GOOD) as server:
        await Device(tmp_path, server.url).gets_it()


async def test_alternating_errors_do_not_end_it(tmp_path: Path) -> None:
    def broken(exchange: Exchange) -> None:
        exchange.hear()
        exchange.head("500 Oops")

    with scripted_server(one_of([broken, partly(200_000)])) as server:
        await Device(tmp_path, server.url).gets_it()
        assert len(server.heard) > 2 * QUICK.attempts


# lies about length, range and content


async def test_less_than_announced_is_no_content(tmp_path: Path) -> None:
    def script(exchange: Exchange) -> None:
        exchange.hear()
        exchange.answer(PACKED[:-9], length=len(PACKED) + 50)

    with scripted_server(script) as server:
        await Device(tmp_path, server.url).is_refused()


async def test_a_length_that_is_too_short_gives_no_content(tmp_path: Path) -> None:
    with scripted_server(always(lambda exchange, _: exchange.answer(PACKED[:1000]))) as server:
        assert (await Device(tmp_path, server.url).is_refused()).code == "verify.size"


@pytest.mark.parametrize("length", ["-5", "1e3", "12 13", "99999999999999999999", "0x10"])
async def test_a_length_that_is_none_gives_no_content(tmp_path: Path, length: str) -> None:
    def script(exchange: Exchange) -> None:
        exchange.hear()
        exchange.head(Content_Length=length)
        exchange.send(b"junk" * 100)

    with scripted_server(script) as server:
        await Device(tmp_path, server.url).is_refused()


@pytest.mark.parametrize("part", ["bytes 0-9/10", "bytes x", "", "bytes 99999999-"])
async def test_another_range_than_was_asked_for_is_not_taken(tmp_path: Path, part: str) -> None:
    def wrong(exchange: Exchange) -> None:
        exchange.hear()
        exchange.answer(PACKED[:100], status="206 Partial Content", Content_Range=part)

    with scripted_server(partly(500_000), wrong, GOOD) as server:
        device = Device(tmp_path, server.url)
        await device.gets_it()
        assert server.ranges == ["", "bytes=500000-", ""]
        assert device.wire == 500_000 + len(PACKED)


async def test_an_ignored_range_starts_anew(tmp_path: Path) -> None:
    with scripted_server(partly(500_000), serving({PATH: PACKED}, ranges=False)) as server:
        device = Device(tmp_path, server.url)
        await device.gets_it()
        assert device.wire == 500_000 + len(PACKED)


async def test_who_sends_the_beginning_again_and_again_is_given_up(tmp_path: Path) -> None:
    def no_range(exchange: Exchange) -> None:
        exchange.hear()
        exchange.head("416 Range Not Satisfiable", Content_Length="0")

    with scripted_server(one_of([partly(300_000), no_range])) as server:
        await Device(tmp_path, server.url).is_refused()
        assert len(server.heard) <= 2 * QUICK.attempts


async def test_content_that_changes_between_requests_is_fetched_anew(tmp_path: Path) -> None:
    other = compressed(CONTENT[::-1])

    def changed(exchange: Exchange) -> None:
        exchange.hear()
        exchange.head(Content_Length=str(len(other)))
        exchange.send(other[: len(other) // 2])

    with scripted_server(changed, GOOD) as server:
        await Device(tmp_path, server.url).gets_it()
        assert server.ranges[-1] == ""


# bombs


def test_an_encoding_nobody_asked_for_is_not_undone() -> None:
    bomb = gzip.compress(bytes(50_000_000))

    def script(exchange: Exchange, head: str) -> None:
        assert header(head, "Accept-Encoding") == "identity"
        exchange.answer(bomb, Content_Encoding="gzip")

    with scripted_server(always(script)) as server:
        sink = MemorySink()
        HttpFetcher([server.url], patience=QUICK).get("x", sink, limit=len(bomb))
        assert bytes(sink.data) == bomb


async def test_a_bomb_for_an_object_stops_at_its_size(tmp_path: Path) -> None:
    bomb = compressed(bytes(3_000_000_000 // 10))
    with scripted_server(serving({PATH: bomb})) as server:
        device = Device(tmp_path, server.url)
        assert (await device.is_refused()).code == "verify.size"
    assert sum(map(len, tree_of(tmp_path).values())) <= len(CONTENT)


async def resolves(tmp_path: Path, repository: SignedRepository, files: dict[str, bytes]) -> str:
    """The code with which resolving a release ends."""
    with scripted_server(serving(files)) as server:
        source = HttpSource(
            [server.url], root=tmp_path, trusted_root=repository.trusted, now=lambda: NOW, patience=QUICK
        )
        with pytest.raises(FlotillaError) as caught:
            await source.resolve("tacho", "1.0.0", "any")
    return caught.value.code


async def test_a_bomb_for_a_manifest_stops_at_the_limit(tmp_path: Path) -> None:
    bomb = compressed(bytes(MAX_MANIFEST_BYTES * 4))
    repository = SignedRepository()
    name = target_name("tacho", "1.0.0", "any")
    repository.add("tacho", name, bomb)
    repository.publish()
    files = {f"/metadata/{name}": data for name, data in repository.files.items()}
    files["/" + target_path(hashlib.sha256(bomb).hexdigest(), name)] = bomb
    assert await resolves(tmp_path, repository, files) == "package.limit"


async def test_metadata_that_does_not_end_is_not_read_to_the_end(tmp_path: Path) -> None:
    repository = SignedRepository()
    repository.publish()
    files = {f"/metadata/{name}": data for name, data in repository.files.items()}
    files["/metadata/timestamp.json"] = bytes(50_000_000)
    assert await resolves(tmp_path, repository, files) == "fetch.limit"
    files["/metadata/timestamp.json"] = gzip.compress(bytes(10_000_000))
    assert (await resolves(tmp_path, repository, files)).startswith("trust.")


# when to come again


class Waits:
    """A clock that passes only by waiting."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.seconds: list[float] = []

    def now(self) -> float:
        return sum(self.seconds)

    def http(self, *urls: str) -> HttpFetcher:
        """A fetcher that goes by this clock."""
        made = HttpFetcher(urls, patience=QUICK, now=self.now)
        self._monkeypatch.setattr(made._stopped, "wait", self._wait)
        return made

    def _wait(self, seconds: float) -> bool:
        self.seconds.append(seconds)
        return False


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Waits:
    return Waits(monkeypatch)


def refusing(status: str, headers: Mapping[str, str]) -> Script:
    def reply(exchange: Exchange, _: str) -> None:
        exchange.head(status, Content_Length="0", **headers)

    return always(reply)


@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        ({"Retry-After": "7"}, 6.9, 7.1),
        ({"Retry-After": "86400"}, 99.9, 100.1),
        ({"Retry-After": "9" * 40}, 99.9, 100.1),
        ({"Retry-After": "Sun, 06 Nov 1994 08:49:47 GMT", "Date": "Sun, 06 Nov 1994 08:49:37 GMT"}, 9.9, 10.1),
        ({"Retry-After": "Sun, 06 Nov 1994 08:49:37 GMT"}, 0, 0.03),
        ({"Retry-After": "soon"}, 0, 0.03),
        ({"Retry-After": "-5"}, 0, 0.03),
    ],
)
def test_retry_after_is_heeded_within_a_bound(headers: dict[str, str], least: float, most: float, waits: Waits) -> None:
    with scripted_server(refusing("503 Busy", headers)) as server:
        with pytest.raises(NetworkError):
            waits.http(server.url).get("x", MemorySink(), limit=10)
        assert len(server.heard) == QUICK.attempts
        assert least * 2 <= sum(waits.seconds) <= most * 2


def test_retry_after_as_a_date_counts_from_now_where_the_answer_has_no_date(waits: Waits) -> None:
    due = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=50)
    with scripted_server(refusing("429 Busy", {"Retry-After": format_datetime(due, usegmt=True)})) as server:
        with pytest.raises(NetworkError):
            waits.http(server.url).get("x", MemorySink(), limit=10)
        assert 30 < max(waits.seconds) <= 50


def test_while_one_repository_asks_to_wait_another_is_asked(waits: Waits) -> None:
    flaky: list[str] = []

    def reply(exchange: Exchange, _: str) -> None:
        flaky.append("")
        exchange.answer(b"found", status="200 OK" if len(flaky) == 3 else "500 Oops")

    with scripted_server(refusing("503 Busy", {"Retry-After": "90"})) as busy, scripted_server(always(reply)) as other:
        sink = MemorySink()
        waits.http(busy.url, other.url).get("x", sink, limit=10)
        assert bytes(sink.data) == b"found"
        assert len(busy.heard) == 1
        assert sum(waits.seconds) < 1


def test_what_is_not_there_is_asked_for_once_and_then_elsewhere() -> None:
    with scripted_server(serving({})) as empty, scripted_server(serving({"/x": b"found"})) as other:
        sink = MemorySink()
        HttpFetcher([empty.url, other.url], patience=QUICK).get("x", sink, limit=10)
        assert bytes(sink.data) == b"found"
        assert len(empty.heard) == 1
        assert refusal(empty).code == "fetch.not_found"
        assert len(empty.heard) == 2


def test_what_is_not_there_is_not_asked_for_again_while_another_is_out_of_order() -> None:
    with scripted_server(serving({})) as empty, scripted_server(refusing("500 Oops", {})) as broken:
        with pytest.raises(NetworkError) as caught:
            HttpFetcher([empty.url, broken.url], patience=QUICK).get("x", MemorySink(), limit=10)
        assert caught.value.code == "fetch.refused"
        assert (len(empty.heard), len(broken.heard)) == (1, QUICK.attempts)


# led elsewhere


def leading(to: Callable[[], str]) -> Script:
    return always(lambda exchange, _: exchange.answer(status="302 Found", Location=to()))


def test_a_redirect_to_another_of_the_repositories_is_followed() -> None:
    found = scripted_server(serving({"/x": b"found"}))
    with found as target, scripted_server(leading(lambda: target.url + "/x")) as server:
        sink = MemorySink()
        HttpFetcher([server.url, target.url], patience=QUICK).get_from(server.url, "x", sink, limit=10)
        assert bytes(sink.data) == b"found"
        assert len(server.heard) == len(target.heard) == 1


def test_a_redirect_to_a_stranger_is_not_followed() -> None:
    found = scripted_server(serving({"/x": b"found"}))
    with found as target, scripted_server(leading(lambda: target.url + "/x")) as server:
        assert refusal(server).code == "fetch.refused"
        assert target.heard == []
        assert len(server.heard) == 1


def test_redirects_are_bounded() -> None:
    with scripted_server(always(lambda e, _: e.answer(status="302 Found", Location="/x"))) as server:
        assert refusal(server).code == "fetch.refused"
        assert len(server.heard) == 4


# TLS


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """The authority that this machine trusts."""
    made = Authority(tmp_path / "ca")
    monkeypatch.setenv("SSL_CERT_FILE", str(made.ca_file))
    return made


def test_tls_with_a_trusted_certificate_works_and_never_leads_to_none(authority: Authority) -> None:
    pair = authority.server()
    plain = serving({"/x": b"found"})
    with scripted_server(plain, cert=(pair.cert_file, pair.key_file)) as server:
        assert small(server) == b"found"
    with scripted_server(plain) as target:
        away = leading(lambda: target.url + "/x")
        with scripted_server(away, cert=(pair.cert_file, pair.key_file)) as server:
            http = HttpFetcher([server.url, target.url], patience=QUICK)
            with pytest.raises(NetworkError) as caught:
                http.get_from(server.url, "x", MemorySink(), limit=10)
            assert "leads to another host" in str(caught.value)
            assert target.heard == []


@pytest.mark.parametrize("fault", ["expired", "self-signed", "wrong host"])
def test_a_certificate_that_is_not_trusted_is_final_and_told(fault: str, authority: Authority, tmp_path: Path) -> None:
    match fault:
        case "expired":
            pair = authority.server(file_name="old", expired=True)
        case "self-signed":
            pair = Authority(tmp_path / "other").server()
        case _:
            pair = authority.server(file_name="elsewhere", hosts=("elsewhere.example",))
    with scripted_server(serving({"/x": b"found"}), cert=(pair.cert_file, pair.key_file)) as server:
        error = refusal(server)
        assert error.code == "fetch.unreachable"
        assert "certificate is not trusted" in str(error)
        assert server.connections == 1
        with scripted_server(serving({"/x": b"found"})) as other:
            sink = MemorySink()
            HttpFetcher([server.url, other.url], patience=QUICK).get("x", sink, limit=10)
            assert bytes(sink.data) == b"found"


# no HTTP, too much HTTP


@pytest.mark.parametrize(
    "data",
    [
        b"hello",
        b"HTTP/0.9 nonsense\r\n\r\n",
        b"HTTP/1.1 999999 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 3,
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"",
    ],
    ids=["0.9", "odd 0.9", "odd status", "odd chunk", "100", "101", "long line", "many", "nothing"],
)
def test_what_is_no_answer_is_an_error_in_one_line(data: bytes) -> None:
    with scripted_server(raw(data)) as server:
        error = refusal(server)
        assert error.code.startswith("fetch.")
        assert "\n" not in str(error)
        assert len(server.heard) <= QUICK.attempts


def test_an_interim_answer_is_passed_over() -> None:
    with scripted_server(raw(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")) as server:
        assert small(server) == b"ok"


@pytest.mark.parametrize(
    ("begin", "again"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"A: b\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1;" + b"x" * 1000),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 100),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    ],
    ids=["headers", "100 Continue", "chunk extension", "trailers", "body", "chunks"],
)
def test_what_never_ends_is_ended(begin: bytes, again: bytes) -> None:
    sent: list[int] = []

    def endless(exchange: Exchange) -> None:
        exchange.hear()
        exchange.send(begin)
        piece = again * (65536 // len(again))
        while True:
            exchange.send(piece)
            sent.append(len(piece))

    with scripted_server(endless) as server:
        refusal(server, Patience(attempts=2, first_delay_s=0.01))
        assert sum(sent) < 20_000_000  # most of it in the buffers of this machine


# connections, bandwidth, stopping


def test_one_connection_serves_many_requests_even_after_refusals() -> None:
    with scripted_server(serving({f"/{n}": b"x" * n for n in range(20)})) as server:
        http = HttpFetcher([server.url], patience=QUICK)
        for number in range(20):
            http.get(str(number), MemorySink(), limit=100)
            with pytest.raises(NetworkError):
                http.get("missing", MemorySink(), limit=100)
        assert server.connections == 1
        assert len(server.heard) == 40


def test_all_threads_together_keep_to_the_bandwidth(monkeypatch: pytest.MonkeyPatch) -> None:
    elapsed = 0.0
    turn = threading.Lock()

    def pass_time(seconds: float) -> bool:
        nonlocal elapsed
        with turn:
            elapsed += seconds
        return False

    body = bytes(200_000)
    with scripted_server(serving({"/x": body})) as server:
        http = HttpFetcher([server.url], patience=QUICK, bandwidth=Bandwidth(50_000, now=lambda: elapsed))
        monkeypatch.setattr(http._stopped, "wait", pass_time)
        threads = [
            threading.Thread(target=http.get, args=("x", MemorySink()), kwargs={"limit": len(body)}) for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    # threads that wait at once let time pass for each other here, so it can only be longer than by one clock
    assert elapsed >= 3 * len(body) / 50_000 - 1


def test_a_bandwidth_is_spent_evenly() -> None:
    elapsed = 100.0
    cap = Bandwidth(1000, now=lambda: elapsed)
    assert cap.piece(65536) == 250
    assert cap.spend(250) == 0
    assert cap.spend(1000) == pytest.approx(1.0)
    assert cap.spend(1000) == pytest.approx(2.0)
    elapsed += 60
    assert cap.spend(250) == 0
    assert cap.spend(500) == pytest.approx(0.5)


@pytest.mark.parametrize("script", [stall, stall_in_body, drip_body, drip_head])
def test_stopping_ends_a_thread_within_a_second(script: Script) -> None:
    patient = Patience(read_s=60, answer_s=60, slow_window_s=60)
    with scripted_server(script) as server:
        http = HttpFetcher([server.url], patience=patient)
        ended = threading.Event()

        def work() -> None:
            try:
                http.get("x", MemorySink(), limit=100)
            except Exception:  # noqa: BLE001  # whatever ends it
                ended.set()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        deadline = time.monotonic() + 10
        while not server.heard:
            assert time.monotonic() < deadline
        http.stop()
        assert ended.wait(1)


def test_a_script_ends_with_its_test() -> None:
    ended = threading.Event()

    def script(exchange: Exchange) -> None:
        try:
            exchange.rest()
        except HungUpError:
            ended.set()

    with scripted_server(script) as server, pytest.raises(NetworkError):
        small(server)
    assert ended.wait(5)
