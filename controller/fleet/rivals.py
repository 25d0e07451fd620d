"""Another controller with the same client id: the two throw each other out, and each announces what it knows.

A broker lets only the newer one of two such connections live. Some say why they close the other (0x8E), some don't. But
whoever connects says so on the controller's own topic, where the other one finds it when it is back.
"""

import logging
import math
import random
import time
from collections.abc import Callable
from typing import Final

from controller.logs import told
from schemas.errors import one_line
from schemas.messages import Presence
from transport import Backoff, LinkSettings, TakenOver, TransportError

WITHIN_S: Final = 300.0
"""Taken over again within this time, it is no accident: once happens when a controller moves to another machine. Longer
than the two of them wait together, so that the one that is more patient is not forgotten."""
SAID_AT: Final = 2
"""Take-overs in a row at which it is said."""
PATIENT_FROM: Final = 3
"""And from which on it waits longer: until then the other one has been taken over often enough to say so too."""
SHORTEST_WAIT_S: Final = 60.0
LONGEST_WAIT_S: Final = 120.0
"""Between attempts while there is another one. Most of this time it is the other one that has the broker."""
_MOST_SEEN: Final = 1000

log = logging.getLogger(__name__)


class RivalWatch(Backoff):
    """Waits between attempts to connect, longer ones as long as another controller comes again and again.

    When there is no doubt any more it says so in the log, once.

    Args:
        inner: the waits otherwise.
        settings: the broker, and who the controller is there.
        run: which process this is; its presence has it as `boot_id`.
        clock: seconds that only grow.
        rng: where chance comes from.
    """

    def __init__(
        self,
        inner: Backoff,
        settings: LinkSettings,
        *,
        run: str,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        super().__init__()
        self._inner = inner
        self._settings = settings
        self._run = run
        self._clock = clock
        self._chance = rng if rng is not None else random.Random()  # noqa: S311 - spreads load, guards nothing
        self._seen: set[tuple[str, int]] = set()
        self._other: Presence | None = None
        self._connections = 0
        self._last_s = -math.inf
        self._is_counted = False
        self._in_a_row = 0

    def connected(self) -> None:
        """A connection begins."""
        self._connections += 1

    def heard(self, presence: Presence) -> None:
        """What a controller has said of itself, this one or another."""
        which = (presence.boot_id, presence.session)
        if presence.boot_id == self._run or which in self._seen:
            return
        if len(self._seen) >= _MOST_SEEN:
            self._seen.clear()
        self._seen.add(which)
        # at the first connection it is whoever was there before
        if self._connections > 1:
            self._other = presence
            if not self._is_counted:
                self._count()

    def next_s(self, error: TransportError | None = None) -> float:
        """See `Backoff`."""
        wait_s = self._inner.next_s(error)
        self._is_counted = False
        if isinstance(error, TakenOver):
            self._count()
        if self._in_a_row < PATIENT_FROM or self._clock() - self._last_s > WITHIN_S:
            return wait_s
        return max(wait_s, self._chance.uniform(SHORTEST_WAIT_S, LONGEST_WAIT_S))

    def reset(self) -> None:
        """See `Backoff`."""
        self._inner.reset()

    def _count(self) -> None:
        """It was taken over, which is found out when the connection is lost or with the next one."""
        before, self._last_s = self._last_s, self._clock()
        self._is_counted = True
        self._in_a_row = self._in_a_row + 1 if self._last_s - before <= WITHIN_S else 1
        if self._in_a_row == SAID_AT:
            self._say_so()

    def _say_so(self) -> None:
        other, client = self._other, self._settings.client_id
        about = f"(version {other.agent_version}, there at {other.at.isoformat(timespec='seconds')}) " if other else ""
        log.error(
            "another controller %suses the broker at %s under the same client id, and the two throw each other out: "
            "stop one, or give it another --topic-root; the broker's log says from which address each %s connects",
            about and f"{one_line(about)} ",
            self._settings.url,
            client,
            extra=told("disconnected", broker=self._settings.url, code=TakenOver.code),
        )
