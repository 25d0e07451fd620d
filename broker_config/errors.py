"""What can go wrong when a broker is started here. Each is one line and has a stable `code`."""

from typing import ClassVar

__all__ = ["BrokerError", "BrokerFailed", "BrokerMissing", "BrokerSettings"]


class BrokerError(Exception):
    """A broker can't be run on this machine as asked."""

    code: ClassVar[str] = "broker.failed"


class BrokerMissing(BrokerError):  # noqa: N818 - the name says what happened
    """Mosquitto is not installed."""

    code: ClassVar[str] = "broker.missing"


class BrokerFailed(BrokerError):  # noqa: N818 - the name says what happened
    """Mosquitto ended, or did not answer in time; the message holds its last words."""

    code: ClassVar[str] = "broker.failed"


class BrokerSettings(BrokerError):  # noqa: N818 - the name says what is wrong
    """A configuration can't be made from what was given."""

    code: ClassVar[str] = "broker.settings"
