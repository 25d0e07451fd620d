"""Whether the broker is there, for whoever asks, whoever watches, and the log."""

import logging
from typing import Final

from controller.fleet.feed import ChangeFeed, ConnectionChanged
from controller.logs import told
from schemas.errors import one_line
from transport import LinkState, TakenOver

TAKEN_OVER: Final = "another controller with these topics is connected to this broker; stop one of them"
NOT_YET: Final = "not connected yet"

log = logging.getLogger(__name__)


class BrokerLink:
    """For the event loop's thread; anybody may read it.

    Args:
        url: of the broker, without credentials.
        feed: told when the broker goes, why, and when it is there again.

    Attributes:
        attended: whether it is there, and everything runs.
        error: why the last attempt to connect ended; None where none did since there was a connection.
    """

    def __init__(self, url: str, feed: ChangeFeed) -> None:
        self._url = url
        self._feed = feed
        self._told: str | None = NOT_YET
        self.attended = False
        self.error: str | None = None

    @property
    def away(self) -> str | None:
        """Why devices hear of nothing now, and nothing is heard of them; None while the broker is there."""
        return None if self.attended else self.error or NOT_YET

    def attend(self) -> None:
        """Everything runs on the connection."""
        self.attended = True
        self._tell()

    def note(self, state: LinkState) -> None:
        """What the link has come to."""
        self.attended = False
        if state.state == "connected":
            self.error = None
            log.info("connected to the broker at %s", self._url, extra=told("connected", broker=self._url))
        elif state.state == "waiting":
            taken_over = isinstance(state.error, TakenOver)
            self.error = TAKEN_OVER if taken_over else one_line(state.error)
            log.warning(
                "%s; next attempt in %.1f s",
                self.error if taken_over else f"no broker: {self.error}",
                state.wait_s,
                extra=told("disconnected", state.error, retry_s=round(state.wait_s, 1)),
            )
            self._tell()

    def _tell(self) -> None:
        if self.away != self._told:
            self._told = self.away
            self._feed.publish(ConnectionChanged(self._told))
