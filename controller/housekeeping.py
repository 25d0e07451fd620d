"""What the controller does by itself every few hours, as long as it runs."""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from controller.accounts.answers import Answers
from controller.database import utc_now
from controller.fleet.pruning import Pruner
from controller.fleet.surplus import MOST_EVENTS, Surplus, Talkative
from controller.http.login import Accounts
from controller.logs import told
from controller.repository.package_repository import PackageRepository
from schemas.errors import FlotillaError, one_line

EVERY_S: Final = 6 * 3600.0
FIRST_S: Final = 60.0
"""A start has enough to do without forgetting what is old."""
RETRY_S: Final = 300.0
PAUSE_S: Final = 5.0
"""Between two looks at devices that say much: what one says meanwhile is little beside what is kept of it."""

log = logging.getLogger("flotilla.controller")


async def keep_signed(repository: PackageRepository, stop: asyncio.Event) -> None:
    """Sign anew what is near its end, at the start and every few hours; sooner again where that fails."""
    wait_s = 0.0
    while await _passed(wait_s, stop):
        wait_s = EVERY_S
        try:
            refreshed = await asyncio.to_thread(repository.refresh_metadata)
        except FlotillaError as error:
            # signatures are good for days: a full disk is no reason to stop taking in what devices say
            log.error("signing again failed: %s", one_line(error), extra=told("metadata", error))  # noqa: TRY400 - the line says it all
            wait_s = RETRY_S
            continue
        if refreshed.signed:
            log.info("signed again: %s", ", ".join(refreshed.signed), extra=told("metadata"))
        for expiry in refreshed.overdue:
            log.error(
                "the signature of %s ends on %s and %s is not there",
                expiry.role,
                expiry.expires,
                expiry.key,
                extra=told("metadata", role=expiry.role, code="trust.keys"),
            )


class TooMuch:
    """Says of which devices too much was kept: each in one line, and again every few hours at most."""

    def __init__(self) -> None:
        self._said: dict[str, float] = {}
        self._unsaid: Counter[str] = Counter()

    def tell(self, removed: Mapping[str, int], now: float) -> None:
        """Note it, and say what is to be said.

        Args:
            removed: device to how many of its events were.
            now: seconds on a steady clock.
        """
        self._unsaid.update(removed)
        self._said = {device: at for device, at in self._said.items() if now - at < EVERY_S}
        for device in [device for device in self._unsaid if device not in self._said]:
            if count := self._unsaid.pop(device):
                self._said[device] = now
                log.warning(
                    "device %s says so much that its oldest %d events are cut or gone: the last %d are kept of each",
                    device,
                    count,
                    MOST_EVENTS,
                    extra=told("pruning", device=device, count=count),
                )


async def bound(surplus: Surplus, talkative: Talkative, too_much: TooMuch, stop: asyncio.Event) -> None:
    """Forget the oldest of what devices say that say too much, soon after they did."""
    clock = asyncio.get_running_loop().time
    while await _passed(PAUSE_S, stop):
        await _first_of(talkative.any, stop)
        for device in talkative.take():
            if stop.is_set():
                # of a large fleet all may be due at once; what is left is found after the next start
                break
            try:
                count = await asyncio.to_thread(surplus.remove, device)
            except FlotillaError as error:
                log.error("forgetting what is too much failed: %s", one_line(error), extra=told("pruning", error))  # noqa: TRY400 - the line says it all
                break
            too_much.tell({device: count}, clock())


async def prune(pruner: Pruner, keep: timedelta, too_much: TooMuch, stop: asyncio.Event) -> None:
    """Forget what devices said longer ago than `keep`."""
    wait_s = FIRST_S
    while await _passed(wait_s, stop):
        wait_s = EVERY_S
        try:
            pruned = await asyncio.to_thread(pruner.prune, keep, utc_now())
        except FlotillaError as error:
            log.error("forgetting old events failed: %s", one_line(error), extra=told("pruning", error))  # noqa: TRY400 - the line says it all
            continue
        if pruned.events or pruned.rollout_devices:
            log.info(
                "forgot %d events and %d devices of rollouts",
                pruned.events,
                pruned.rollout_devices,
                extra=told("pruning", count=pruned.events),
            )
        too_much.tell(pruned.surplus, asyncio.get_running_loop().time())


async def forget(accounts: Accounts, answers: Answers, keep_audit: timedelta, stop: asyncio.Event) -> None:
    """Remove sessions that are over, answers that nobody asks for again, and the oldest of the audit log."""
    wait_s = FIRST_S
    while await _passed(wait_s, stop):
        wait_s = EVERY_S
        try:
            await asyncio.to_thread(accounts.people.forget_old_sessions)
            await asyncio.to_thread(answers.forget_old)
            forgotten = await asyncio.to_thread(accounts.audit.prune, keep_audit)
        except FlotillaError as error:
            log.error("forgetting old sessions and changes failed: %s", one_line(error))  # noqa: TRY400 - the line says it all
            continue
        if forgotten:
            log.info("forgot %d rows of the audit log", forgotten)


async def _passed(wait_s: float, stop: asyncio.Event) -> bool:
    """Wait so long; False as soon as the controller is to stop."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            await stop.wait()
    return not stop.is_set()


async def _first_of(*events: asyncio.Event) -> None:
    """Wait until one of them is set."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
