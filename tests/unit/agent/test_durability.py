"""The calls that make things durable, on the real file system, and what their errors become."""

import ctypes
import errno
import os
from pathlib import Path

import pytest

from device_agent import durability
from schemas.errors import DeviceError


def test_a_whole_file_system_is_flushed_and_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    durability.flush_file_system(tmp_path)
    with pytest.raises(FileNotFoundError):
        durability.flush_file_system(tmp_path / "nowhere")


def test_where_there_is_no_syncfs_everything_is_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[bool] = []
    monkeypatch.setattr(durability, "_syncfs", lambda: None)
    monkeypatch.setattr(os, "sync", lambda: flushed.append(True))
    durability.flush_file_system(tmp_path)
    assert flushed == [True]


def test_a_flush_that_the_disk_refuses_is_not_taken_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durability, "_syncfs", lambda: lambda _: -1)
    monkeypatch.setattr(ctypes, "get_errno", lambda: errno.EIO)
    with pytest.raises(DeviceError) as refused, durability.disk_errors("stage tacho 1.1.0"):
        durability.flush_file_system(tmp_path)
    assert refused.value.code == "disk.io"
    assert "stage tacho 1.1.0" in str(refused.value)


def test_free_space_is_what_the_file_system_says(tmp_path: Path) -> None:
    space = durability.free_space(tmp_path)
    found = os.statvfs(tmp_path)
    assert abs(space.free - found.f_bavail * found.f_frsize) < 2**30
    assert space.inodes > 0
    assert space.block == found.f_frsize


def test_a_link_is_replaced_whatever_was_left_beside_it(tmp_path: Path) -> None:
    link = tmp_path / "current"
    (tmp_path / ".current.new").symlink_to("left by an interruption")
    durability.replace_link(link, "one")
    durability.replace_link(link, "two")
    assert str(link.readlink()) == "two"
    assert list(tmp_path.iterdir()) == [link]
    durability.remove_link(link)
    durability.remove_link(link)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_put_in_place_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    durability.write_file(path, b"one", 0o600)
    durability.write_file(path, b"two", 0o600)
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]
