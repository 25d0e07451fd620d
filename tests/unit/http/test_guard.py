"""Loopback or not, and the token's file."""

import stat
from pathlib import Path

import pytest

from controller.http.guard import is_loopback, load_token
from schemas.errors import OperatorError


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_addresses_that_only_this_machine_reaches(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    [
        "0.0.0.0",
        "::",
        "192.168.0.1",
        "example.com",
        "",
        "127.0.0.1.example.com",
        "localhost.example.com",
        "127.1",
        "2130706433",
        "fe80::1",
        "10.0.0.1",
    ],
)
def test_addresses_that_others_may_reach(host: str) -> None:
    assert not is_loopback(host)


def test_the_token_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "api-token"
    token = load_token(path)
    assert len(token) >= 40
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_token(path) == token
    assert load_token(tmp_path / "another") != token


def test_a_token_that_others_could_read_is_made_private(tmp_path: Path) -> None:
    path = tmp_path / "api-token"
    path.write_text("a token of the owner's own choice\n")
    path.chmod(0o644)
    assert load_token(path) == "a token of the owner's own choice"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("content", [b"", b"\n", b"short", b"\xff" * 40])
def test_a_token_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "api-token"
    path.write_bytes(content)
    with pytest.raises(OperatorError) as caught:
        load_token(path)
    assert caught.value.code == "data.bad"
    assert str(path) in str(caught.value)
    assert path.read_bytes() == content


def test_a_token_that_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", tmp_path / "no" / "folder"):
        with pytest.raises(OperatorError, match="API token"):
            load_token(path)
