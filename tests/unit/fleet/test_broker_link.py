"""Whoever watches hears at once that the broker went, and that it is there again."""

import pytest

from controller.fleet.broker_link import NOT_YET, TAKEN_OVER, BrokerLink
from controller.fleet.feed import Change, ChangeFeed, ConnectionChanged
from transport import LinkLost, LinkState, TakenOver

CONNECTING, CONNECTED = LinkState(state="connecting"), LinkState(state="connected")


def waiting(error: LinkLost) -> LinkState:
    return LinkState(state="waiting", error=error, wait_s=1.0)


class Recorded(ChangeFeed):
    """A feed that keeps what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Change] = []

    def publish(self, change: Change) -> None:
        super().publish(change)
        self.heard.append(change)


@pytest.fixture
def feed() -> Recorded:
    return Recorded()


@pytest.fixture
def link(feed: Recorded) -> BrokerLink:
    return BrokerLink("mqtt://b", feed)


def test_it_is_away_until_everything_runs_on_the_connection(link: BrokerLink, feed: Recorded) -> None:
    link.note(CONNECTING)
    link.note(CONNECTED)
    assert (link.attended, link.away, feed.heard) == (False, NOT_YET, [])
    link.attend()
    assert (link.attended, link.away, feed.heard) == (True, None, [ConnectionChanged(None)])


def test_each_change_is_told_once_with_its_reason(link: BrokerLink, feed: Recorded) -> None:
    link.attend()
    for error in (LinkLost("gone"), LinkLost("gone"), LinkLost("refused")):
        link.note(waiting(error))
        assert (link.attended, link.away) == (False, str(error))
        link.note(CONNECTING)
    link.note(CONNECTED)
    link.attend()
    link.note(waiting(TakenOver("closed")))
    told = [None, "gone", "refused", None, TAKEN_OVER]
    assert feed.heard == [ConnectionChanged(away) for away in told]
    # by which pages that are live look again
    assert feed.published == len(told)


def test_a_controller_that_is_stopped_tells_nobody_that_the_broker_went(link: BrokerLink, feed: Recorded) -> None:
    link.attend()
    link.note(LinkState(state="stopped"))
    assert (link.attended, feed.heard) == (False, [ConnectionChanged(None)])
