"""`flotilla bundles`, `--wait-bundles` and `ask --any-size`, with a controller that makes bundles."""

import hashlib
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from controller.cli.bundles import wait_for_bundles
from controller.client import ControllerClient
from controller.repository.bundle_views import ReleaseBundles
from schemas.errors import OperatorError
from tests.support.broker import Broker
from tests.support.bundles import pages
from tests.support.command import Finished, flotilla
from tests.support.controller import ControllerProcess, controller_process
from tests.support.repository import make_package

pytestmark = pytest.mark.broker

Run = Callable[..., Finished]


@pytest.fixture(scope="module")
def controller(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControllerProcess]:
    """One that makes bundles, as the shared one does not."""
    data = tmp_path_factory.mktemp("controller") / "data"
    root = f"bundling-{uuid.uuid4().hex[:8]}/v1"
    with controller_process(data, broker.url, topic_root=root, arguments=["--bundles", "3"]) as made:
        yield made


@pytest.fixture
def run(controller: ControllerProcess) -> Run:
    return lambda *arguments: flotilla(*arguments, env={"FLOTILLA_URL": controller.url})


@pytest.fixture
def name(unique: Callable[[str], str]) -> str:
    return unique("pkg")


def test_a_release_waits_for_its_bundles_where_asked(run: Run, tmp_path: Path, name: str) -> None:
    packages = [make_package(tmp_path, name, f"1.{edition}.0", pages(edition)) for edition in (1, 2)]
    assert run("push", *packages).status == 0
    done = run("release", name, "1.2.0", "--channel", "bundled", "--wait-bundles")
    assert done.status == 0, done.stderr
    assert done.text.startswith("announced")
    assert f"bundles for {name} 1.2.0 any" in done.stderr
    (told,) = run("bundles", name, "1.2.0", "--json").json()
    assert (told["state"], told["failures"]) == ("made", [])
    by_source = {one["source"]: one for one in told["bundles"]}
    assert by_source.keys() == {"1.1.0", None}
    step = by_source["1.1.0"]
    assert step["saved"] == step["objects"] - step["size"] - 400 > 0
    assert step["patch"] > 0
    lines = run("bundles", name, "1.2.0").text.splitlines()
    assert lines[0].split()[:2] == ["FROM", "BUNDLE"]
    assert lines[1].split()[:4] == ["1.1.0", str(step["size"]), str(step["objects"]), str(step["saved"])]
    assert lines[2].split()[0] == "nothing"


def test_publishing_waits_too(run: Run, tmp_path: Path, name: str) -> None:
    done = run("publish", make_package(tmp_path, name, "1.0.0", pages(1)), "--channel", "bundled", "--wait-bundles")
    assert done.status == 0, done.stderr
    (told,) = run("bundles", name, "1.0.0", "--json").json()
    assert [one["source"] for one in told["bundles"]] == [None]


def test_what_failed_is_shown_and_tried_again_when_asked(
    controller: ControllerProcess, run: Run, tmp_path: Path, name: str
) -> None:
    packages = [make_package(tmp_path, name, f"1.{edition}.0", pages(edition)) for edition in (1, 2)]
    assert run("push", packages[0]).status == 0
    # of what only the first release has, so that nothing but the step from it is lost
    sha256 = hashlib.sha256(str(pages(1)["pages/3.txt"]).encode()).hexdigest()
    (file,) = controller.data.rglob(f"{sha256}.zst")
    kept = file.read_bytes()
    file.unlink()
    assert run("push", packages[1]).status == 0
    run("release", name, "1.2.0", "--channel", "bundled", "--wait-bundles")
    shown = run("bundles", name, "1.2.0")
    assert "could not be made (from 1.1.0)" in shown.text
    assert "failed once" in shown.text
    file.write_bytes(kept)
    assert run("bundles", name, "1.2.0", "--again").status == 0
    run("release", name, "1.2.0", "--channel", "bundled", "--wait-bundles")
    (told,) = run("bundles", name, "1.2.0", "--json").json()
    assert (told["state"], told["failed"]) == ("made", [])
    assert {one["source"] for one in told["bundles"]} == {"1.1.0", None}


def test_bundles_of_what_is_not_there(run: Run, name: str) -> None:
    done = run("bundles", name, "1.0.0")
    assert done.status == 1
    assert f"there is no {name} 1.0.0" in done.stderr


def test_nothing_is_announced_when_waiting_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = ReleaseBundles(package="tacho", version="1.0.0", platform="any", state="making", done=0, wanted=2)
    monkeypatch.setattr(ControllerClient, "get", lambda *_, **__: [stuck])
    with pytest.raises(OperatorError, match="not announced"):
        wait_for_bundles(ControllerClient("http://127.0.0.1:1"), "tacho", "1.0.0", -1.0)


def test_only_a_retry_can_be_of_any_size(run: Run, unique: Callable[[str], str]) -> None:
    device = unique("pi")
    done = run("ask", device, "rollback", "--package", "tacho", "--any-size")
    assert done.status == 1
    assert "--any-size goes with retry" in done.stderr
    sent = run("ask", device, "retry", "--package", "tacho", "--any-size", "--json")
    # a device that nobody has heard of is told of too, or refused by name: never for the arguments
    assert "arguments of retry" not in sent.stderr
