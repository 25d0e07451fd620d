"""The owner's limit on fetching, from agent.toml to the line."""

import hashlib
import random
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from device_agent.config_file import load_config
from device_agent.fetch_process import process_source_factory
from device_agent.seams import WantedObject
from schemas.errors import OperatorError
from schemas.layout import object_path
from tests.support.scripted_http import scripted_server, serving
from tests.unit.agent_leaves.signed_repository import SignedRepository
from tests.unit.agent_leaves.zstd_frames import compressed


def test_the_limit_is_none_unless_set(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text("")
    assert load_config(file, {}, host_name="pi").policy.max_bytes_per_s is None
    file.write_text("[policy]\nmax_bytes_per_s = 50_000\n")
    assert load_config(file, {}, host_name="pi").policy.max_bytes_per_s == 50_000


@pytest.mark.parametrize("value", ["0", "-1", "1023", '"fast"', "1.5"])
def test_a_limit_that_is_none_is_refused_in_one_line(tmp_path: Path, value: str) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(f"[policy]\nmax_bytes_per_s = {value}\n")
    with pytest.raises(OperatorError) as caught:
        load_config(file, {}, host_name="pi")
    assert "policy.max_bytes_per_s" in str(caught.value)


async def test_the_fetching_process_keeps_to_it(tmp_path: Path) -> None:
    content = random.Random(3).randbytes(300_000)
    sha256 = hashlib.sha256(content).hexdigest()
    trusted = SignedRepository().trusted
    make = process_source_factory(
        root=tmp_path,
        trusted_root=lambda: trusted,
        repositories=[],
        now=lambda: datetime.now(UTC),
        max_bytes_per_s=200_000,
    )
    want = WantedObject(sha256=sha256, size=len(content), destination=tmp_path / "objects" / sha256)
    with scripted_server(serving({f"/{object_path(sha256)}": compressed(content)})) as server:
        source = make([server.url])
        came: list[float] = []
        await source.fetch([want], lambda _plain, _wire: came.append(time.monotonic()))
        ended = time.monotonic()
        await source.close()
        await make.close()
    assert want.destination.read_bytes() == content
    # from the first piece (a quarter of a second's worth) on; a limit on the least, so no load can break it
    assert ended - came[0] > (300_000 - 3 * 50_000) / 200_000
