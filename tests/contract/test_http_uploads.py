"""Uploads: streamed, whole or not at all, whatever happens to the client or the controller meanwhile."""

import http.client
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from controller.database import open_database, sqlite_url
from controller.repository.package_repository import PackageRepository
from tests.support.broker import Broker
from tests.support.controller import ControllerProcess, controller_process
from tests.support.repository import make_package, tree_of

pytestmark = pytest.mark.broker

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def own(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControllerProcess]:
    """A controller that these tests may kill, as long as they start it again."""
    folder = tmp_path_factory.mktemp("uploads")
    with controller_process(folder / "data", broker.url, topic_root="uploads/v1") as made:
        assert made.push(make_package(folder, "first", "1.0.0", {"a": "a"})).status == 201
        yield made


@pytest.fixture
def name(unique: Callable[[str], str]) -> str:
    return unique("pkg")


def sound(controller: ControllerProcess) -> None:
    """The repository's own check finds nothing."""
    engine = open_database(sqlite_url(controller.data / "flotilla.db"))
    repository = PackageRepository(controller.data / "repository", engine, keys=controller.data / "keys")
    assert repository.verify() == []
    engine.dispose()


def begin_upload(controller: ControllerProcess, package: Path, share: float) -> socket.socket:
    """Announce a whole package and send part of it."""
    content = package.read_bytes()
    connection = socket.create_connection(("127.0.0.1", controller.port), timeout=30)
    head = (
        "POST /api/v1/packages HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Content-Type: application/octet-stream\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    connection.sendall(head.encode() + content[: int(len(content) * share)])
    return connection


def spooled(controller: ControllerProcess) -> int:
    """Bytes in the spool."""
    return sum(path.stat().st_size for path in (controller.data / "spool").iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_large_upload_does_not_sit_in_memory(own: ControllerProcess, tmp_path: Path) -> None:
    files = {f"part-{number}": os.urandom(MIB) * 100 for number in range(3)}
    package = make_package(tmp_path, "large", "1.0.0", files)
    assert package.stat().st_size > 300 * MIB
    files.clear()
    status = Path(f"/proc/{own.pid}/status")

    def kibibytes(name: str) -> int:
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(f"{name}:"))

    Path(f"/proc/{own.pid}/clear_refs").write_text("5")  # the peak starts anew from the present
    before = kibibytes("VmRSS")
    assert own.push(package).status == 201
    grown = (kibibytes("VmHWM") - before) / 1024
    assert grown < 100, f"{grown:.0f} MiB"
    assert spooled(own) == 0


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_an_upload_that_breaks_off_leaves_everything_as_it_was(
    own: ControllerProcess, tmp_path: Path, name: str, share: float
) -> None:
    before = tree_of(own.data / "repository")
    package = make_package(tmp_path, name, "1.0.0", {"data": os.urandom(MIB)})
    with begin_upload(own, package, share):
        own.until(lambda: list((own.data / "spool").iterdir()))
    own.until(lambda: not list((own.data / "spool").iterdir()))
    assert tree_of(own.data / "repository") == before
    assert own.get(f"/packages?name={name}").json()["items"] == []
    assert "Traceback" not in own.log_text()
    assert own.push(package).status == 201


def test_a_controller_killed_while_it_receives_leaves_the_repository_as_it_was(
    own: ControllerProcess, tmp_path: Path, name: str
) -> None:
    before = tree_of(own.data / "repository")
    package = make_package(tmp_path, name, "1.0.0", {"data": os.urandom(4 * MIB)})
    with begin_upload(own, package, 0.8):
        own.until(lambda: spooled(own) > MIB)
        own.kill()
    assert tree_of(own.data / "repository") == before
    own.start()
    assert spooled(own) == 0
    assert tree_of(own.data / "repository") == before
    assert own.push(package).status == 201
    sound(own)


def test_a_controller_killed_while_it_stores_leaves_the_repository_as_it_was(
    own: ControllerProcess, tmp_path: Path, name: str
) -> None:
    before = tree_of(own.data / "repository")
    files = {f"data-{number}": os.urandom(8 * MIB) for number in range(8)}
    package = make_package(tmp_path, name, "1.0.0", files)
    answers: list[object] = []

    def push() -> None:
        try:
            answers.append(own.push(package).status)
        except (OSError, http.client.HTTPException) as error:
            answers.append(error)

    pushing = threading.Thread(target=push)
    pushing.start()
    own.until(lambda: tree_of(own.data / "repository").keys() - before.keys())
    own.kill()
    pushing.join(30)
    assert answers
    assert answers != [201]
    own.start()
    assert tree_of(own.data / "repository") == before
    assert own.get(f"/packages?name={name}").json()["items"] == []
    assert own.push(package).status == 201
    sound(own)


def test_many_at_once_are_stored_one_each(own: ControllerProcess, tmp_path: Path) -> None:
    packages = [make_package(tmp_path, "many", f"1.{number}.0", {"v": str(number)}) for number in range(6)]
    statuses: list[int] = []
    pushing = [threading.Thread(target=lambda p=package: statuses.append(own.push(p).status)) for package in packages]
    # the same file twice, at the same time
    pushing.append(threading.Thread(target=lambda: statuses.append(own.push(packages[0]).status)))
    for thread in pushing:
        thread.start()
    for thread in pushing:
        thread.join(60)
    assert len(statuses) == 7
    assert set(statuses) <= {200, 201}
    found = own.get("/packages?name=many").json()["items"]
    assert [item["version"] for item in found] == [f"1.{number}.0" for number in reversed(range(6))]
    assert spooled(own) == 0
    sound(own)
