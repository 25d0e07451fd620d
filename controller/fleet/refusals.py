"""Messages that break the contract: counted, and said in one line each, but never in a flood of lines."""

import logging
from collections import Counter
from typing import Final

from controller.logs import told
from schemas.errors import ContractError

_SAID_AGAIN_S: Final = 60.0
_REMEMBERED: Final = 100
"""So many different lines in a minute, and no more."""

log = logging.getLogger(__name__)


class Refusals:
    """Attributes: `counts`, by error code, of all messages refused so far."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._said: dict[tuple[str, str], float] = {}
        self._unsaid = 0

    def refuse(self, topic: str, error: ContractError, now: float) -> None:
        """Count a message that is not taken in, and say so unless the same was said a moment ago.

        Args:
            topic: where it came on, as the broker gave it.
            error: what is wrong with it.
            now: seconds on a steady clock.
        """
        self.counts[error.code] += 1
        key = (topic, error.code)
        if now - self._said.get(key, -_SAID_AGAIN_S) < _SAID_AGAIN_S or not self._has_room(now):
            self._unsaid += 1
            return
        self._said[key] = now
        more = f" ({self._unsaid} more since the last such line)" if self._unsaid else ""
        self._unsaid = 0
        log.warning(
            "refused a message on %r: %s [%s]%s",
            topic[:200],
            error,
            error.code,
            more,
            extra=told("refused", error, topic=topic[:200]),
        )

    def _has_room(self, now: float) -> bool:
        if len(self._said) >= _REMEMBERED:
            self._said = {key: at for key, at in self._said.items() if now - at < _SAID_AGAIN_S}
        return len(self._said) < _REMEMBERED
