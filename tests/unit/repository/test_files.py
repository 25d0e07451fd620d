"""Durable files and locks."""

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from controller.repository import files
from controller.repository.files import disk_errors, flush, locked, write_private
from schemas.errors import OperatorError


def test_a_private_file_is_the_owners_alone_and_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    old = os.umask(0)
    try:
        write_private(path, b"secret")
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(OperatorError):
        write_private(path, b"other")
    assert path.read_bytes() == b"secret"
    assert list(tmp_path.iterdir()) == [path]


def test_a_lock_keeps_others_out_for_a_bounded_time(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path, 1):
        with pytest.raises(OperatorError, match="locked") as caught, locked(path, 0.05):
            pytest.fail("two had the lock")
        assert caught.value.code == "data.bad"
    with locked(path, 0):
        pass


def test_a_waiting_thread_gets_the_lock_when_it_is_free(tmp_path: Path) -> None:
    path, order = tmp_path / "lock", []
    waiting = threading.Event()

    def second() -> None:
        waiting.set()
        with locked(path, 30):
            order.append("second")

    thread = threading.Thread(target=second)
    with locked(path, 1):
        thread.start()
        assert waiting.wait(10)
        order.append("first")
    thread.join(30)
    assert order == ["first", "second"]


def test_a_killed_process_keeps_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    script = (
        "import sys,time; from pathlib import Path; from controller.repository.files import locked\n"
        "with locked(Path(sys.argv[1]), 1): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(OperatorError), locked(path, 0):
            pytest.fail("two had the lock")
        process.kill()
        process.wait(10)
    with locked(path, 10):
        pass


@pytest.mark.parametrize("has_syncfs", [True, False])
def test_flushing_works_with_and_without_syncfs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_syncfs: bool
) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", flushed.append)
    if not has_syncfs:
        monkeypatch.setattr(files, "_syncfs", None)
    elif files._syncfs is None:
        pytest.skip("no syncfs on this system")
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.write_bytes(b"x")
    flush(tmp_path, paths)
    assert len(flushed) == (0 if has_syncfs else 3)


@pytest.mark.parametrize(
    ("number", "code"), [(errno.ENOSPC, "disk.full"), (errno.EDQUOT, "disk.full"), (errno.EIO, "disk.io")]
)
def test_disk_errors_become_one_line(number: int, code: str) -> None:
    with pytest.raises(OperatorError) as caught, disk_errors("the folder"):
        raise OSError(number, os.strerror(number))
    assert caught.value.code == code
    assert str(caught.value) == f"the folder: {os.strerror(number)}"
