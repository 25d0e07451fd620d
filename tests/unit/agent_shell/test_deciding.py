"""From what was heard to wishes for the update manager, and what of it survives a restart."""

from datetime import timedelta

import pytest

from device_agent.decider import Decider
from device_agent.heard import Heard
from device_agent.policy import DeviceView
from device_agent.updates import UpdateRequest
from schemas.errors import DeviceError
from schemas.messages import Announcement, Desired, ReleaseState, RolloutPolicy, Targets, Window
from tests.unit.agent_shell.fakes import NEWER, NOW, OLDER, ROLLOUT, MemoryNotes, RecordingUpdates, announced


class Desk:
    """A decider with all that it needs."""

    def __init__(self, notes: MemoryNotes | None = None) -> None:
        self.notes = notes or MemoryNotes()
        self.updates = RecordingUpdates()
        self.changes = 0
        self.reopened: list[str | None] = []
        self.now = NOW
        self.heard = Heard(self.notes)
        self.decider = Decider(
            updates=self.updates,
            heard=self.heard,
            device=lambda: DeviceView(id="pi-1", channel="stable", tags={"site": "harbour"}),
            now=lambda: self.now,
            changed=self._changed,
            reopen=self.reopened.append,
        )

    def _changed(self) -> None:
        self.changes += 1

    def restarted(self) -> "Desk":
        return Desk(self.notes)


@pytest.fixture
def desk() -> Desk:
    return Desk()


async def test_an_announcement_becomes_a_wish_with_all_it_says(desk: Desk) -> None:
    policy = RolloutPolicy(retries=7, allow_downgrade=True, deadline=NOW + timedelta(days=1))
    await desk.decider.take_announcement(announced(policy=policy))
    assert desk.updates.requests == [
        UpdateRequest(
            package="tacho",
            version="1.1.0",
            rollout=ROLLOUT,
            repository=["http://repo"],
            allow_downgrade=True,
            retries=7,
            deadline=NOW + timedelta(days=1),
        )
    ]


STRANGE = ["/etc/shadow", "file:///etc/shadow", "ftp://repo", "", "http:/etc/shadow"]


async def test_only_what_can_be_fetched_from_is_passed_on(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    said = announced(repository=[*STRANGE, "http://repo", "HTTPS://repo/b"])
    await desk.decider.take_announcement(said)
    await desk.decider.take_announcement(said)
    await desk.decider.take_desired(Desired(rev=1, pins={"tacho": "1.0.0"}))
    good = ["http://repo", "HTTPS://repo/b"]
    assert {(r.version, tuple(r.repository)) for r in desk.updates.requests} == {
        ("1.1.0", tuple(good)),
        ("1.0.0", tuple(good)),
    }
    assert desk.heard.repositories() == good
    told = [record.message for record in caplog.records if "not used" in record.message]
    assert len(told) == 1
    assert "5 of its repositories are no http:// or https:// addresses" in told[0]


async def test_what_names_nothing_else_is_as_if_it_named_nothing(desk: Desk) -> None:
    await desk.decider.take_announcement(announced(repository=["/etc/shadow"]))
    await desk.decider.take_desired(Desired(rev=1, pins={"tacho": "1.0.0"}))
    assert [(r.version, r.repository) for r in desk.updates.requests] == [("1.1.0", []), ("1.0.0", [])]
    assert desk.heard.repositories() == []


async def test_a_deferred_one_is_a_wish_with_its_time_and_the_same_after_a_restart(desk: Desk) -> None:
    await desk.decider.take_announcement(announced(policy=RolloutPolicy(jitter_s=600)))
    first = desk.updates.requests[0]
    assert first.not_before is not None
    assert NOW < first.not_before <= NOW + timedelta(seconds=600)
    assert first.reason == "jitter"
    later = desk.restarted()
    later.now = NOW + (first.not_before - NOW) / 2
    await later.decider.reconsider()
    assert later.updates.requests == [first]


async def test_what_was_heard_is_kept_before_it_is_acted_on(desk: Desk) -> None:
    desk.updates.fault = DeviceError("disk.full", "no space")
    with pytest.raises(DeviceError):
        await desk.decider.take_announcement(announced())
    later = desk.restarted()
    await later.decider.reconsider()
    assert later.updates.asked == [("submit", "1.1.0")]


async def test_an_older_one_neither_acts_nor_takes_the_place_of_what_is_known(desk: Desk) -> None:
    await desk.decider.take_announcement(announced(state=ReleaseState.PAUSED))
    for older in (announced(revision=4), announced(rollout=OLDER, revision=3, version="1.0.0")):
        await desk.decider.take_announcement(older)
    assert desk.updates.asked == [("pause", ROLLOUT)]
    kept = desk.heard.announcement("stable", "tacho")
    assert kept is not None
    assert (kept.rollout, kept.revision) == (ROLLOUT, 5)


@pytest.mark.parametrize(
    ("state", "asked"),
    [(ReleaseState.PAUSED, "pause"), (ReleaseState.HALTED, "halt"), (ReleaseState.REVERTED, "revert")],
)
async def test_states_that_stop_something_are_passed_on(desk: Desk, state: ReleaseState, asked: str) -> None:
    await desk.decider.take_announcement(announced(state=state))
    assert desk.updates.asked == [(asked, ROLLOUT)]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (announced(state=ReleaseState.HALTED), "the rollout was halted"),
        (announced(targets=Targets(exclude=["pi-1"])), "the rollout leaves this device out now"),
    ],
)
async def test_what_stops_says_whether_that_is_for_all_or_for_this_device(
    desk: Desk, said: Announcement, why: str
) -> None:
    await desk.decider.take_announcement(said)
    assert desk.updates.reasons == [why]


async def test_who_is_not_meant_any_more_does_not_start_what_waits(desk: Desk) -> None:
    await desk.decider.take_announcement(announced(targets=Targets(upto=0), revision=6))
    assert desk.updates.asked == [("pause", ROLLOUT)]


async def test_nobody_starts_what_the_channel_announced_before_whoever_the_newer_one_is_for(desk: Desk) -> None:
    await desk.decider.take_announcement(announced(policy=RolloutPolicy(jitter_s=600)))
    others = announced(rollout=NEWER, revision=6, version="1.2.0", targets=Targets(upto=0, devices=["pi-9"]))
    desk.updates.superseding.clear()
    await desk.decider.take_announcement(others)
    assert desk.updates.superseding == [("tacho", "1.2.0", NEWER)]
    # and should the device be cut off just then, it is as much so after a restart
    later = desk.restarted()
    await later.decider.reconsider()
    assert later.updates.superseding == [("tacho", "1.2.0", NEWER)]
    assert ("submit", "1.2.0") not in later.updates.asked


async def test_what_another_channel_or_an_older_announcement_says_supersedes_nothing(desk: Desk) -> None:
    await desk.decider.take_announcement(announced())
    desk.updates.superseding.clear()
    await desk.decider.take_announcement(announced(rollout=NEWER, channel="beta", version="2.0.0"))
    await desk.decider.take_announcement(announced(rollout=OLDER, revision=3, version="1.0.0"))
    assert desk.updates.superseding == []


async def test_a_withdrawn_announcement_starts_nobody_and_is_not_reconsidered(desk: Desk) -> None:
    await desk.decider.take_announcement(announced())
    await desk.decider.take_withdrawal("stable", "tacho")
    await desk.decider.take_withdrawal("stable", "tacho")
    await desk.decider.take_withdrawal("stable", "never-heard-of")
    assert desk.updates.asked == [("submit", "1.1.0"), ("pause", ROLLOUT)]
    later = desk.restarted()
    await later.decider.reconsider()
    assert later.updates.asked == []
    # but what was known stays known
    await later.decider.take_announcement(announced(revision=4))
    assert later.updates.asked == []


async def test_a_pin_is_begun_once_and_keeps_the_channel_away(desk: Desk) -> None:
    await desk.decider.take_announcement(announced())
    await desk.decider.take_desired(Desired(rev=1, pins={"tacho": "1.0.0"}))
    await desk.decider.take_desired(Desired(rev=1, pins={"tacho": "1.0.0"}))
    pin = desk.updates.requests[1:]
    assert [(r.version, r.rollout, r.allow_downgrade, r.repository) for r in pin] == [
        ("1.0.0", None, True, ["http://repo"])
    ]
    later = desk.restarted()
    await later.decider.reconsider()
    assert later.updates.asked == [("pause", ROLLOUT)]


async def test_without_its_pin_a_package_follows_its_channel_again(desk: Desk) -> None:
    await desk.decider.take_announcement(announced())
    await desk.decider.take_desired(Desired(rev=1, pins={"tacho": "1.0.0"}))
    await desk.decider.take_desired(None)
    assert desk.reopened == ["tacho", "tacho"]
    assert desk.updates.asked[-1] == ("submit", "1.1.0")
    await desk.decider.take_desired(Desired(rev=3, pins={"tacho": "1.0.0"}))
    assert [r.version for r in desk.updates.requests if r.rollout is None] == ["1.0.0", "1.0.0"]


async def test_what_only_a_pin_asked_for_stops_with_the_pin_and_is_not_looked_for_again(desk: Desk) -> None:
    await desk.decider.take_desired(Desired(rev=1, pins={"taco": "1.0.0", "tacho": "1.0.0"}))
    assert desk.updates.unpinned == []
    await desk.decider.take_desired(Desired(rev=2, pins={"tacho": "1.0.0"}))
    assert desk.updates.unpinned == ["taco"]
    later = desk.restarted()
    await later.decider.take_desired(None)
    assert later.updates.unpinned == ["tacho"]
    await later.decider.reconsider()
    assert later.updates.unpinned == ["tacho"]


async def test_a_pin_to_what_is_no_version_is_said_and_left_alone(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    await desk.decider.take_desired(Desired(rev=1, pins={"tacho": "latest"}))
    assert desk.updates.requests == []
    assert len([r for r in caplog.records if "the pin of tacho" in r.message]) == 1


async def test_an_older_desired_is_ignored(desk: Desk) -> None:
    await desk.decider.take_desired(Desired(rev=2, hold=True))
    await desk.decider.take_desired(Desired(rev=1, hold=False))
    assert desk.updates.held is True
    assert desk.changes == 1
    await desk.decider.take_desired(None)
    assert desk.updates.held is False


async def test_a_hold_is_known_after_a_restart(desk: Desk) -> None:
    await desk.decider.take_desired(Desired(rev=2, hold=True))
    later = desk.restarted()
    await later.decider.reconsider()
    assert later.updates.held is True


async def test_another_channel_makes_what_the_device_knows_of_it_count(desk: Desk) -> None:
    await desk.decider.take_announcement(announced())
    await desk.decider.take_announcement(announced(rollout=NEWER, channel="beta", version="2.0.0"))
    assert desk.updates.asked == [("submit", "1.1.0"), ("pause", NEWER)]
    await desk.decider.take_desired(Desired(rev=1, channel="beta"))
    assert desk.reopened == [None]
    assert sorted(desk.updates.asked[2:]) == [("pause", ROLLOUT), ("submit", "2.0.0")]


def test_commands_are_taken_once_and_forgotten_when_they_would_have_expired() -> None:
    notes = MemoryNotes()
    heard = Heard(notes)
    soon = NOW + timedelta(seconds=10)
    assert heard.take_command("one", soon, NOW)
    assert not heard.take_command("one", soon, NOW)
    assert heard.take_command("two", NOW + timedelta(seconds=90), NOW + timedelta(seconds=60))
    assert list(notes.kept) == ["command/two"]


async def test_a_hold_of_the_operators_or_of_somebody_here_is_one(desk: Desk) -> None:
    await desk.decider.reconsider()
    assert desk.updates.held is False
    desk.heard.keep_hold(True)
    await desk.restarted().decider.reconsider()
    held_here = desk.restarted()
    await held_here.decider.reconsider()
    assert held_here.updates.held is True
    await held_here.decider.take_desired(Desired(rev=1, hold=True))
    held_here.heard.keep_hold(False)
    await held_here.decider.reconsider()
    assert held_here.updates.held is True
    await held_here.decider.take_desired(Desired(rev=2))
    assert held_here.updates.held is False


async def test_the_rollouts_window_is_part_of_the_wish(desk: Desk) -> None:
    window = Window(start="00:00", end="00:00")
    await desk.decider.take_announcement(announced(policy=RolloutPolicy(window=window)))
    assert desk.updates.requests[0].window == window
