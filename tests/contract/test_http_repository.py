"""The repository as devices fetch it: whole files, parts of them, what caches are told, and nothing else."""

import hashlib
import http.client
import socket
from pathlib import Path

import pytest

from controller.database import open_database, sqlite_url
from controller.repository.package_repository import PackageRepository
from tests.support.controller import Answer, ControllerProcess
from tests.support.repository import make_package, tree_of

pytestmark = pytest.mark.broker

CONTENT = b"0123456789" * 1000


@pytest.fixture(scope="module")
def served(controller: ControllerProcess, tmp_path_factory: pytest.TempPathFactory) -> ControllerProcess:
    """The controller, with a release in its repository."""
    package = make_package(tmp_path_factory.mktemp("package"), "served", "1.0.0", {"data.bin": CONTENT})
    assert controller.push(package).status in {200, 201}
    return controller


@pytest.fixture
def stored(served: ControllerProcess) -> tuple[str, bytes]:
    """The path below the mount of an object, and its bytes."""
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    path = f"objects/{sha256[:2]}/{sha256}.zst"
    return path, (served.data / "repository" / path).read_bytes()


def fetch(controller: ControllerProcess, path: str, method: str = "GET", **headers: str) -> Answer:
    return controller.call(method, f"/repo/{path}", headers={name.replace("_", "-"): v for name, v in headers.items()})


def test_every_file_that_the_repository_has_is_served_as_it_is(served: ControllerProcess) -> None:
    files = tree_of(served.data / "repository")
    engine = open_database(sqlite_url(served.data / "flotilla.db"))
    repository = PackageRepository(served.data / "repository", engine, keys=served.data / "keys")
    meant = {path: content for path, content in files.items() if repository.open_file(path) is not None}
    engine.dispose()
    assert any(path.startswith("objects/") for path in meant)
    assert any(path.startswith("targets/") for path in meant)
    assert {"metadata/timestamp.json", "metadata/1.root.json"} <= set(meant)
    for path, content in meant.items():
        assert fetch(served, path).body == content, path
    for path in files.keys() - meant.keys():
        assert fetch(served, path).status == 404, path


def test_what_never_changes_may_be_kept_and_the_timestamp_is_asked_for_again(
    served: ControllerProcess, stored: tuple[str, bytes]
) -> None:
    for path in (stored[0], "metadata/1.root.json"):
        answer = fetch(served, path)
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["x-content-type-options"] == "nosniff"
    moving = fetch(served, "metadata/timestamp.json")
    assert moving.headers["cache-control"] == "no-cache"
    missing = fetch(served, "metadata/99.root.json")
    assert (missing.status, missing.headers["cache-control"]) == (404, "no-cache")


def test_the_timestamp_is_sent_again_only_when_it_has_changed(served: ControllerProcess, tmp_path: Path) -> None:
    first = fetch(served, "metadata/timestamp.json")
    same = fetch(served, "metadata/timestamp.json", If_None_Match=first.headers["etag"])
    assert (same.status, same.body, same.headers["etag"]) == (304, b"", first.headers["etag"])
    version = f"1.0.0-{tmp_path.name.replace('_', '-')}"
    assert served.push(make_package(tmp_path, "served-too", version, {"v": version})).status == 201
    changed = fetch(served, "metadata/timestamp.json", If_None_Match=first.headers["etag"])
    assert changed.status == 200
    assert changed.body != first.body


def test_parts_of_a_file_are_served(served: ControllerProcess, stored: tuple[str, bytes]) -> None:
    path, content = stored
    size = len(content)
    assert size > 10
    for asked, start, end in (("0-3", 0, 4), ("4-", 4, size), ("-5", size - 5, size), (f"3-{size * 2}", 3, size)):
        part = fetch(served, path, Range=f"bytes={asked}")
        assert part.status == 206, asked
        assert part.body == content[start:end], asked
        assert part.headers["content-range"] == f"bytes {start}-{end - 1}/{size}"
        assert part.headers["accept-ranges"] == "bytes"
    beyond = fetch(served, path, Range=f"bytes={size}-")
    assert (beyond.status, beyond.headers["content-range"]) == (416, f"bytes */{size}")


def test_a_part_of_another_edition_is_not_served(served: ControllerProcess, stored: tuple[str, bytes]) -> None:
    path, content = stored
    etag = fetch(served, path).headers["etag"]
    fits = fetch(served, path, Range="bytes=4-", If_Range=etag)
    assert (fits.status, fits.body) == (206, content[4:])
    differs = fetch(served, path, Range="bytes=4-", If_Range='"another"')
    assert (differs.status, differs.body) == (200, content)


def test_head_says_how_large_a_file_is(served: ControllerProcess, stored: tuple[str, bytes]) -> None:
    for path, size in ((stored[0], len(stored[1])), ("metadata/timestamp.json", None)):
        answer = fetch(served, path, "HEAD")
        assert (answer.status, answer.body) == (200, b"")
        expected = size if size is not None else len(fetch(served, path).body)
        assert int(answer.headers["content-length"]) == expected
    assert fetch(served, "metadata/nothing.json", "HEAD").status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_nothing_is_written_through_the_mount(
    served: ControllerProcess, stored: tuple[str, bytes], method: str
) -> None:
    before = tree_of(served.data / "repository")
    assert fetch(served, stored[0], method).status in {404, 405}
    assert tree_of(served.data / "repository") == before


@pytest.mark.parametrize(
    "path",
    [
        "",
        "metadata",
        "metadata/",
        "objects/",
        "../flotilla.db",
        "..%2fflotilla.db",
        "%2e%2e/flotilla.db",
        "%2e%2e%2fkeys%2fonline%2ftimestamp.json",
        "metadata/../../flotilla.db",
        "metadata/..%2f..%2fflotilla.db",
        "metadata%2f..%2f..%2fapi-token",
        "..%5cflotilla.db",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "//etc/passwd",
        "metadata/timestamp.json%00",
        "metadata/timestamp.json%00.zst",
        "%00",
        "metadata/%2e/timestamp.json",
        "metadata/./timestamp.json",
        "METADATA/timestamp.json",
        "metadata/timestamp.json%0a",
        "%ff%fe",
        "~root/.profile",
        "flotilla.db",
        "keys/online/timestamp.json",
        "lock",
        "spool/",
        "a" * 5000,
    ],
)
def test_no_trick_leads_out_of_the_repository(served: ControllerProcess, path: str) -> None:
    for tricked in (f"/repo/{path}", f"http://127.0.0.1:{served.port}/repo/{path}"):
        answer = served.call("GET", tricked)
        assert answer.status == (400 if "%00" in path else 404), (tricked, answer)
        assert answer.body == b"not in the repository\n" or answer.headers["content-type"].startswith(
            "application/problem+json"
        )


@pytest.mark.parametrize("path", ["/flotilla.db", "/data", "/keys", "/api-token", "/repo/../api-token"])
def test_nothing_of_the_data_folder_is_reachable_elsewhere(served: ControllerProcess, path: str) -> None:
    assert served.call("GET", path).status == 404


def test_links_and_strange_files_in_the_folder_are_not_served(served: ControllerProcess) -> None:
    folder = served.data / "repository" / "metadata"
    link, strange = folder / "77.root.json", folder / "notes.txt"
    link.symlink_to(served.data / "flotilla.db")
    strange.write_text("mine")
    try:
        assert fetch(served, "metadata/77.root.json").status == 404
        assert fetch(served, "metadata/notes.txt").status == 404
    finally:
        link.unlink()
        strange.unlink()


def test_what_is_no_http_hurts_nobody(served: ControllerProcess) -> None:
    for nonsense in (b"\x00" * 100, b"GET /repo/\x00 HTTP/1.1\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00"):
        with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
            connection.sendall(nonsense)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):
                pass
    assert served.health() == 200


def test_several_requests_share_a_connection(served: ControllerProcess, stored: tuple[str, bytes]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
    connection.connect()
    first = connection.sock
    for _ in range(3):
        connection.request("GET", f"/repo/{stored[0]}", headers={"Range": "bytes=0-3"})
        assert connection.getresponse().read() == stored[1][:4]
        assert connection.sock is first
    connection.close()
