"""What the update engine asks about the device's surroundings, each passed in: rules, readings, zone, broker, hold."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from typing import Protocol

from device_agent.gate import Readings
from device_agent.readiness import Rules


class Broker(Protocol):
    """Whether there is a connection to the broker."""

    @property
    def connected(self) -> bool:
        """Whether there is one now, for all that is known."""
        ...


class BrokerReach:
    """A `Broker` that is told when the connection comes and goes. Nobody may ever tell it, where nobody connects."""

    def __init__(self) -> None:
        self.connected = False


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
    broker: Broker = field(default_factory=BrokerReach)
