"""A journal that is damaged is put aside, kept for people, and begun anew; its numbers go on where they were.

What is installed is then found on the disk, see `adopting`. What is lost: updates that had not ended, events
that nobody had yet (the controller sees the gap), and how rollouts ended here before.
"""

import contextlib
import re
import sqlite3
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

from device_agent.agent_db import DATABASE, DamagedDatabaseError
from device_agent.durability import disk_errors, flush_folder
from device_agent.journal import Journal
from schemas.errors import one_line

DAMAGED: Final = f"{DATABASE}.damaged-"
MAX_DAMAGED: Final = 2
"""Damaged journals that are kept for people."""
MAX_SCAN_BYTES: Final = 256 * 1024 * 1024
_PARTS: Final = ("", "-wal", "-shm")
_CHUNK: Final = 1024 * 1024
_OVERLAP: Final = 64
_NUMBER: Final = re.compile(rb'"seq":(\d{1,15})[,}]')


class Rebuilt(NamedTuple):
    """What became of a damaged journal: the file that it is kept as, why, and the last event's number found in it."""

    kept: str
    why: str
    seq: int


def open_journal(root: Path, *, device: str, boot_id: str, now: datetime) -> tuple[Journal, Rebuilt | None]:
    """The journal, begun anew where the one on the disk is damaged.

    Raises:
        DeviceError: as `Journal`; `disk.*` also where the damaged one cannot be put aside.
        OperatorError: `data.bad`.
    """
    try:
        return Journal(root, device=device, boot_id=boot_id), None
    except DamagedDatabaseError as error:
        path = root / DATABASE
        seq, session = last_seq(path), _session(path) or int(now.timestamp())
        kept = _put_aside(root, now)
        journal = Journal(root, device=device, boot_id=boot_id)
        journal.count_on_from(seq=seq, session=session)
        return journal, Rebuilt(kept, one_line(error), seq)


def last_seq(path: Path) -> int:
    """The highest number of an event in a database and its log, found without understanding either; 0 for none."""
    highest = 0
    for part in ("", "-wal"):
        with contextlib.suppress(OSError):
            for chunk in _chunks(path.with_name(path.name + part)):
                highest = max([highest, *(int(number) for number in _NUMBER.findall(chunk))])
    return highest


def _session(path: Path) -> int:
    # only where that much of it can still be read
    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection,
    ):
        row = connection.execute("SELECT value FROM counters WHERE name = 'session'").fetchone()
        return int(row[0]) if row else 0
    return 0


def _put_aside(root: Path, now: datetime) -> str:
    name = f"{DAMAGED}{now:%Y%m%dT%H%M%SZ}"
    with disk_errors(f"put the damaged {DATABASE} aside"):
        for part in reversed(_PARTS):  # the database itself last: done again where this is cut off
            with contextlib.suppress(FileNotFoundError):
                (root / f"{DATABASE}{part}").replace(root / f"{name}{part}")
        flush_folder(root)
        stamps = sorted({path.name.partition("-wal")[0].partition("-shm")[0] for path in root.glob(f"{DAMAGED}*")})
        for old in stamps[:-MAX_DAMAGED]:
            for part in _PARTS:
                (root / f"{old}{part}").unlink(missing_ok=True)
    return name


def _chunks(path: Path) -> Iterator[bytes]:
    left, before = MAX_SCAN_BYTES, b""
    with path.open("rb") as stream:
        while left > 0 and (chunk := stream.read(_CHUNK)):
            left -= len(chunk)
            yield before + chunk
            before = chunk[-_OVERLAP:]
