"""A controller that the tests of the HTTP API and of the command line share."""

import uuid
from collections.abc import Generator, Iterator
from typing import Any

import pytest

from tests.support.broker import Broker
from tests.support.controller import ControllerProcess, controller_process
from tests.support.s3 import S3Server, s3_server


@pytest.fixture(scope="session")
def controller(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControllerProcess]:
    """One `flotilla serve` for all tests: use names and channels of your own, and don't stop it."""
    data = tmp_path_factory.mktemp("controller") / "data"
    with controller_process(data, broker.url, topic_root=f"shared-{uuid.uuid4().hex[:8]}/v1") as made:
        yield made


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """One S3 server for all tests: use buckets or prefixes of your own."""
    with s3_server() as server:
        server.make_bucket("blobs")
        yield server


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """A failed test shows what its controller logged."""
    report = yield
    made = getattr(item, "funcargs", {}).get("controller")
    if report.failed and isinstance(made, ControllerProcess):
        report.sections.append(("controller log", made.log_text()[-8000:]))
    return report
