"""What other accounts of the device learn: nothing of what the agent keeps, and in one line what to do."""

import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from device_agent.agent_db import DATABASE
from device_agent.cli import local, options, status
from device_agent.cli.main import main
from device_agent.control import SOCKET
from device_agent.journal import Journal
from device_agent.rebuilding import open_journal
from schemas.errors import OperatorError
from tests.unit.agent_shell.fakes import NOW

NOBODY = 65534
LOADED = (local, status)
"""Commands load their modules when they are asked for, which nobody's account may not be able to read here."""


def modes(root: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in root.glob(f"{DATABASE}*")}


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that every account can look into, as `/var/lib/flotilla` is."""
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        yield Path(made)


@contextmanager
def as_somebody_else(*files: Path) -> Iterator[None]:
    """Another account where the tests are root's, else ours without the right to read these files."""
    mine = os.geteuid()
    if mine == 0:
        os.seteuid(NOBODY)
    else:
        for file in files:
            file.chmod(0)
    try:
        yield
    finally:
        if mine == 0:
            os.seteuid(0)
        else:
            for file in files:
                file.chmod(0o700)


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_the_journal_is_its_owners_alone(tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        with Journal(tmp_path) as journal:
            journal.set_note("key", "secret")
            with Journal(tmp_path, read_only=True):
                assert modes(tmp_path) == {DATABASE: 0o600, f"{DATABASE}-wal": 0o600, f"{DATABASE}-shm": 0o600}
    finally:
        os.umask(mask)


def test_what_an_earlier_agent_left_open_is_closed_at_the_start(tmp_path: Path) -> None:
    """Its log too, where it was killed, and a damaged journal that was put aside."""
    with Journal(tmp_path) as journal:
        journal.set_note("key", "secret")
        killed = {path.name: path.read_bytes() for path in tmp_path.glob(f"{DATABASE}*")}
    for name, content in {**killed, f"{DATABASE}.damaged-1": b"secret"}.items():
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o644)
    with Journal(tmp_path) as journal:
        assert journal.get_note("key") == "secret"
        assert len(modes(tmp_path)) == 4
        assert set(modes(tmp_path).values()) == {0o600}


def test_a_damaged_journal_is_its_owners_alone_too(tmp_path: Path) -> None:
    (tmp_path / DATABASE).write_bytes(b"secret" * 2000)
    (tmp_path / DATABASE).chmod(0o644)
    journal, rebuilt = open_journal(tmp_path, device="pi-1", boot_id="", now=NOW + timedelta(days=1))
    journal.close()
    assert rebuilt is not None
    assert set(modes(tmp_path)) >= {DATABASE, rebuilt.kept}
    assert set(modes(tmp_path).values()) == {0o600}


@pytest.mark.parametrize("command", [["status"], ["rollback", "tacho"], ["hold", "on"]])
def test_who_may_not_read_the_journal_is_told_to_use_sudo(
    folder: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    Journal(folder).close()
    with as_somebody_else(folder / DATABASE):
        said = refused([*command, "--root", str(folder), "--id", "pi-1"], capsys)
    assert said == f"flotilla-agent: {folder / DATABASE} may not be read by this account; use sudo\n"


def test_who_may_not_look_into_the_folder_is_told_the_same(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = folder / "root"
    Journal(root).close()
    root.chmod(0o700)
    with as_somebody_else(root):
        assert "agent.db may not be read by this account; use sudo" in refused(
            ["status", "--root", str(root), "--id", "pi-1"], capsys
        )


def test_who_may_not_ask_the_agent_is_told_to_use_sudo(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = folder / "a.flotilla"
    file.touch()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / SOCKET))
        (folder / SOCKET).chmod(0o600)
        listening.listen()
        with as_somebody_else(folder / SOCKET):
            said = refused(["install", str(file), "--root", str(folder), "--id", "pi-1"], capsys)
    assert "agent.sock may not be used by this account; use sudo" in said


@pytest.mark.parametrize("closed", ["file", "folder"])
def test_who_may_not_read_the_configuration_is_told_to_use_sudo(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, closed: str
) -> None:
    etc = folder / "etc"
    etc.mkdir()
    file = etc / "agent.toml"
    file.write_text("id = 'a'")
    (file if closed == "file" else etc).chmod(0o600)
    monkeypatch.setattr(options, "DEFAULT_FILE", file)
    with as_somebody_else(file if closed == "file" else etc):
        said = refused(["status"], capsys)
    assert f"{file}: may not be read by this account; use sudo" in said


def test_a_folder_without_a_journal_is_said_to_be_one(folder: Path) -> None:
    with pytest.raises(OperatorError, match="no agent has ever run there"):
        Journal(folder, read_only=True)
