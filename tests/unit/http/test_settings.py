"""What a controller is told: addresses, base URLs, names."""

from pathlib import Path

import pytest

from controller.settings import (
    CLIENT_ID,
    MAX_PUBLIC_URLS,
    ControllerSettings,
    HttpAddress,
    client_id,
    public_urls,
)
from schemas.errors import OperatorError
from schemas.topics import DEFAULT_ROOT


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:8420", "127.0.0.1", 8420),
        ("localhost:1", "localhost", 1),
        ("[::1]:80", "::1", 80),
        ("[fe80::1%eth0]:80", "fe80::1%eth0", 80),
        ("controller-1.example.com:65535", "controller-1.example.com", 65535),
    ],
)
def test_an_address_is_read_and_written_the_same(text: str, host: str, port: int) -> None:
    address = HttpAddress.parse(text)
    assert (address.host, address.port) == (host, port)
    assert str(address) == text


@pytest.mark.parametrize(
    "text", ["", ":", "x", ":1", "x:", "x:-1", "x:0", "x:65536", "x:1.0", "x y:1", "x/y:1", "::1:1"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(OperatorError, match="HOST:PORT"):
        HttpAddress.parse(text)


def settings(http: str, *urls: str, database: str | None = None) -> ControllerSettings:
    return ControllerSettings(
        data=Path("/data"), http=HttpAddress.parse(http), broker=None, public_urls=urls, database=database
    )


def test_announcements_name_the_public_address_else_this_machine() -> None:
    assert settings("192.0.2.7:8420").repository_urls == ("http://192.0.2.7:8420/repo",)
    assert settings("[2001:db8::7]:8420").repository_urls == ("http://[2001:db8::7]:8420/repo",)
    (everywhere,) = settings("0.0.0.0:8420").repository_urls
    assert "0.0.0.0" not in everywhere
    assert everywhere.endswith(":8420/repo")
    assert settings("0.0.0.0:1", "https://a/repo", "https://b").repository_urls == ("https://a/repo", "https://b")


def test_the_database_is_in_the_data_folder_unless_another_is_named() -> None:
    assert settings("x:1").database_url == "sqlite+pysqlite:////data/flotilla.db"
    assert settings("x:1", database="postgresql://db/flotilla").database_url == "postgresql://db/flotilla"


def test_base_urls_lose_their_last_slash() -> None:
    assert public_urls(["https://a.example/repo/", "http://[::1]:8420"]) == (
        "https://a.example/repo",
        "http://[::1]:8420",
    )
    assert public_urls([]) == ()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a.example",
        "ftp://a",
        "https://",
        "https://a?x=1",
        "https://a#x",
        "https://a b",
        "https://a:x",
        "https://a:0",
        "https://a\n",
        "https://" + "a" * 3000,
    ],
)
def test_what_is_no_base_url_is_refused(url: str) -> None:
    with pytest.raises(OperatorError, match="--public-url"):
        public_urls([url])


def test_an_announcement_has_room_for_so_many_base_urls() -> None:
    urls = [f"https://mirror-{number}.example" for number in range(MAX_PUBLIC_URLS + 1)]
    assert len(public_urls(urls[:-1])) == MAX_PUBLIC_URLS
    with pytest.raises(OperatorError, match=str(MAX_PUBLIC_URLS)):
        public_urls(urls)


def test_controllers_with_other_topics_have_other_names_at_the_broker() -> None:
    assert client_id(DEFAULT_ROOT) == CLIENT_ID
    assert client_id("a/v1") == client_id("a/v1") != client_id("b/v1")
    assert client_id("a/v1").startswith(CLIENT_ID)
    assert "/" not in client_id("a/v1")
