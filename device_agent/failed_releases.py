"""Which releases have failed on this device, by the hash of their manifest: what is the same fails the same.

A release is announced again under another rollout, or its very bytes under another version's name on another
channel: neither is a reason to try it once more. A person's word is (`retry`), and so is a release that differs.
"""

import sqlite3
from typing import Final

import msgspec

from device_agent.updates import Update
from schemas.failing import is_its_fault
from schemas.messages import Phase

MAX_FAILED: Final = 200
_PREFIX: Final = "failed/"


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """How a release failed: the version it was called, the code, and the number of the update, to forget the oldest."""

    version: str
    code: str
    update: str


def note_end(connection: sqlite3.Connection, row: Update) -> None:
    """Inside the transaction that moves an update: remember a release that has failed, forget one that has not."""
    if row.manifest is None or row.goes_back:
        return
    key = f"{_PREFIX}{row.package}/{row.manifest}"
    if row.phase is Phase.SUCCEEDED:
        connection.execute("DELETE FROM notes WHERE key = ?", (key,))
        return
    if not _is_its_fault(row) or row.error is None:
        return
    failed = Failed(version=row.version, code=row.error.code, update=row.id)
    connection.execute(
        "INSERT OR REPLACE INTO notes (key, value) VALUES (?, ?)", (key, msgspec.json.encode(failed).decode())
    )
    _prune(connection)


def forget(connection: sqlite3.Connection, package: str) -> None:
    """All of a package's releases may be tried again."""
    prefix = f"{_PREFIX}{package}/"
    connection.execute("DELETE FROM notes WHERE substr(key, 1, ?) = ?", (len(prefix), prefix))


def find(connection: sqlite3.Connection, package: str, manifest: str) -> Failed | None:
    """How exactly this release failed here before; None where it may be tried."""
    row = connection.execute("SELECT value FROM notes WHERE key = ?", (f"{_PREFIX}{package}/{manifest}",)).fetchone()
    return msgspec.json.decode(row[0], type=Failed) if row else None


def _is_its_fault(row: Update) -> bool:
    return row.error is not None and is_its_fault(row.phase, row.error.code, switch_begun=row.switch_begun)


def _prune(connection: sqlite3.Connection) -> None:
    rows = connection.execute(
        "SELECT key, value FROM notes WHERE substr(key, 1, ?) = ?", (len(_PREFIX), _PREFIX)
    ).fetchall()
    if len(rows) > MAX_FAILED:
        # ids of updates are UUIDv7: they sort by time
        oldest = sorted(rows, key=lambda row: msgspec.json.decode(row[1], type=Failed).update)
        connection.executemany(
            "DELETE FROM notes WHERE key = ?", [(key,) for key, _ in oldest[: len(rows) - MAX_FAILED]]
        )
