"""The log of changes only grows."""

from datetime import timedelta

import pytest
from sqlalchemy import Engine, delete, text, update
from sqlalchemy.exc import IntegrityError

from controller.accounts.audit import MAX_DETAIL, MIN_KEEP, AuditLog
from controller.accounts.roles import Role, Who
from controller.accounts.tables import audit
from controller.database import utc_now, writing

ANNA = Who(kind="user", name="anna", role=Role.OPERATOR)


@pytest.fixture
def log(engine: Engine) -> AuditLog:
    return AuditLog(engine)


def test_a_row_says_who_from_where_what_on_what_the_result_and_when(log: AuditLog) -> None:
    before = utc_now()
    log.write(ANNA, "rollout.state", "r-1", via="page", address="192.0.2.1", detail='{"state":"halted"}', status=200)
    (row,) = log.entries()
    assert (row.actor, row.role, row.address, row.via) == ("user:anna", Role.OPERATOR, "192.0.2.1", "page")
    assert (row.action, row.target, row.detail) == ("rollout.state", "r-1", '{"state":"halted"}')
    assert (row.result, row.status) == ("done", 200)
    assert before - timedelta(seconds=1) <= row.at <= utc_now()


def test_what_is_written_is_one_line_of_a_bounded_length(log: AuditLog) -> None:
    log.write(ANNA, "user.add", "x\ny\0" * 1000, via="api", address="9" * 500, detail="d" * 10_000)
    (row,) = log.entries()
    assert len(row.target) <= 256
    assert "\n" not in row.target
    assert "\0" not in row.target
    assert len(row.detail) <= MAX_DETAIL
    assert len(row.address or "") <= 64


def test_it_is_read_in_pages_from_the_newest(log: AuditLog) -> None:
    for number in range(5):
        log.write(ANNA, f"action.{number}", via="api")
    newest = log.entries(limit=2)
    assert [row.action for row in newest] == ["action.4", "action.3"]
    assert [row.action for row in log.entries(before=newest[-1].id, limit=2)] == ["action.2", "action.1"]
    assert [row.action for row in log.entries(action="action.0")] == ["action.0"]
    assert log.entries(actor="user:ben") == []


@pytest.mark.parametrize("change", [update(audit).values(actor="user:eve"), delete(audit)])
def test_the_database_itself_refuses_to_change_a_row(engine: Engine, log: AuditLog, change: object) -> None:
    log.write(ANNA, "user.add", "ben", via="api")
    with pytest.raises(IntegrityError, match="only grows"), writing(engine) as connection:
        connection.execute(change)  # type: ignore[call-overload]  # either of two kinds
    assert [row.actor for row in log.entries()] == ["user:anna"]


def test_what_is_older_than_it_is_kept_is_forgotten_and_nothing_younger(engine: Engine, log: AuditLog) -> None:
    now = utc_now()
    for days in (800, 700, 20):
        log.write(ANNA, f"days.{days}", via="api", now=now - timedelta(days=days))
    assert log.prune(timedelta(days=730), now) == 1
    assert [row.action for row in log.entries()] == ["days.20", "days.700"]
    # a shorter time than the least one counts as that
    assert log.prune(timedelta(days=1), now) == 1
    assert [row.action for row in log.entries()] == ["days.20"]
    assert timedelta(days=30) == MIN_KEEP
    with writing(engine) as connection:
        names = connection.scalars(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).all()
    assert {"audit_never_changes", "audit_never_shrinks"} <= set(names)
