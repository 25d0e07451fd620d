"""The log of every change: who, from where, what, on what, with which result, and when. It only grows.

The database itself refuses to change a row, and to delete one that is younger than `MIN_KEEP`.
"""

import getpass
import os
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Engine, delete, insert, select

from controller.accounts.roles import Role, Who
from controller.accounts.tables import audit
from controller.accounts.views import AuditEntry
from controller.database import from_db, reading, to_db, utc_now, writing
from controller.fleet.sql import text_of
from schemas.errors import one_line

MIN_KEEP: Final = timedelta(days=30)
KEEP_AUDIT_DAYS: Final = 730
MAX_DETAIL: Final = 2000
DONE: Final = "done"
_BATCH: Final = 1000
_ADD: Final = insert(audit)


class AuditLog:
    """Synchronous, safe from any thread: the one place where changes are written down."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def write(
        self,
        who: Who,
        action: str,
        target: str = "",
        *,
        via: str,
        address: str | None = None,
        detail: str = "",
        result: str = DONE,
        status: int | None = None,
        now: datetime | None = None,
    ) -> None:
        """Add a row; see `AuditEntry` for what each part means."""
        row = {
            "at": to_db(now or utc_now()),
            "actor": who.actor,
            "role": who.role.value if who.role is not None else None,
            "address": None if address is None else one_line(address, 64),
            "via": via,
            "action": action,
            "target": text_of(one_line(target, 256)),
            "detail": text_of(one_line(detail, MAX_DETAIL)),
            "result": result,
            "status": status,
        }
        with writing(self._engine) as connection:
            connection.execute(_ADD, row)

    def entries(
        self,
        *,
        before: int | None = None,
        limit: int = 100,
        actor: str | None = None,
        action: str | None = None,
        target: str | None = None,
    ) -> list[AuditEntry]:
        """The newest first; those with an id below `before`, by this actor, of this action, on this target."""
        found = select(audit).order_by(audit.c.id.desc()).limit(limit)
        if before is not None:
            found = found.where(audit.c.id < before)
        for column, wanted in ((audit.c.actor, actor), (audit.c.action, action), (audit.c.target, target)):
            if wanted is not None:
                found = found.where(column == text_of(wanted))
        with reading(self._engine) as connection:
            return [_entry(row) for row in connection.execute(found).mappings()]

    def prune(self, keep: timedelta, now: datetime | None = None) -> int:
        """Forget rows older than `keep`, and never any younger than `MIN_KEEP`; returns how many."""
        before = to_db((now or utc_now()) - max(keep, MIN_KEEP))
        removed = 0
        while True:
            old = select(audit.c.id).where(audit.c.at < before).order_by(audit.c.at).limit(_BATCH)
            with writing(self._engine) as connection:
                ids = connection.scalars(old).all()
                if not ids:
                    return removed
                # by range, as a statement takes no more than some hundred values
                some = delete(audit).where(audit.c.id.between(min(ids), max(ids)), audit.c.at < before)
                removed += connection.execute(some).rowcount


def local_person() -> Who:
    """Whoever runs a command on the data folder itself: they can do anything with it."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = str(os.getuid())
    return Who(kind="local", name=one_line(name, 63), role=Role.ADMIN)


def _entry(row: Any) -> AuditEntry:
    return AuditEntry(
        id=row["id"],
        at=from_db(row["at"]),
        actor=row["actor"],
        role=None if row["role"] is None else Role(row["role"]),
        address=row["address"],
        via=row["via"],
        action=row["action"],
        target=row["target"],
        detail=row["detail"],
        result=row["result"],
        status=row["status"],
    )
