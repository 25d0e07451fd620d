"""The client's pure parts: server-sent events from pieces cut anywhere, downloads, addresses."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.client import MAX_EVENT_BYTES, ControllerClient, bounded, save_atomically, server_sent
from schemas.errors import NetworkError, OperatorError

STREAM = (
    b": watching\n\n"
    b'id: 7\nevent: update\ndata: {"a": 1}\n\n'
    b": still here\n\n"
    b'event: presence\r\ndata: {"b":\r\ndata: "\xc3\xa4"}\r\n\r\n'
    b'data: {"c": 3}\n\n'
    b'event: unfinished\ndata: {"d": 4}\n'
)
EVENTS = [("update", {"a": 1}), ("presence", {"b": "ä"}), ("message", {"c": 3})]


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_events_are_the_same_however_the_stream_is_cut(cuts: list[int]) -> None:
    ends = [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[start:end] for start, end in itertools.pairwise(ends)]
    assert b"".join(pieces) == STREAM
    assert list(server_sent(pieces)) == EVENTS


def test_the_id_of_the_last_event_is_known_before_it_is_given() -> None:
    seen: list[str] = []
    stream = b'id: 7\ndata: {"a": 1}\n\ndata: {"b": 2}\n\nid: 12\ndata: {"c": 3}\n\nid: 1\xc3\xa4\ndata: {}\n\nid: 13\n'
    assert [list(seen) for _ in server_sent([stream], seen)] == [["7"], ["7"], ["12"], ["12"]]
    assert seen == ["12"]


def test_an_event_comes_as_soon_as_it_is_whole() -> None:
    def pieces() -> Iterator[bytes]:
        yield b'data: {"first": 1}\n\n'
        raise AssertionError("nobody had to read on")

    assert next(server_sent(pieces())) == ("message", {"first": 1})


@pytest.mark.parametrize("data", [b"[1]", b"garbage", b'{"a": ', b"\xff", b"1", b"[" * 100_000])
def test_data_that_is_no_object_is_an_error(data: bytes) -> None:
    with pytest.raises((ValueError, RecursionError)):
        list(server_sent([b"data: " + data + b"\n\n"]))


@pytest.mark.parametrize("piece", [b"x" * 65_536, b"data: " + b"x" * 65_536 + b"\n", b": comment " * 7000 + b"\n"])
def test_an_event_that_never_ends_is_an_error(piece: bytes) -> None:
    read = 0

    def pieces() -> Iterator[bytes]:
        nonlocal read
        while True:
            read += len(piece)
            assert read < MAX_EVENT_BYTES * 2, "it reads on for ever"
            yield piece

    with pytest.raises(ValueError, match=str(MAX_EVENT_BYTES)):
        list(server_sent(pieces()))


def test_a_download_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "file"
    assert save_atomically(iter([b"one", b"two"]), target) == 6
    assert target.read_bytes() == b"onetwo"

    def breaks_off() -> Iterator[bytes]:
        yield b"three"
        assert [path.name for path in tmp_path.iterdir() if path.name != "file"], "written beside it"
        raise NetworkError("api.unreachable", "gone")

    with pytest.raises(NetworkError):
        save_atomically(breaks_off(), target)
    assert target.read_bytes() == b"onetwo"
    assert list(tmp_path.iterdir()) == [target]


def test_a_download_that_is_refused_makes_nothing(tmp_path: Path) -> None:
    class Refused:
        def __iter__(self) -> Iterator[bytes]:
            return self

        def __next__(self) -> bytes:
            assert list(tmp_path.iterdir()) == []
            raise OperatorError("release.unknown", "there is none")

    with pytest.raises(OperatorError, match="there is none"):
        save_atomically(Refused(), tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["no/such/folder/file", ".", "", "/"])
def test_a_download_to_where_nothing_can_be_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OperatorError) as caught:
        save_atomically(iter([b"x"]), Path(target))
    assert caught.value.code == "input.bad"
    assert list(tmp_path.iterdir()) == []


def test_a_download_over_an_existing_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OperatorError, match="folder"):
        save_atomically(iter([b"x"]), tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_bounded_passes_on_what_is_within_the_limit() -> None:
    assert list(bounded(iter([b"12", b"345"]), 5)) == [b"12", b"345"]
    with pytest.raises(NetworkError, match="larger than 4"):
        list(bounded(iter([b"12", b"345"]), 4))


@pytest.mark.parametrize("url", ["http://x", "https://x.example:8420/base/", "http://[::1]:8420", "http://127.0.0.1:1"])
def test_addresses_that_can_be_called(url: str) -> None:
    assert ControllerClient(url).url == url.rstrip("/")


@pytest.mark.parametrize(
    "url", ["", "x", "x:1", "ftp://x", "http://", "http://?", "http://a b", "http://x:99999", "//x"]
)
def test_addresses_that_cannot(url: str) -> None:
    with pytest.raises(OperatorError, match="--url"):
        ControllerClient(url)
