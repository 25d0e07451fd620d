"""What commands print of rollouts."""

from datetime import UTC, datetime
from typing import Any

import pytest

from controller.database import utc_now
from controller.http.views import RolloutPace
from controller.rollouts.explaining import WHY_LEFT_OUT
from controller.rollouts.plan import RolloutState, Verdict
from controller.rollouts.views import RolloutDevice, WaveState, WaveView
from tests.support.answers import ROLLOUT, Answers, a_rollout, here
from tests.support.command import flotilla

THERE = here(connected=True)
BOTH = f"flotilla resume {ROLLOUT} goes on with it; flotilla revert {ROLLOUT} sends back everybody who took it"


def a_wave(number: int, verdicts: dict[Verdict, int], *, begun: bool = True, **more: Any) -> WaveView:
    facts: dict[str, Any] = {"share": "some", "state": WaveState.RUNNING, "because": "it runs"}
    times = {"started_at": utc_now() if begun else None, "proven_at": None, "approved_at": None, "deadline": None}
    return WaveView(number=number, verdicts=verdicts, **{**facts, **times, **more})


def test_what_can_be_done_about_a_rollout_that_was_stopped_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    Answers(monkeypatch, THERE, a_rollout(state=RolloutState.HALTED, because="one failed", advice=BOTH))
    for command in (("rollout", ROLLOUT), ("top",), ("halt", ROLLOUT)):
        assert BOTH in " ".join(flotilla(*command).text.split()), command


def test_a_device_that_is_held_or_away_has_its_reason_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    held = RolloutDevice(
        device="pi-1", wave=1, verdict=Verdict.HELD, online=True, update=None, reason="pinned at 1.1.0"
    )
    Answers(monkeypatch, THERE, devices=[held])
    row = next(line for line in flotilla("rollout", ROLLOUT).text.splitlines() if line.startswith("pi-1"))
    assert row.split() == ["pi-1", "held", "-", "-", "-", "pinned", "at", "1.1.0"]


def test_a_device_that_the_release_leaves_out_is_counted_and_has_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    out = RolloutDevice(
        device="pi-7", wave=None, verdict=Verdict.NOT_MEANT, online=True, update=None, reason=WHY_LEFT_OUT
    )
    Answers(monkeypatch, THERE, a_rollout(verdicts={Verdict.SUCCEEDED: 2}, left_out=1), [out])
    lines = flotilla("rollout", ROLLOUT).text.splitlines()
    assert "succeeded 2; 1 device is left out by the release" in lines
    (row,) = [line.split() for line in lines if line.startswith("pi-7")]
    assert row == ["pi-7", "left", "out", "-", "-", "-", *WHY_LEFT_OUT.split()]


def a_member(device: str, verdict: Verdict, *, wave: int | None = 1, online: bool = False) -> RolloutDevice:
    return RolloutDevice(device=device, wave=wave, verdict=verdict, online=online, update=None)


def test_who_is_away_of_those_that_a_wave_waits_for_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = [
        a_member("pi-a", Verdict.PENDING, online=True),
        a_member("pi-b", Verdict.SUCCEEDED),
        a_member("pi-c", Verdict.WAITING, wave=2),
        a_member("pi-d", Verdict.PENDING, wave=2),
        a_member("pi-e", Verdict.WAITING, wave=None),
    ]
    away = [
        a_member(f"pi-{number}", verdict)
        for number, verdict in enumerate((Verdict.PENDING, Verdict.UNREACHED, Verdict.ASLEEP, Verdict.UPDATING))
    ]

    def said(devices: list[RolloutDevice], state: RolloutState = RolloutState.ACTIVE) -> list[str]:
        Answers(monkeypatch, THERE, a_rollout(state=state), devices)
        return [line for line in flotilla("rollout", ROLLOUT).text.splitlines() if line.startswith("away")]

    assert said(nobody) == []
    assert said(nobody + away[:1]) == ["away: pi-0"]
    assert said(away[:3]) == ["away: pi-0, pi-1, pi-2"]
    assert said(away + nobody) == ["away: pi-0, pi-1, pi-2 and 1 more"]
    assert said(away, RolloutState.HALTED) == []


def test_what_was_stopped_before_another_took_its_place_is_listed_so(monkeypatch: pytest.MonkeyPatch) -> None:
    Answers(monkeypatch, THERE, a_rollout(state=RolloutState.SUPERSEDED, before=RolloutState.REVERTED))
    assert "superseded (reverted before)" in flotilla("rollouts").text
    Answers(monkeypatch, THERE, a_rollout(state=RolloutState.SUPERSEDED))
    assert "before" not in flotilla("rollouts").text


def test_what_waits_for_a_person_is_listed_so(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = a_wave(2, {}, begun=False, state=WaveState.AWAITING_APPROVAL, because="waits for a person")
    Answers(monkeypatch, THERE, a_rollout(waves=[a_wave(1, {Verdict.SUCCEEDED: 1}, state=WaveState.PROVEN), waits]))
    assert "  active, awaiting approval  " in flotilla("rollouts").text
    assert "on stable  active, awaiting approval  " in flotilla("top").text
    Answers(monkeypatch, THERE, a_rollout(waves=[a_wave(1, {Verdict.PENDING: 1})]))
    for command in ("rollouts", "top"):
        assert "awaiting" not in flotilla(command).text


@pytest.mark.parametrize(
    ("waves", "says"),
    [
        ([a_wave(1, {Verdict.SUCCEEDED: 1}), a_wave(2, {Verdict.SUCCEEDED: 1})], ""),
        (
            [a_wave(1, {Verdict.PENDING: 1}), a_wave(2, {Verdict.WAITING: 3}, begun=False)],
            ": 1 device of wave 1 may start",
        ),
        (
            [a_wave(1, {Verdict.ROLLED_BACK: 1}, accepted=1), a_wave(2, {Verdict.PENDING: 20})],
            ": what went wrong on 1 device is accepted; 20 devices of wave 2 may start",
        ),
        (
            [
                a_wave(1, {Verdict.LATE: 1, Verdict.FAILED: 1}, accepted=2),
                a_wave(2, {}, begun=False, state=WaveState.AWAITING_APPROVAL, because="waits for a person"),
            ],
            ": what went wrong on 2 devices is accepted; wave 2 waits for a person",
        ),
    ],
)
def test_a_resume_says_what_it_accepts_and_how_many_may_start(
    monkeypatch: pytest.MonkeyPatch, waves: list[WaveView], says: str
) -> None:
    Answers(monkeypatch, THERE, a_rollout(waves=waves), before=a_rollout(state=RolloutState.PAUSED))
    assert flotilla("resume", ROLLOUT).text == f"tacho 1.0.0 on channel stable is active{says}\n"


@pytest.mark.parametrize(
    ("command", "state"),
    [
        ("resume", RolloutState.COMPLETE),
        ("resume", RolloutState.ACTIVE),
        ("pause", RolloutState.PAUSED),
        ("halt", RolloutState.HALTED),
    ],
)
def test_a_rollout_that_is_there_already_is_said_to_be(
    monkeypatch: pytest.MonkeyPatch, command: str, state: RolloutState
) -> None:
    since = datetime(2026, 8, 1, 12, tzinfo=UTC)
    made = a_rollout(state=state, changed_at=since, changed_by="user:anna", waves=[a_wave(1, {Verdict.PENDING: 1})])
    answers = Answers(monkeypatch, THERE, made)
    said = flotilla(command, ROLLOUT).text
    assert said.startswith(f"tacho 1.0.0 on channel stable is {state} already, since 2026-08-01")
    assert said.endswith(" by user:anna: nothing changed\n")
    assert answers.sent == 0


@pytest.mark.parametrize(("number", "says"), [(1, "1 device"), (2, "2 devices")])
def test_numbers_of_devices_are_plain_english(monkeypatch: pytest.MonkeyPatch, number: int, says: str) -> None:
    Answers(monkeypatch, THERE, a_rollout(asked=number), unanswered=number)
    assert f"asked of {says}; follow" in flotilla("retry", ROLLOUT).text
    assert f"cancel asked, {says} of it yet to answer" in flotilla("cancel", ROLLOUT).text


ENDS = datetime(2026, 3, 1, 14, 5, tzinfo=UTC)
BY = f"; at this pace the rest is done by {ENDS.astimezone():%Y-%m-%d %H:%M:%S}"


@pytest.mark.parametrize(
    ("pace", "said"),
    [
        (RolloutPace(), None),
        (RolloutPace(per_minute=12.4, ends_at=ENDS), f"12 devices finish a minute{BY}"),
        (RolloutPace(per_minute=1.26), "1.3 devices finish a minute"),
        (RolloutPace(per_minute=1.0), "1 device finishes a minute"),
        (RolloutPace(per_minute=0.1, ends_at=ENDS), f"6 devices finish an hour{BY}"),
    ],
)
def test_a_rollout_says_how_fast_it_goes_where_there_is_something_to_say(
    monkeypatch: pytest.MonkeyPatch, pace: RolloutPace, said: str | None
) -> None:
    Answers(monkeypatch, THERE, a_rollout(), pace=pace)
    lines = [line for line in flotilla("rollout", ROLLOUT).text.splitlines() if "finish" in line]
    assert lines == ([said] if said else [])
