"""What every place for a repository does, a folder and S3."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from controller.repository.blobs import BlobStore, open_blobs
from controller.repository.s3 import aws_profile
from schemas.errors import OperatorError
from tests.support.s3 import S3Server

TIMESTAMP = "metadata/timestamp.json"


@pytest.fixture(params=["folder", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place of the test's own."""
    if request.param == "folder":
        return (tmp_path / "place").as_uri()
    monkeypatch = request.getfixturevalue("monkeypatch")
    for name, value in request.getfixturevalue("s3").environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://blobs/{tmp_path.name}/deep"


@pytest.fixture
def blobs(url: str) -> BlobStore:
    return open_blobs(url)


def test_what_is_put_is_there(blobs: BlobStore, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(bytes(range(256)) * 50_000)
    blobs.put("a/b/small", b"one")
    blobs.put("a/large", large)
    found = blobs.get("a/b/small", 10)
    assert found is not None
    assert found[0] == b"one"
    assert b"".join(blobs.read("a/large")) == large.read_bytes()
    assert {blob.key: blob.size for blob in blobs.list()} == {"a/b/small": 3, "a/large": 12_800_000}


def test_a_put_replaces(blobs: BlobStore) -> None:
    blobs.put("x", b"one")
    blobs.put("x", b"two")
    assert (blobs.get("x", 10) or (b"", ""))[0] == b"two"


def test_what_is_not_there_is_none(blobs: BlobStore) -> None:
    assert blobs.get("x", 10) is None
    with pytest.raises(FileNotFoundError):
        list(blobs.read("x"))
    assert list(blobs.list()) == []
    blobs.delete(["x"])


def test_deleting_removes_those_and_no_others(blobs: BlobStore) -> None:
    for number in range(5):
        blobs.put(f"k/{number}", b"x")
    blobs.delete(["k/1", "k/3", "k/none"])
    assert {blob.key for blob in blobs.list()} == {"k/0", "k/2", "k/4"}


def test_a_new_one_is_put_once(blobs: BlobStore) -> None:
    tag = blobs.put_new("x", b"one")
    assert tag
    assert blobs.put_new("x", b"two") is None
    assert blobs.get("x", 10) == (b"one", tag)


def test_one_is_put_over_what_it_was_read_as(blobs: BlobStore) -> None:
    first = blobs.put_new("x", b"one")
    assert first is not None
    second = blobs.put_over("x", b"two", first)
    assert second
    assert blobs.put_over("x", b"three", first) is None
    assert blobs.put_over("none", b"x", first) is None
    assert blobs.get("x", 10) == (b"two", second)


@pytest.mark.parametrize("over", [False, True], ids=["new", "over"])
def test_of_many_at_once_one_wins(blobs: BlobStore, over: bool) -> None:
    tag = blobs.put_new(TIMESTAMP, b"old") if over else None
    won: list[int] = []

    def put(number: int) -> None:
        content = b"%d" % number
        answer = blobs.put_over(TIMESTAMP, content, tag) if tag else blobs.put_new(TIMESTAMP, content)
        if answer is not None:
            won.append(number)

    threads = [threading.Thread(target=put, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(won) == 1
    assert (blobs.get(TIMESTAMP, 10) or (b"", ""))[0] == b"%d" % won[0]


def test_a_small_file_that_is_large_is_refused(blobs: BlobStore) -> None:
    blobs.put("x", b"x" * 100)
    with pytest.raises(OperatorError):
        blobs.get("x", 99)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "repository",
        "s3://",
        "s3:///prefix",
        "s3://key:secret@bucket/x",
        "s3://bucket/x?secret=1",
        "file://host/x",
        "file:///",
        "https://bucket.example/x",
        "s3://bucket/\n",
        "s3://[broken",
    ],
)
def test_what_is_no_place_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(OperatorError) as caught:
        open_blobs(url)
    assert caught.value.code == "input.bad"
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def in_trouble(put: Callable[[], object]) -> str:
    with pytest.raises(OperatorError) as caught:
        put()
    assert caught.value.code == "storage.unreachable"
    text = str(caught.value)
    assert "\n" not in text
    assert "nobody-may-print" not in text
    return text


def test_a_bucket_that_is_not_there_is_one_line(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    assert "s3://missing/x" in in_trouble(lambda: open_blobs("s3://missing/x").put("a", b"x"))


def test_keys_come_from_the_profile_where_the_environment_has_none(tmp_path: Path) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/credentials").write_text("[site]\naws_access_key_id = A%1\naws_secret_access_key = B\n")
    (tmp_path / ".aws/config").write_text("[profile site]\nregion = eu-north-1\noutput = json\n")
    environment = {"HOME": str(tmp_path), "AWS_PROFILE": "site"}
    assert aws_profile(environment) == {
        "aws_access_key_id": "A%1",
        "aws_secret_access_key": "B",
        "region": "eu-north-1",
    }
    assert aws_profile({**environment, "AWS_ACCESS_KEY_ID": "own"}) == {}
    (tmp_path / ".aws/config").write_text("no ini [")
    assert "region" not in aws_profile(environment)
