"""What somebody at the device asks for: install an exported file, go back. Followed event by event to its end."""

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final, Protocol

import msgspec

from device_agent.outbox import KeptEvent
from device_agent.threads import in_thread
from device_agent.updates import Answer, Origin, Submitted, UpdateRequest
from schemas.errors import OperatorError, one_line
from schemas.layout import FileHead
from schemas.messages import LAST_WORDS, UpdateEvent

WAIT_S: Final = 3600.0
_BATCH: Final = 100


class Journal(Protocol):
    """The part of the journal that this needs."""

    def last_seq(self) -> int:
        """The last event's number."""
        ...

    def events_after(self, seq: int, limit: int = 100) -> list[KeptEvent]:
        """Events above `seq`."""
        ...

    async def wait_for_events(self, after_seq: int, timeout_s: float) -> bool:
        """Wait until there is an event above `after_seq`."""
        ...


class Updates(Protocol):
    """The part of the update manager that this needs."""

    async def submit(self, request: UpdateRequest) -> Submitted:
        """Take a wish."""
        ...

    async def rollback(self, package: str, to: str | None = None) -> str:
        """Go back to the previous release."""
        ...

    def hold(self, on: bool) -> None:
        """Start nothing, or go on."""
        ...


class Begun(msgspec.Struct, frozen=True, kw_only=True):
    """What was begun.

    Attributes:
        update: whose events tell how it goes; None where there is nothing to do.
        after_seq: its events are above this one.
        note: one line for a person.
    """

    update: str | None
    after_seq: int
    note: str


class LocalWork:
    """See the module. Used by the program that has the journal open: the agent, or a command while no agent runs."""

    def __init__(
        self,
        *,
        journal: Journal,
        updates: Updates,
        read_head: Callable[[Path], FileHead],
        on_hold: Callable[[], bool],
        keep_hold: Callable[[bool], None],
        is_file: Callable[[Path], bool] = os.path.isfile,
    ) -> None:
        """
        Args:
            read_head: reads the first member of an exported file; blocks.
            on_hold: whether the device was told to start no update, by its operator or here; blocks.
            keep_hold: notes that somebody here wants that, or does not any more; blocks.
            is_file: whether there is a plain file; blocks.
        """
        self._is_file = is_file
        self._on_hold = on_hold
        self._keep_hold = keep_hold
        self._journal = journal
        self._updates = updates
        self._read_head = read_head

    async def install(self, file: Path) -> Begun:
        """Begin to install an exported file. Whether it may be installed at all, its signatures decide.

        Raises:
            FlotillaError: it is no exported file, or the wish could not be written down.
        """
        if await in_thread(self._on_hold):
            raise OperatorError(
                "input.bad", "this device is on hold (see `flotilla-agent status`): no update is to start"
            )
        if not await in_thread(self._is_file, file):
            # a pipe, say, would be waited for without an end
            raise OperatorError("input.bad", f"{one_line(file)}: is not a file")
        head = await in_thread(self._read_head, file)
        if head.kind != "release":
            raise OperatorError(
                "input.bad", f"{file} is not signed; `flotilla push` it and use what `flotilla export` writes"
            )
        after = await in_thread(self._journal.last_seq)
        request = UpdateRequest(
            package=head.package,
            version=head.version,
            origin=Origin.FILE,
            repository=[str(file)],
            # whoever stands in front of the device has chosen this file
            allow_downgrade=True,
            retries=0,
        )
        made = await self._updates.submit(request)
        name = f"{head.package} {head.version}"
        if made.update is None:
            return Begun(update=None, after_seq=after, note=f"{name} is installed already")
        known = made.answer is Answer.UNDER_WAY
        return Begun(
            update=made.update,
            after_seq=0 if known else after,
            note=f"{name} is being installed already" if known else f"installing {name}",
        )

    async def rollback(self, package: str, to: str | None = None) -> Begun:
        """Begin to go back to the previous release, or to another one that is still here.

        Raises:
            OperatorError: `release.unknown`: there is none.
        """
        after = await in_thread(self._journal.last_seq)
        update = await self._updates.rollback(package, to)
        return Begun(update=update, after_seq=after, note=f"taking {package} back")

    async def hold(self, on: bool) -> Begun:
        """Start no update any more, or let them go on; what was told by the operator stays."""
        await in_thread(self._keep_hold, on)
        held = await in_thread(self._on_hold)
        self._updates.hold(held)
        after = await in_thread(self._journal.last_seq)
        return Begun(update=None, after_seq=after, note=hold_note(on, held=held))

    async def follow(self, begun: Begun) -> AsyncIterator[UpdateEvent]:
        """The update's events as they come, up to and with its last word."""
        after = begun.after_seq
        while begun.update is not None:
            for kept in await in_thread(self._journal.events_after, after, _BATCH):
                after = kept.seq
                event = msgspec.json.decode(kept.payload, type=UpdateEvent)
                if event.update == begun.update:
                    yield event
                    if event.phase in LAST_WORDS:
                        return
            await self._journal.wait_for_events(after, WAIT_S)


def hold_note(on: bool, *, held: bool) -> str:
    """What comes of it, for a person; `held` is whether the device is on hold now, whoever wants that."""
    if on:
        return "on hold: no update is started until `flotilla-agent hold off`"
    return "the operator still holds this device" if held else "updates go on"
