"""What the controller does by itself every few hours, as long as it runs."""

import asyncio
import contextlib
import logging
from datetime import timedelta
from typing import Final

from controller.accounts.answers import Answers
from controller.database import utc_now
from controller.fleet.pruning import Pruner
from controller.http.login import Accounts
from controller.logs import told
from controller.repository.package_repository import PackageRepository
from schemas.errors import FlotillaError, one_line

EVERY_S: Final = 6 * 3600.0
FIRST_S: Final = 60.0
"""A start has enough to do without forgetting what is old."""
RETRY_S: Final = 300.0

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


async def prune(pruner: Pruner, keep: timedelta, stop: asyncio.Event) -> None:
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
