"""What went wrong in a rollout: by error code, and by what the devices said of it."""

import re
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, and_, func, select

from controller.fleet.tables import events
from controller.fleet.views import kept_event
from controller.rollouts.judging import TAKEN_BACK
from controller.rollouts.tables import rollout_devices
from controller.rollouts.views import Failure

MOST_READ: Final = 500
"""Devices with one code whose messages are read, the first by id: a page is drawn of them again and again."""

MOST_TOLD: Final = 5
"""Messages of one code that are told apart; a device can say anything."""

_word = rollout_devices.c
_NUMBER: Final = re.compile(r"\d+")


class _Error(msgspec.Struct, frozen=True):
    message: str = ""


class _Said(msgspec.Struct, frozen=True):
    """What is needed of an event to compare what devices say; log tails, which are long, are passed over."""

    error: _Error | None = None


_said: Final = msgspec.json.Decoder(_Said)


def read_failures(connection: Connection, rollout: str, shown: int) -> list[Failure]:
    """What went wrong, the most frequent code first, and of each code the most frequent message.

    Args:
        connection: to read from.
        rollout: its id.
        shown: so many devices at most are named for each message.
    """
    failed = (_word.rollout == rollout, _word.error_code.is_not(None), _word.error_code != TAKEN_BACK)
    counted = select(_word.error_code, func.count()).where(*failed).group_by(_word.error_code)
    counts = sorted(connection.execute(counted).all(), key=lambda row: (-row[1], row[0]))
    return [one for code, count in counts for one in _with_code(connection, rollout, code, count, shown)]


def alike(message: str, device: str) -> str:
    """A message without what differs from device to device: the device's own name, and numbers."""
    if device in message:
        message = re.sub(rf"(?<![\w-]){re.escape(device)}(?![\w-])", "-", message)
    return _NUMBER.sub("0", message)


def _with_code(connection: Connection, rollout: str, code: str, count: int, shown: int) -> list[Failure]:
    latest = and_(events.c.device == _word.device, events.c.life == _word.life, events.c.seq == _word.seq)
    found = (
        select(_word.device, events.c.payload)
        .select_from(rollout_devices)
        .outerjoin(events, latest)
        .where(_word.rollout == rollout, _word.error_code == code)
        .order_by(_word.device)
        .limit(MOST_READ + shown)
    )
    groups: dict[str | None, list[Any]] = {}
    for place, row in enumerate(connection.execute(found)):
        error = _said.decode(row.payload).error if row.payload and place < MOST_READ else None
        groups.setdefault(None if error is None else alike(error.message, row.device), []).append(row)
    rest = groups.pop(None, [])
    by_number = sorted(groups.values(), key=lambda group: (-len(group), group[0].device))
    told = [_failure(code, group, shown) for group in by_number[:MOST_TOLD]]
    others = count - sum(one.count for one in told)
    if others <= 0:
        return told
    names = sorted(row.device for group in (*by_number[MOST_TOLD:], rest) for row in group)
    return [*told, Failure(code=code, count=others, devices=names[:shown], message="", log_tail="")]


def _failure(code: str, group: list[Any], shown: int) -> Failure:
    first = group[0]
    error = kept_event(first.payload).error
    return Failure(
        code=code,
        count=len(group),
        devices=[row.device for row in group[:shown]],
        message=error.message if error else "",
        log_tail=error.log_tail if error else "",
        said_by=first.device,
    )
