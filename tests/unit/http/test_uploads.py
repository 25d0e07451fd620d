"""Where uploads wait, and disks that have no room for them."""

import asyncio
import shutil
import sys
from collections import namedtuple
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from controller.http import transfers
from controller.http.transfers import Spool, _not_idle
from controller.repository.files import SPARE_BYTES
from schemas.errors import FlotillaError, PublisherError

Usage = namedtuple("Usage", "total used free")
MIB = 1024 * 1024


async def pieces(count: int, size: int = MIB) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b"x" * size


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield b"x" * MIB
        await asyncio.sleep(0)


def room_for(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    """The disk has so much room beyond what is always kept free."""
    usage = Usage(0, 0, free + SPARE_BYTES)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)


async def test_an_upload_is_written_as_it_comes(tmp_path: Path) -> None:
    await transfers._receive(pieces(3), tmp_path / "part", str(3 * MIB))
    assert (tmp_path / "part").read_bytes() == b"x" * 3 * MIB


@pytest.mark.parametrize("announced", [str(5 * MIB), None, "nonsense"])
async def test_an_upload_that_the_disk_has_no_room_for_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, announced: str | None
) -> None:
    room_for(monkeypatch, 2 * MIB)
    with pytest.raises(FlotillaError) as caught:
        await transfers._receive(endless(), tmp_path / "part", announced)
    assert caught.value.code == "disk.full"
    assert str(2 * MIB) in str(caught.value)
    written = tmp_path / "part"
    assert not written.exists() or written.stat().st_size <= 2 * MIB


@pytest.mark.parametrize("announced", [str(5 * MIB), None])
async def test_an_upload_over_the_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, announced: str | None
) -> None:
    monkeypatch.setattr(transfers, "MAX_UPLOAD_BYTES", 2 * MIB)
    with pytest.raises(FlotillaError) as caught:
        await transfers._receive(endless(), tmp_path / "part", announced)
    assert caught.value.code == "package.limit"


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
async def test_a_disk_that_fills_up_meanwhile_is_one_line() -> None:
    with pytest.raises(FlotillaError) as caught:
        await transfers._receive(pieces(4), Path("/dev/full"), None)
    assert caught.value.code == "disk.full"
    assert "No space left" in str(caught.value)


def test_the_spool_starts_empty_and_gives_each_upload_a_name(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.prepare()
    names = {spool.new() for _ in range(10)}
    assert len(names) == 10
    for path in names:
        assert path.parent == spool.folder
        path.write_bytes(b"left over")
    spool.prepare()
    assert list(spool.folder.iterdir()) == []


def test_an_upload_that_stands_still_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controller.http.transfers.IDLE_S", 0.05)

    async def stalled() -> AsyncIterator[bytes]:
        yield b"first"
        await asyncio.Event().wait()

    async def read() -> list[bytes]:
        return [piece async for piece in _not_idle(stalled())]

    with pytest.raises(PublisherError, match="stood still"):
        asyncio.run(asyncio.wait_for(read(), 10))
