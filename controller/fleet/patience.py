"""Database work for asyncio callers: in a thread, and again while the database is away, locked or full."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final, TypeVar

from sqlalchemy.exc import DBAPIError, InterfaceError, InternalError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from controller.logs import told
from schemas.errors import OperatorError, one_line

_FIRST_WAIT_S: Final = 0.5
_LONGEST_WAIT_S: Final = 30.0

log = logging.getLogger(__name__)
T = TypeVar("T")


async def patiently(action: Callable[[], T], *, doing: str) -> T:
    """Run `action` in a thread until the database lets it be done.

    Args:
        action: may be run again from its beginning; a failed run must have changed nothing.
        doing: what it is, for the log line that says why it has to wait.

    Raises:
        SQLAlchemyError: what trying again would not mend.
        OperatorError: likewise, where the action says so by itself.
    """
    wait = _FIRST_WAIT_S
    while True:
        try:
            return await asyncio.to_thread(action)
        except (SQLAlchemyError, OperatorError) as error:
            if not passes(error):
                raise
            log.warning(
                "%s has to wait for the database: %s; next attempt in %g s",
                doing,
                reason(error),
                wait,
                extra=told("database", error, retry_s=wait),
            )
        await asyncio.sleep(wait)
        wait = min(wait * 2, _LONGEST_WAIT_S)


def passes(error: BaseException | None) -> bool:
    """Whether it is the database's state that is at fault, and not what was asked of it."""
    if isinstance(error, OperatorError):
        # `reading` and `writing` say it in one line and chain what the database said.
        return passes(error.__cause__)
    if isinstance(error, (OperationalError, InterfaceError, InternalError, PoolTimeout)):
        return True
    return isinstance(error, DBAPIError) and error.connection_invalidated


def reason(error: Exception) -> str:
    """Why, in one line: the driver's own words where they are there."""
    return one_line(error.orig if isinstance(error, DBAPIError) else error)
