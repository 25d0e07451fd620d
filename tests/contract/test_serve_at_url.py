"""`flotilla serve --repository s3://…`: a real controller whose repository devices fetch straight from S3."""

import subprocess
import threading
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from controller.demo.processes import program
from device_agent.seams import WantedObject
from device_agent.sources import source_factory
from tests.support.broker import Broker
from tests.support.controller import ControllerProcess, controller_process
from tests.support.repository import make_package
from tests.support.s3 import S3Server

pytestmark = pytest.mark.broker

FILES: dict[str, bytes | str] = {f"pages/{n}": f"page {n} " * 200 for n in range(15)}


def flotilla(controller: ControllerProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`flotilla repository …` on the controller's data folder."""
    return subprocess.run(
        [program("flotilla"), "repository", *arguments, "--data", str(controller.data)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def fetched(root: Path, public: str, trusted: bytes, version: str) -> None:
    """Fetch a release as a device does, from S3 alone."""
    make = source_factory(root=root, trusted_root=lambda: trusted, repositories=[], now=lambda: datetime.now(UTC))
    source = make([public])
    signed = await source.resolve("tacho", version, "any")
    wanted = [WantedObject(sha256=e.sha256, size=e.size, destination=root / e.sha256) for e in signed.manifest.files]
    await source.fetch(list({want.sha256: want for want in wanted}.values()), lambda *_: None)
    await source.close()


async def test_a_controller_keeps_its_repository_in_s3(
    broker: Broker, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    public = s3.make_bucket("served") + "/fleet"
    told = ("--repository", "s3://served/fleet", "--public-url", public)
    with controller_process(tmp_path / "data", broker.url, topic_root="served/v1", arguments=told) as controller:
        assert controller.push(make_package(tmp_path, "tacho", "1.0.0", FILES)).status == 201
        trusted = controller.call("GET", "/api/v1/root").body
        await fetched(tmp_path / "device", public, trusted, "1.0.0")
        # cut off in the middle of the next one
        package = make_package(tmp_path, "tacho", "1.1.0", {**FILES, **{f"new/{n}": f"new {n}" for n in range(40)}})
        before = len(list((controller.data / "repository/objects").rglob("*.zst")))
        staging = controller.data / "repository/.staging"

        def push() -> None:
            with suppress(OSError):
                controller.push(package)

        pushing = threading.Thread(target=push)
        pushing.start()
        controller.until(lambda: any(staging.iterdir()) or not pushing.is_alive())
        controller.kill()
        pushing.join(30)
        controller.start()
        assert len(list((controller.data / "repository/objects").rglob("*.zst"))) >= before
        assert controller.push(package).status in (200, 201)
        await fetched(tmp_path / "device", public, trusted, "1.1.0")
        found = flotilla(controller, "verify")
        assert found.returncode == 0, found.stdout + found.stderr
        assert "has everything" in flotilla(controller, "upload").stdout
        assert "nobody-may-print" not in controller.log_text()
