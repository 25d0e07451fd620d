"""What an operator asked single devices of a rollout for: `cancel` or `retry`. Asked for is not done: devices answer.

A device has answered when its word about the rollout is newer than the one that was known when it was asked, and for
`cancel` is a last one; or, asked to try again, when it turns out to run what the rollout brings. Until then the command
is sent again whenever it has expired and the device is there.
"""

import secrets
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import ColumnElement, Connection, and_, delete, insert, or_, select, update

from controller.database import from_db, to_db
from controller.fleet.orders import ask_to_report
from controller.fleet.sql import chunks, insert_into, map_of
from controller.fleet.tables import commands, device_packages, devices
from controller.rollouts.plan import ENDED, STARTING, RolloutState
from controller.rollouts.tables import rollout_asks, rollout_devices, rollouts
from schemas.ids import uuid7
from schemas.messages import LAST_WORDS, Phase, Targets, Verb
from schemas.targeting import is_meant

EXPIRY: Final = timedelta(hours=1)
"""A device that is away hears of it when it comes back within this time; one that stays away is asked again then."""

_ask = rollout_asks.c
_word = rollout_devices.c
_ENDED: Final = [phase.value for phase in LAST_WORDS]

_OVER: Final = ENDED | {RolloutState.REVERTED}

_runs = device_packages.c
_reported_since: Final[ColumnElement[bool]] = or_(
    devices.c.life > _ask.life, and_(devices.c.life == _ask.life, devices.c.reported_seq >= _ask.seq)
)
"""Its last report knows of the word that was known when it was asked."""
_newer: Final[ColumnElement[bool]] = or_(_word.life > _ask.life, and_(_word.life == _ask.life, _word.seq > _ask.seq))
_ANSWERED: Final[ColumnElement[bool]] = or_(
    and_(_newer, _word.phase.is_not(None), or_(_ask.verb == Verb.RETRY.value, _word.phase.in_(_ENDED))),
    # it has the release already, by another way, and nothing to say of this one
    and_(
        _ask.verb == Verb.RETRY.value,
        _word.phase.is_(None),
        _runs.version == rollouts.c.version,
        _runs.phase == Phase.SUCCEEDED.value,
        _reported_since,
    ),
)
"""Of an ask joined to its device's word and report."""


_WITH_WORDS: Final = (
    rollout_asks.outerjoin(rollout_devices, and_(_word.rollout == _ask.rollout, _word.device == _ask.device))
    .join(devices, devices.c.id == _ask.device)
    .join(rollouts, rollouts.c.id == _ask.rollout)
    .outerjoin(device_packages, and_(_runs.device == _ask.device, _runs.package == rollouts.c.package))
)
_ANY: Final = select(_ask.rollout).limit(1)
_OPEN: Final = (
    select(_ask.rollout, _ask.device, _ask.verb, _ask.expires_at, _ANSWERED.label("answered"))
    .add_columns(devices.c.online, devices.c.missing, _word.update_id, _word.phase)
    .add_columns(rollouts.c.package, rollouts.c.version, rollouts.c.state)
    .select_from(_WITH_WORDS)
)


class Asked(NamedTuple):
    """What a device was asked for, and when, by the controller's clock."""

    verb: Verb
    at: datetime


def ask(connection: Connection, rollout: Any, verb: Verb, asked: Iterable[str], now: datetime) -> None:
    """Ask devices of a rollout, in place of what they were asked before. In a writing transaction.

    Args:
        rollout: its row.
        verb: `cancel` or `retry`.
        asked: ids of devices that were heard of.
    """
    names = sorted(asked)
    words: dict[str, tuple[int, int]] = {}
    ended: dict[str, str | None] = {}
    for some in chunks(names):
        found = select(_word.device, _word.life, _word.seq, _word.update_id, _word.phase).where(
            _word.rollout == rollout["id"], _word.device.in_(some)
        )
        for device, life, seq, update_id, phase in connection.execute(found):
            words[device] = (life, seq)
            ended[device] = _taken_back(update_id, phase)
    times = {"asked_at": to_db(now), "expires_at": to_db(now + EXPIRY)}
    rows = [
        {"rollout": rollout["id"], "device": device, "verb": verb.value, "life": life, "seq": seq, **times}
        for device in names
        for life, seq in [words.get(device, (0, 0))]
    ]
    if rows:
        statement = insert_into(connection, rollout_asks)
        changed = {name: statement.excluded[name] for name in ("verb", "life", "seq", *times)}
        connection.execute(
            statement.on_conflict_do_update(index_elements=[_ask.rollout, _ask.device], set_=changed), rows
        )
        _send(connection, rollout, [(verb, device, ended.get(device)) for device in names], now)


def review(connection: Connection, heard: Collection[str], reported: Collection[str], now: datetime) -> int:
    """Forget what devices have answered, and ask those again that are there and have not heard of it.

    Args:
        connection: in a writing transaction, after what was heard is in it.
        heard: devices that something came from.
        reported: those of them that have said how many events there are: of the others a word may be under way.
        now: the controller's clock.

    Returns:
        How many commands there are to send.
    """
    sent = 0
    if connection.scalar(_ANY) is None:
        return sent  # as nearly always
    for some in chunks(sorted(heard)):
        for row in connection.execute(_OPEN.where(_ask.device.in_(some))).mappings().all():
            # one that lasts longer than any can is from before the clock was put back
            over = not to_db(now) < row["expires_at"] <= to_db(now + EXPIRY)
            starts = RolloutState(row["state"]) in STARTING or row["verb"] == Verb.CANCEL.value
            lost = over and starts and row["device"] in reported
            # nobody starts in what a newer rollout took the place of, and devices stop by themselves what waits of it
            void = RolloutState(row["state"]) in (_OVER if row["verb"] == Verb.RETRY.value else ENDED)
            if row["answered"] or void:
                connection.execute(
                    delete(rollout_asks).where(_ask.rollout == row["rollout"], _ask.device == row["device"])
                )
            elif lost and row["online"] and row["missing"] is None:
                _ask_again(connection, row, now)
                sent += 1
    return sent


def open_asks(connection: Connection, rollout: str, some: Collection[str] | None = None) -> dict[str, Asked]:
    """What devices of a rollout have been asked for and have not answered; all of them, or of these."""
    found: dict[str, Asked] = {}
    question = select(_ask.device, _ask.verb, _ask.asked_at, _ANSWERED.label("answered")).select_from(_WITH_WORDS)
    question = question.where(_ask.rollout == rollout)
    for part in [None] if some is None else chunks(sorted(some)):
        limited = question if part is None else question.where(_ask.device.in_(part))
        for device, verb, asked_at, answered in connection.execute(limited):
            if not answered:
                found[device] = Asked(Verb(verb), from_db(asked_at))
    return found


def asked_of(connection: Connection, rollout: Any, some: Collection[str] | None = None) -> dict[str, Asked]:
    """As `open_asks` of a rollout's row, and those that are to stop because all of it is, and have not said so.

    A device that has said nothing may have begun all the same, as long as it was not heard of since.
    """
    found = open_asks(connection, rollout["id"], some)
    moment = rollout["cancel_asked_at"]
    for row in _to_stop(connection, rollout):
        if some is None or row["id"] in some:
            found.setdefault(row["id"], Asked(Verb.CANCEL, from_db(moment)))
    return found


def ask_all_to_stop(connection: Connection, rollout: Any, now: datetime) -> None:
    """Have those report that say nothing by themselves when all of a rollout is to stop: nothing of it is under way.

    Such a device is pinned, for instance, or takes no such package. A retry that was asked for, and has not been
    answered, is taken back with it.

    Args:
        connection: in a writing transaction.
        rollout: its row, halted and with the moment since when all of it is to stop.
        now: the controller's clock.
    """
    connection.execute(delete(rollout_asks).where(_ask.rollout == rollout["id"], _ask.verb == Verb.RETRY.value))
    quiet = [one["id"] for one in _to_stop(connection, rollout) if one["phase"] is None and one["online"]]
    ask_to_report(connection, quiet, expires_in=EXPIRY, now=now)


def _to_stop(connection: Connection, rollout: Any) -> list[Any]:
    """The devices that have yet to say that they stopped, or (`phase` is None) to be heard of, as all of it is to."""
    moment = rollout["cancel_asked_at"]
    if moment is None or rollout["state"] != RolloutState.HALTED.value:
        return []
    targets = msgspec.json.decode(rollout["targets"], type=Targets)
    known = (devices.c.id, devices.c.last_seen, devices.c.online, devices.c.tags, devices.c.facts)
    question = (
        select(*known, _word.phase)
        .join(rollout_devices, _word.device == devices.c.id)
        .where(_word.rollout == rollout["id"], or_(_word.phase.is_(None), _word.phase.not_in(_ENDED)))
    )
    return [
        row
        for row in connection.execute(question).mappings()
        if row["phase"] is not None or (row["last_seen"] < moment and _is_meant(targets, rollout["id"], row))
    ]


def _is_meant(targets: Targets, rollout: str, row: Any) -> bool:
    known = {"tags": map_of(row["tags"]), "facts": map_of(row["facts"])}
    return is_meant(targets, rollout=rollout, device=row["id"], **known)


def _ask_again(connection: Connection, row: Any, now: datetime) -> None:
    key = (_ask.rollout == row["rollout"], _ask.device == row["device"])
    connection.execute(update(rollout_asks).where(*key).values(expires_at=to_db(now + EXPIRY)))
    rollout = {"id": row["rollout"], "package": row["package"], "version": row["version"]}
    ended = _taken_back(row["update_id"], row["phase"])
    _send(connection, rollout, [(Verb(row["verb"]), row["device"], ended)], now)


def _taken_back(update_id: str | None, phase: str | None) -> str | None:
    """The update whose last word is known and was taken back by a retry; None where there is no such word."""
    return update_id if phase is None else None


def _send(connection: Connection, rollout: Any, asked: list[tuple[Verb, str, str | None]], now: datetime) -> None:
    rows = []
    for verb, device, ended in asked:
        args = {"package": rollout["package"], "rollout": rollout["id"]}
        if verb is Verb.CANCEL:
            args["version"] = rollout["version"]
            # without it the device would take its word of then for the answer, and say no more
            args |= {"ended": ended} if ended else {}
        rows.append(
            {
                "id": uuid7(to_db(now) // 1000, secrets.token_bytes(10)),
                "device": device,
                "verb": verb.value,
                "args": msgspec.json.encode(args).decode(),
                "created_at": to_db(now),
                "expires_at": to_db(now + EXPIRY),
                "sent_at": None,
            }
        )
    connection.execute(insert(commands), rows)
