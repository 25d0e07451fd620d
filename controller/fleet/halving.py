"""Stores many things at once, and where that is refused finds which of them it is: one must not hold up all others."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from sqlalchemy.exc import SQLAlchemyError

T = TypeVar("T")

UNFIT: Final[tuple[type[Exception], ...]] = (SQLAlchemyError, ValueError, ArithmeticError)
"""What is raised where a value is at fault, and not the database's state."""


async def store_but_unfit(
    things: Sequence[T],
    store: Callable[[Sequence[T]], Awaitable[None]],
    leave_out: Callable[[T, Exception], None],
    *,
    unfit: tuple[type[Exception], ...] = UNFIT,
) -> None:
    """Store all of them, in their order, without those that cannot be.

    Args:
        things: at least one.
        store: takes some of them, all or none.
        leave_out: told of each one that cannot be stored by itself, and why.
        unfit: what `store` raises where one of them is at fault; anything else is passed on.
    """
    try:
        await store(things)
    except unfit as error:
        if len(things) == 1:
            leave_out(things[0], error)
            return
    else:
        return
    middle = len(things) // 2
    for half in (things[:middle], things[middle:]):
        await store_but_unfit(half, store, leave_out, unfit=unfit)
