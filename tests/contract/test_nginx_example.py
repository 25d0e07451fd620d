"""The nginx example, with a real nginx in front of a real repository."""

import hashlib
import http.client
import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest

from controller.repository.package_repository import PackageRepository
from device_agent.seams import WantedObject
from device_agent.sources import source_factory
from schemas.layout import object_path
from tests.support.certificates import Authority
from tests.support.repository import add_release, make_repository

NOW: Final = datetime(2030, 1, 1, tzinfo=UTC)
EXAMPLE: Final = Path(__file__).parents[2] / "examples/nginx"
DATA: Final = hashlib.shake_256(b"x").digest(200_000)
NGINX: Final = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")

if NGINX is None and not os.environ.get("CI"):
    pytest.skip("nginx is not installed here (apt-get install nginx-light)", allow_module_level=True)


class Site:
    """A running nginx.

    Attributes:
        plain, tls: ports.
    """

    def __init__(self, plain: int, tls: int, repository: PackageRepository, authority: Authority) -> None:
        self.plain, self.tls, self.repository, self.authority = plain, tls, repository, authority

    def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers (lower case) and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.plain, timeout=10)
        try:
            connection.request(method, path, headers={name.replace("_", "-"): text for name, text in headers.items()})
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()


def adapted(text: str, changes: dict[str, str]) -> str:
    """An example's text as an administrator would change it; everything that is changed must be there."""
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


@contextmanager
def nginx(folder: Path, site: str) -> Iterator[None]:
    """A plain process with everything of its own below a folder."""
    assert NGINX is not None, "CI needs nginx"
    temporary = "".join(
        f"{kind}_temp_path temp-{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;\n" if os.geteuid() == 0 else ""  # its workers could not read a test's folder
    (folder / "nginx.conf").write_text(
        f"{user}pid nginx.pid;\nerror_log error.log;\nevents {{ }}\nhttp {{ access_log off;\n{temporary}{site}\n}}\n"
    )
    command = [NGINX, "-p", str(folder), "-c", "nginx.conf", "-e", "error.log", "-g", "daemon off;"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while not (folder / "nginx.pid").exists():
            said = (folder / "error.log").read_text() if (folder / "error.log").exists() else ""
            assert process.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.02)
        yield
    finally:
        process.terminate()
        process.wait(10)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(folder: Path, variant: str) -> Iterator[Site]:
    """The example's variant with a release behind it."""
    repository = make_repository(folder / "data", clock=lambda: NOW)
    add_release(repository, "tacho", "1.0.0", {"data": DATA, "run": "#!/bin/sh\n"})
    authority = Authority(folder / "ca")
    pair = authority.server()
    plain, tls = free_port(), free_port()
    where = {"/var/lib/flotilla-controller/repository": str(repository.folder)}
    (folder / "locations.conf").write_text(adapted((EXAMPLE / "locations.conf").read_text(), where))
    changes = {
        "listen 80;": f"listen 127.0.0.1:{plain};",
        "updates.example.com": "localhost",
        "/etc/nginx/flotilla/locations.conf": str(folder / "locations.conf"),
    }
    if variant == "site-tls.conf":
        changes |= {
            "listen 443 ssl;": f"listen 127.0.0.1:{tls} ssl;",
            "https://$host$": f"https://localhost:{tls}$",
            "/etc/nginx/flotilla/cert.pem": str(pair.cert_file),
            "/etc/nginx/flotilla/key.pem": str(pair.key_file),
        }
    with nginx(folder, adapted((EXAMPLE / variant).read_text(), changes)):
        yield Site(plain, tls, repository, authority)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running(tmp_path_factory.mktemp("plain"), "site.conf") as site:
        yield site


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running(tmp_path_factory.mktemp("secure"), "site-tls.conf") as site:
        yield site


def big(site: Site) -> str:
    return "/repo/" + object_path(hashlib.sha256(DATA).hexdigest())


@pytest.mark.parametrize("variant", ["plain", "secure"])
async def test_a_device_fetches_a_release(
    request: pytest.FixtureRequest, variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site: Site = request.getfixturevalue(variant)
    monkeypatch.setenv("SSL_CERT_FILE", str(site.authority.ca_file))
    trusted = site.repository.trusted_root()
    make = source_factory(root=tmp_path, trusted_root=lambda: trusted, repositories=[], now=lambda: NOW)
    # with TLS the plain address leads on by a redirect to the same host
    source = make([f"http://localhost:{site.plain}/repo"])
    signed = await source.resolve("tacho", "1.0.0", "any")
    wanted = [
        WantedObject(sha256=e.sha256, size=e.size, destination=tmp_path / e.sha256) for e in signed.manifest.files
    ]
    await source.fetch(wanted, lambda *_: None)
    await source.close()
    for want in wanted:
        assert hashlib.sha256(want.destination.read_bytes()).hexdigest() == want.sha256


def test_what_never_changes_is_cached_and_sent_in_ranges(plain: Site) -> None:
    status, headers, whole = plain.ask(big(plain))
    assert (status, headers["cache-control"]) == (200, "public, max-age=31536000, immutable")
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-type"] == "application/octet-stream"
    assert "content-encoding" not in plain.ask(big(plain), Accept_Encoding="gzip")[1]
    status, headers, part = plain.ask(big(plain), Range="bytes=100-")
    assert (status, part) == (206, whole[100:])
    assert headers["content-range"] == f"bytes 100-{len(whole) - 1}/{len(whole)}"
    assert plain.ask(big(plain), Range="bytes=0-1,5-6")[2] == whole
    assert plain.ask(big(plain), "HEAD")[2] == b""


def test_the_timestamp_is_never_taken_for_an_older_one(plain: Site) -> None:
    status, headers, content = plain.ask("/repo/metadata/timestamp.json")
    assert (status, headers["cache-control"]) == (200, "no-cache")
    assert content == (plain.repository.folder / "metadata/timestamp.json").read_bytes()
    assert "etag" not in headers
    assert "last-modified" not in headers
    later = "Fri, 01 Jan 2100 00:00:00 GMT"
    assert plain.ask("/repo/metadata/timestamp.json", If_Modified_Since=later)[0] == 200


def test_what_is_not_served_is_not_there(plain: Site) -> None:
    folder = plain.repository.folder
    (folder / ".staging/x").write_text("secret")
    (folder / "objects/.hidden").write_text("secret")
    (folder / "objects/ab").mkdir(exist_ok=True)
    (folder / "objects/ab/link.zst").symlink_to(folder.parent / "flotilla.db")
    for path in (
        "/repo/.staging/x",
        "/repo/objects/.hidden",
        "/repo/objects/ab/../.hidden",
        "/repo/%2e%2e/flotilla.db",
        "/repo/objects/..%2f..%2f..%2fflotilla.db",
        "/repo/",
        "/repo/objects/",
        "/repo/metadata",
        "/repo/metadata/99.root.json",
        "/",
        "/flotilla.db",
    ):
        status, headers, body = plain.ask(path)
        assert status in (400, 404), path
        assert b"secret" not in body
        if status == 404:
            assert headers["cache-control"] == "no-cache", path
    assert plain.ask("/repo/objects/ab/link.zst")[0] == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_nothing_can_be_changed(plain: Site, method: str) -> None:
    assert plain.ask("/repo/metadata/timestamp.json", method)[0] == 403
    assert plain.ask(big(plain), method)[0] == 403


def test_tls_of_today_is_spoken(secure: Site) -> None:
    trusting = ssl.create_default_context(cafile=secure.authority.ca_file)
    with (
        socket.create_connection(("127.0.0.1", secure.tls), timeout=10) as line,
        trusting.wrap_socket(line, server_hostname="localhost") as channel,
    ):
        assert channel.version() in ("TLSv1.2", "TLSv1.3")
    assert secure.ask("/repo/metadata/timestamp.json")[0] == 308
