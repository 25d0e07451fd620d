"""Who else is told what the fleet's side does: metrics, notifications, bridges. Always after the commit."""

from collections.abc import Sequence

from controller.fleet.intake_store import Outcome
from controller.rollouts.views import Rollout
from transport import Link, Message


class Observer:
    """Told on the event loop's thread, so what it does must be short and must not raise. Does nothing by itself."""

    def batch_done(self, messages: int, waited_s: float) -> None:
        """A batch was taken in.

        Args:
            messages: how many it had, refused ones included.
            waited_s: seconds from the arrival of its oldest message until all of it was in the database.
        """

    def taken_in(self, outcome: Outcome) -> None:
        """What a batch changed."""

    def rollout_changed(self, rollout: Rollout) -> None:
        """A rollout was made, or has another state or other verdicts."""

    def forgotten(self, device: str) -> None:
        """A device was removed, with all that was known of it."""


class Companion(Observer):
    """An observer that uses the connection to the broker too, apart from the contract's topics."""

    def subscriptions(self) -> Sequence[str]:
        """Topic filters besides those of the intake."""
        raise NotImplementedError

    def hear(self, message: Message) -> None:
        """Take a message from outside the contract's topics, if it is one's own. It is acknowledged afterwards."""
        raise NotImplementedError

    async def run(self, link: Link) -> None:
        """Use a connection until it is lost.

        Raises:
            LinkLost: or another transport error that ends the link.
        """
        raise NotImplementedError
