"""What the update engine asks about the device's surroundings, each passed in: rules, readings, zone, broker, hold."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from typing import Final, Protocol

from device_agent.gate import Readings
from device_agent.readiness import Rules

RECENTLY_S: Final = 600.0
"""A broker that was reached within this time before the switch has to be reached after it, too."""


class Broker(Protocol):
    """Whether there is a connection to the broker."""

    def was_reached_within(self, seconds: float) -> bool:
        """Whether there is one, or was one so long ago at most."""
        ...


class NoBroker:
    """Nobody connects, e.g. while a release is installed by hand."""

    def was_reached_within(self, seconds: float) -> bool:  # noqa: ARG002  # the answer is the same for all
        """See `Broker`."""
        return False


class BrokerReach:
    """A `Broker` that is told when the connection comes and goes."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._connected = False
        self._lost_at: float | None = None

    def note(self, *, connected: bool) -> None:
        """The connection is there, or is not any more."""
        if self._connected and not connected:
            self._lost_at = self._monotonic()
        self._connected = connected

    def was_reached_within(self, seconds: float) -> bool:
        """See `Broker`."""
        return self._connected or (self._lost_at is not None and self._monotonic() - self._lost_at <= seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """See the module; the defaults ask for nothing.

    Attributes:
        rules: the owner's.
        readings: the device's health now; called in a thread.
        zone: the device's time zone now; called in a thread.
        broker: see there.
    """

    rules: Rules = field(default_factory=Rules)
    readings: Callable[[], Readings] = Readings
    zone: Callable[[], tzinfo] = lambda: UTC
    broker: Broker = field(default_factory=NoBroker)
