"""What single devices are told: the state they are to be in (`desired`), and commands. Stored, then published."""

import secrets
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Engine, Integer, bindparam, delete, insert, select, update

from controller.database import from_db, reading, to_db, utc_now, writing
from controller.fleet.sql import chunks, insert_into
from controller.fleet.tables import commands, counters, desired, devices
from controller.fleet.views import SentCommand, unknown_device
from controller.rollouts.tables import rollouts
from controller.rollouts.words import begin_anew
from schemas.codec import encode
from schemas.errors import ContractError, OperatorError, one_line
from schemas.ids import uuid7
from schemas.messages import MAX_SEQ, OF_PACKAGE, Command, Desired, Message, Verb
from schemas.names import PACKAGE_PATTERN, matches, wrong
from schemas.versions import parse

DEFAULT_EXPIRY: Final = timedelta(hours=1)
KEPT: Final = timedelta(days=30)
"""Commands are kept this long after they expired."""

SESSIONS: Final = "controller.session"


_ALL: Final = (
    select(desired)
    .where(desired.c.device > bindparam("after"))
    .order_by(desired.c.device)
    .limit(bindparam("limit", type_=Integer))
)
_CHANGED: Final = _ALL.where(desired.c.published_rev < desired.c.rev)
_PENDING: Final = (
    select(commands)
    .where(commands.c.sent_at.is_(None), commands.c.expires_at > bindparam("now"))
    .order_by(commands.c.id)
    .limit(bindparam("limit", type_=Integer))
)


class DesiredRow(msgspec.Struct, frozen=True, kw_only=True):
    """What a device's `desired` topic is to hold."""

    device: str
    rev: int
    payload: bytes


class OrderStore:
    """Synchronous, safe from any thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def set_desired(
        self,
        device: str,
        *,
        channel: str | None = None,
        tags: Mapping[str, str] | None = None,
        pins: Mapping[str, str] | None = None,
        hold: bool | None = None,
        now: datetime | None = None,
    ) -> Desired:
        """Say what one device is to be like, in place of all that was said before.

        Args:
            device: its id.
            channel: instead of the one it is configured with; None leaves that.
            tags: likewise.
            pins: package to the version it stays at.
            hold: start no update at all.
            now: the controller's clock.

        Raises:
            OperatorError: `device.unknown`, or `input.bad` where something breaks the contract.
            PublisherError: `version.bad` for a pin.
        """
        said = Desired(
            rev=0,
            channel=channel,
            tags=None if tags is None else dict(tags),
            pins=None if pins is None else dict(pins),
            hold=hold,
        )
        return self.change_desired(device, lambda _: said, now)

    def change_desired(self, device: str, change: Callable[[Desired], Desired], now: datetime | None = None) -> Desired:
        """Say something else of one device, made from what was said before; of two at once, one sees the other's.

        Args:
            device: its id.
            change: is given what was said last, revision 0 for nothing, and returns what is to be said, of any
                revision. What it raises changes nothing.
            now: the controller's clock.

        Raises:
            OperatorError: as `set_desired`, and PublisherError likewise.
        """
        with writing(self._engine) as connection:
            # the device's row, as there may be none yet of what it was told
            _require(connection, device, locked=True)
            kept = connection.execute(
                select(desired.c.rev, desired.c.payload).where(desired.c.device == device)
            ).first()
            before = Desired(rev=0) if kept is None else msgspec.json.decode(kept.payload, type=Desired)
            message = msgspec.structs.replace(change(before), rev=1 if kept is None else kept.rev + 1)
            pins = message.pins or {}
            for version in pins.values():
                parse(version)
            for package, version in (before.pins or {}).items():
                if pins.get(package) != version:
                    begin_anew(connection, [device], rollouts.c.package == package, rollouts.c.version != version)
            statement = insert_into(connection, desired).values(
                device=device,
                rev=message.rev,
                payload=_checked(message).decode(),
                changed_at=to_db(now or utc_now()),
                published_rev=0,
            )
            new = {name: statement.excluded[name] for name in ("rev", "payload", "changed_at")}
            connection.execute(statement.on_conflict_do_update(index_elements=[desired.c.device], set_=new))
        return message

    def desired(self, device: str) -> Desired | None:
        """What was said last, or None."""
        with reading(self._engine) as connection:
            payload = connection.scalar(select(desired.c.payload).where(desired.c.device == device))
        return msgspec.json.decode(payload, type=Desired) if payload is not None else None

    def desired_rows(self, *, changed_only: bool, after: str = "", limit: int = 500) -> list[DesiredRow]:
        """What `desired` topics are to hold, by device; all of them, or those not published yet."""
        found = _CHANGED if changed_only else _ALL
        about = {"after": after, "limit": limit}
        with reading(self._engine) as connection:
            return [
                DesiredRow(device=row["device"], rev=row["rev"], payload=row["payload"].encode())
                for row in connection.execute(found, about).mappings()
            ]

    def mark_published(self, rows: Iterable[DesiredRow]) -> None:
        """The broker has taken these."""
        with writing(self._engine) as connection:
            for row in rows:
                key = (desired.c.device == row.device, desired.c.published_rev < row.rev)
                connection.execute(update(desired).where(*key).values(published_rev=row.rev))

    def send_command(
        self,
        device: str,
        verb: Verb,
        args: Mapping[str, Any] | None = None,
        *,
        expires_in: timedelta = DEFAULT_EXPIRY,
        now: datetime | None = None,
    ) -> SentCommand:
        """Ask a device for something; it is published as soon as there is a connection.

        Args:
            device: its id.
            verb: what for.
            args: `replay` takes `after_seq`; `retry`, `cancel` and `rollback` take `package`; the others nothing.
            expires_in: after this it is not worth doing any more.
            now: the controller's clock.

        Raises:
            OperatorError: `device.unknown`, or `input.bad`.
        """
        now = now or utc_now()
        _check_args(verb, args or {})
        if expires_in <= timedelta():
            raise OperatorError("input.bad", "a command must not have expired before it is sent")
        command = Command(
            id=uuid7(to_db(now) // 1000, secrets.token_bytes(10)),
            verb=verb,
            args=dict(args or {}),
            expires_at=now + expires_in,
        )
        _checked(command)
        row = {
            "id": command.id,
            "device": device,
            "verb": verb.value,
            "args": msgspec.json.encode(command.args).decode(),
            "created_at": to_db(now),
            "expires_at": to_db(command.expires_at),
            "sent_at": None,
        }
        with writing(self._engine) as connection:
            _require(connection, device)
            connection.execute(insert(commands).values(row))
        return _command(row)

    def ask_to_report(self, asked: Iterable[str], *, expires_in: timedelta, now: datetime) -> int:
        """Ask many devices at once to report; those that were never heard of are left out. Returns how many."""
        with writing(self._engine) as connection:
            return ask_to_report(connection, asked, expires_in=expires_in, now=now)

    def commands(self, device: str, *, before: str | None = None, limit: int = 50) -> list[SentCommand]:
        """The latest commands to a device, the newest first; those with an id below `before`."""
        found = select(commands).where(commands.c.device == device).order_by(commands.c.id.desc()).limit(limit)
        if before is not None:
            found = found.where(commands.c.id < before)
        with reading(self._engine) as connection:
            return [_command(row) for row in connection.execute(found).mappings()]

    def pending(self, now: datetime, *, limit: int = 500) -> list[SentCommand]:
        """Commands that wait to be published and have not expired, the oldest first."""
        with reading(self._engine) as connection:
            rows = connection.execute(_PENDING, {"now": to_db(now), "limit": limit}).mappings()
            return [_command(row) for row in rows]

    def mark_sent(self, ids: Iterable[str], now: datetime) -> None:
        """The broker has taken these."""
        with writing(self._engine) as connection:
            for one in ids:
                connection.execute(update(commands).where(commands.c.id == one).values(sent_at=to_db(now)))

    def forget_old(self, now: datetime) -> int:
        """Remove commands that expired long ago; returns how many."""
        with writing(self._engine) as connection:
            return connection.execute(delete(commands).where(commands.c.expires_at < to_db(now - KEPT))).rowcount

    def next_session(self) -> int:
        """The number of the controller's next connection; grows for ever."""
        with writing(self._engine) as connection:
            statement = insert_into(connection, counters).values(name=SESSIONS, value=1)
            grown = statement.on_conflict_do_update(
                index_elements=[counters.c.name], set_={"value": counters.c.value + 1}
            )
            connection.execute(grown)
            return connection.scalar(select(counters.c.value).where(counters.c.name == SESSIONS)) or 1


def ask_to_report(connection: Connection, asked: Iterable[str], *, expires_in: timedelta, now: datetime) -> int:
    """See `OrderStore.ask_to_report`; in a writing transaction."""
    times = {"created_at": to_db(now), "expires_at": to_db(now + expires_in), "sent_at": None}
    common = {"verb": Verb.REPORT.value, "args": "{}", **times}
    rows: list[dict[str, Any]] = []
    for some in chunks(list(asked)):
        known = connection.scalars(select(devices.c.id).where(devices.c.id.in_(some)).order_by(devices.c.id))
        rows += [{"id": uuid7(to_db(now) // 1000, secrets.token_bytes(10)), "device": one} for one in known]
    if rows:
        connection.execute(insert(commands), [row | common for row in rows])
    return len(rows)


def _require(connection: Connection, device: str, *, locked: bool = False) -> None:
    found = select(devices.c.id).where(devices.c.id == device)
    if connection.scalar(found.with_for_update() if locked else found) is None:
        raise unknown_device(device)


def _check_args(verb: Verb, args: Mapping[str, Any]) -> None:
    if verb in OF_PACKAGE:
        package = args.get("package")
        known = {"package", "any_size"} if verb is Verb.RETRY else {"package"}
        good = set(args) <= known and isinstance(package, str) and matches(PACKAGE_PATTERN, package)
        good = good and isinstance(args.get("any_size", False), bool)
        wanted = '{"package": NAME, "any_size": true or false}' if verb is Verb.RETRY else '{"package": NAME}'
    elif verb is Verb.REPLAY:
        after = args.get("after_seq")
        good = set(args) == {"after_seq"} and type(after) is int and 0 <= after <= MAX_SEQ
        wanted = '{"after_seq": NUMBER}'
    else:
        good, wanted = not args, "none"
    if not good:
        raise OperatorError("input.bad", f"arguments of {verb}: {wanted}, and not {one_line(dict(args), 100)}")


def _checked(message: Message) -> bytes:
    """The message as bytes, after every rule of the contract was applied to it."""
    try:
        payload = encode(message)
        msgspec.json.decode(payload, type=type(message))
    except (ContractError, msgspec.ValidationError) as error:
        name = type(message).__name__.lower()
        why = error if isinstance(error, ContractError) else wrong(error)
        raise OperatorError("input.bad", f"the {name} message would break the contract: {one_line(why)}") from error
    return payload


def _command(row: Any) -> SentCommand:
    return SentCommand(
        id=row["id"],
        device=row["device"],
        verb=Verb(row["verb"]),
        args=msgspec.json.decode(row["args"]),
        created_at=from_db(row["created_at"]),
        expires_at=from_db(row["expires_at"]),
        sent_at=None if row["sent_at"] is None else from_db(row["sent_at"]),
    )


def pins_of(payload: str) -> dict[str, str]:
    """The versions that a stored desired state holds a device at, by package."""
    return dict(msgspec.json.decode(payload, type=Desired).pins or {})
