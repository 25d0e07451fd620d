"""Another controller with the same client id: when it is said, and how long it is kept out of the way of."""

import logging
import random
from datetime import UTC, datetime

import pytest

from controller.fleet.rivals import LONGEST_WAIT_S, PATIENT_FROM, SHORTEST_WAIT_S, WITHIN_S, RivalWatch
from schemas.messages import Presence
from transport import Backoff, BrokerUnreachable, LinkLost, LinkSettings, TakenOver

LOST, TAKEN = LinkLost("closed"), TakenOver("0x8E")


class Watch:
    """A watch, with a clock that a test turns."""

    def __init__(self) -> None:
        self.now = 1000.0
        settings = LinkSettings(url="mqtt://broker.example", client_id="flotilla-controller")
        inner = Backoff(first_s=0.5, limit_s=0.5, rng=random.Random(1))
        self.watch = RivalWatch(inner, settings, run="own", clock=lambda: self.now)

    def lost(self, error: LinkLost, *, after_s: float = 1.0) -> float:
        """Connected, and thrown out after a while; what is waited."""
        self.watch.connected()
        self.now += after_s
        return self.watch.next_s(error)

    def hears(self, run: str, session: int) -> None:
        at = datetime(2026, 3, 1, 12, tzinfo=UTC)
        presence = Presence(
            device="controller", online=True, session=session, boot_id=run, agent_version="1.2.3", at=at
        )
        self.watch.heard(presence)


@pytest.fixture
def watch(caplog: pytest.LogCaptureFixture) -> Watch:
    caplog.set_level(logging.INFO)
    return Watch()


def test_taken_over_twice_is_said_once_and_then_it_keeps_out_of_the_way(
    watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    assert watch.lost(TAKEN) <= 0.5
    assert caplog.records == []
    # the other one is to find out too
    assert watch.lost(TAKEN) <= 0.5
    for _ in range(5):
        assert SHORTEST_WAIT_S <= watch.lost(TAKEN, after_s=2 * LONGEST_WAIT_S) <= LONGEST_WAIT_S
    (said,) = caplog.records
    assert said.levelno == logging.ERROR
    assert said.getMessage() == (
        "another controller uses the broker at mqtt://broker.example under the same client id, and the two throw each "
        "other out: stop one, or give it another --topic-root; the broker's log says from which address each "
        "flotilla-controller connects"
    )


def test_taken_over_now_and_then_is_no_rival(watch: Watch, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(5):
        assert watch.lost(TAKEN, after_s=WITHIN_S + 1) <= 0.5
    assert caplog.records == []


def test_where_the_broker_does_not_say_why_the_others_presence_does(
    watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    watch.watch.connected()
    watch.hears("before", 3)  # whoever was there before this one was started
    watch.hears("own", 4)
    for session in (4, 5, 6):
        assert watch.lost(LOST) <= 0.5
        watch.watch.connected()
        watch.hears("before", 3)
        watch.hears("other", session)
    assert "another controller (version 1.2.3, there at 2026-03-01T12:00:00+00:00) uses the broker" in caplog.text
    assert watch.lost(LOST) >= SHORTEST_WAIT_S
    assert len(caplog.records) == 1


def test_one_take_over_that_both_broker_and_presence_tell_of_counts_once(
    watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    watch.watch.connected()
    assert watch.lost(TAKEN) <= 0.5
    watch.watch.connected()
    watch.hears("other", 1)
    watch.hears("other", 2)
    assert caplog.records == []
    watch.lost(TAKEN)
    assert len(caplog.records) == 1


def test_a_broker_that_comes_and_goes_is_no_rival(watch: Watch, caplog: pytest.LogCaptureFixture) -> None:
    for session in range(1, 20):
        watch.watch.connected()
        watch.hears("before", 3)
        watch.hears("own", session)
        assert watch.lost(LOST) <= 0.5
    assert watch.watch.next_s(BrokerUnreachable("nobody there")) <= 0.5
    assert caplog.records == []


def test_when_the_other_one_is_gone_for_long_all_is_as_before(watch: Watch, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(PATIENT_FROM):
        watch.lost(TAKEN)
    assert watch.lost(LOST) >= SHORTEST_WAIT_S
    assert watch.lost(LOST, after_s=WITHIN_S + 1) <= 0.5
    assert watch.lost(TAKEN) <= 0.5
    assert len(caplog.records) == 1
    assert watch.lost(TAKEN) <= 0.5
    assert len(caplog.records) == 2
