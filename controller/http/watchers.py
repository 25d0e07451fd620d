"""Whoever watches live: only so many at once, and each only as long as they may."""

import asyncio
import contextlib
import logging
from typing import Any, Final

from litestar import Request
from litestar.types import ASGIApp, Receive, Send
from sqlalchemy.exc import SQLAlchemyError

from controller.accounts.roles import Who
from controller.fleet.patience import reason
from controller.http.guard import Gate
from controller.http.noting import ENDING
from controller.http.rules import Rule
from controller.logs import told
from schemas.errors import FlotillaError, OperatorError

log = logging.getLogger("flotilla.http")

MOST: Final = 200
"""Live views at a time, pages and programs together: each has a queue, and pages are drawn for each of them."""

ASK_AGAIN_S: Final = 5.0
"""How long a live view outlives the session or the token that it was opened with."""

Asked = Request[Any, Any, Any]


class Watchers:
    """For one event loop.

    Args:
        gate: knows who may watch.
        stop: set when the controller is about to end.
        most: live views at a time.
        ask_again_s: seconds between two looks at whether somebody still may watch.
    """

    def __init__(self, gate: Gate, stop: asyncio.Event, *, most: int = MOST, ask_again_s: float = ASK_AGAIN_S) -> None:
        self._gate = gate
        self._stop = stop
        self._most = most
        self._ask_again_s = ask_again_s
        self.number = 0

    async def serve(self, app: ASGIApp, request: Asked, receive: Receive, send: Send, rule: Rule, who: Who) -> None:
        """Serve a live view, whose handler ends it when `ending_of` the request is set.

        Raises:
            OperatorError: `watch.limit` where as many watch as may.
        """
        if self.number >= self._most:
            raise OperatorError(
                "watch.limit", f"{self._most} live views are open, more are not served; close one, or try again later"
            )
        request.scope["state"][ENDING] = ending = asyncio.Event()
        self.number += 1
        asking = asyncio.create_task(self._until_over(request, rule, who, ending), name="leave to watch")
        try:
            await app(request.scope, receive, send)
        finally:
            self.number -= 1
            asking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asking

    async def _until_over(self, request: Asked, rule: Rule, who: Who, ending: asyncio.Event) -> None:
        try:
            while not self._stop.is_set() and await self._may(request, rule, who):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), self._ask_again_s)
        finally:
            ending.set()

    async def _may(self, request: Asked, rule: Rule, who: Who) -> bool:
        try:
            found = await self._gate.identify(request, noted=False)
        except (FlotillaError, SQLAlchemyError) as error:
            why = reason(error)
            log.warning("a live view of %s ends, as nobody can tell whether it may go on: %s", who.actor, why)
            return False
        if rule.role is None or found.may(rule.role):
            return True
        line = "a live view of %s ends: the session or token that it was opened with is over"
        log.info(line, who.actor, extra=told("watch", actor=who.actor))
        return False
