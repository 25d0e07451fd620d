"""Carries out what a controller asks of this device: replay, report, retry, cancel, rollback, check.

At most once each: a command's id is noted before anything is done, because a rollback that is done twice
goes back two releases. Whoever asked sees what came of it in events and in the report.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

from device_agent.heard import Heard
from device_agent.logs import line, logger
from device_agent.reports import defect
from device_agent.threads import in_thread
from device_agent.updates import Cancelled, Submitted
from schemas.errors import ContractError, FlotillaError
from schemas.messages import Command, Verb
from schemas.names import PACKAGE_PATTERN, UUID7_PATTERN, matches

MAX_WAITING: Final = 64
"""Commands that wait for the one that is being carried out; more are refused."""
MAX_SEQ: Final = 2**53 - 1
LONGEST_VALID_S: Final = 7 * 86_400
"""As long as a controller may let a command be valid."""
MAX_VERSION: Final = 256


class Updates(Protocol):
    """The part of the update manager that this needs."""

    async def cancel(
        self, package: str, *, rollout: str | None = None, version: str | None = None, ended: str | None = None
    ) -> Cancelled:
        """Stop what has not begun to switch; with `rollout` only what belongs to that."""
        ...

    async def rollback(self, package: str) -> str:
        """Go back to the previous release."""
        ...

    async def retry(self, package: str, *, any_size: bool = False, rollout: str | None = None) -> Submitted | None:
        """Try what ended badly once more, however much it takes where `any_size` is set."""
        ...


class Commands:
    """See the module. `take` is the inbox's, `serve` a task of its own: a cancellation may take half a minute."""

    def __init__(
        self,
        *,
        updates: Updates,
        heard: Heard,
        now: Callable[[], datetime],
        replay: Callable[[int], None],
        report: Callable[[], None],
        check: Callable[[], Awaitable[None]],
    ) -> None:
        """
        Args:
            replay: send the events above a `seq` again.
            report: publish what is true, soon.
            check: look at the configuration, broker, repository, disk and clock, and have the result reported.
        """
        self._updates = updates
        self._heard = heard
        self._now = now
        self._replay = replay
        self._report = report
        self._check = check
        self._waiting: asyncio.Queue[Command] = asyncio.Queue(MAX_WAITING)

    async def take(self, command: Command, valid_s: int | None = None) -> None:
        """Note a command and have it carried out. Expired and repeated ones are left alone.

        Args:
            command: as it came.
            valid_s: seconds that the broker says are left of it, who counts them itself: this device's clock may be
                years ahead. None where it does not say.
        """
        now = self._now()
        until = command.expires_at
        if valid_s is not None:
            until = max(until, now + timedelta(seconds=min(valid_s, LONGEST_VALID_S)))
        if until <= now:
            logger().info(line("command", "has expired and is ignored", verb=command.verb.value, command=command.id))
        elif self._waiting.full():
            logger().warning(line("command", "too many at once, ignored", verb=command.verb.value, command=command.id))
        elif await in_thread(self._heard.take_command, command.id, until, now):
            self._waiting.put_nowait(command)
        else:
            logger().debug(line("command", "came again", verb=command.verb.value, command=command.id))

    async def serve(self) -> None:
        """Carry out commands in the order in which they came, until cancelled."""
        while True:
            command = await self._waiting.get()
            try:
                outcome = await self._carry_out(command)
            except FlotillaError as error:
                logger().warning(line("command", error, verb=command.verb.value, command=command.id, code=error.code))
            except Exception as error:  # noqa: BLE001  # one command must not end what updates the device
                why = defect(error)
                logger().error(line("command", why, verb=command.verb.value, command=command.id, code=why.code))
            else:
                logger().info(line("command", outcome, verb=command.verb.value, command=command.id))

    async def _carry_out(self, command: Command) -> str:
        outcome = "done"
        match command.verb:
            case Verb.REPLAY:
                self._replay(_seq(command.args))
            case Verb.REPORT:
                self._report()
            case Verb.CHECK:
                await self._check()
            case Verb.RETRY:
                outcome = await self._retry(command.args)
            case Verb.CANCEL:
                args = command.args
                made = await self._updates.cancel(
                    _package(args), rollout=_id(args, "rollout"), version=_version(args), ended=_id(args, "ended")
                )
                outcome = made.value
            case Verb.ROLLBACK:
                outcome = f"update {await self._updates.rollback(_package(command.args))}"
        return outcome

    async def _retry(self, args: dict[str, Any]) -> str:
        package, rollout, any_size = _package(args), _id(args, "rollout"), _any_size(args)
        # asked for before the rollout was stopped, and heard of after that: nobody starts in it any more
        if rollout is not None and not await in_thread(self._heard.may_start, rollout):
            return f"rollout {rollout} starts nobody now"
        again = await self._updates.retry(package, any_size=any_size, rollout=rollout)
        return again.answer.value if again else "nothing ended badly"


def _package(args: dict[str, Any]) -> str:
    name = args.get("package")
    if not isinstance(name, str) or not matches(PACKAGE_PATTERN, name):
        raise ContractError("message.json", "args.package is missing or is not a package name")
    return name


def _id(args: dict[str, Any], name: str) -> str | None:
    found = args.get(name)
    if found is not None and not (isinstance(found, str) and matches(UUID7_PATTERN, found)):
        raise ContractError("message.json", f"args.{name} is not an id")
    return found


def _version(args: dict[str, Any]) -> str | None:
    version = args.get("version")
    if version is not None and not (isinstance(version, str) and len(version) <= MAX_VERSION):
        raise ContractError("message.json", "args.version is not a version")
    return version


def _any_size(args: dict[str, Any]) -> bool:
    wish = args.get("any_size", False)
    if not isinstance(wish, bool):
        raise ContractError("message.json", "args.any_size is neither true nor false")
    return wish


def _seq(args: dict[str, Any]) -> int:
    seq = args.get("after_seq", 0)
    if not isinstance(seq, int) or isinstance(seq, bool) or not 0 <= seq <= MAX_SEQ:
        raise ContractError("message.json", f"args.after_seq is not a number from 0 to {MAX_SEQ}")
    return seq
