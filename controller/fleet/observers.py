"""Who else is told what the fleet's side does: metrics, notifications, bridges. Always after the commit."""

from controller.fleet.intake_store import Outcome
from controller.rollouts.views import Rollout


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
