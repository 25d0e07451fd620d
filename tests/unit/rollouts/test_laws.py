"""The laws of the rollout engine, for any plan, any fleet and any order of things. `docs/rollouts.md` lists them."""

import re
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace as structs_replace

from controller.rollouts.engine import by_counts, decide, resumed
from controller.rollouts.judging import Judge
from controller.rollouts.plan import (
    ABSENT,
    BUSY,
    FAILURES,
    FINAL,
    OPEN,
    STARTING,
    UNPROVEN,
    Decisions,
    Mark,
    Observation,
    Plan,
    RolloutState,
    Verdict,
    WaveProgress,
)
from controller.rollouts.standing import Standing
from controller.rollouts.tally import Tally
from controller.rollouts.waves import OnFailure, RolloutPlan, Wave
from schemas.messages import BUCKETS, LAST_WORDS, Phase, Targets
from schemas.targeting import bucket, is_meant

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ROLLOUT = "01890a5d-ac96-774b-bcce-b302099a8057"
NAMES = [f"pi-{number}" for number in range(1, 13)]

STOPPED = [state for state in RolloutState if state not in STARTING]
WORDS = [None, None, None, Phase.SUCCEEDED, Phase.SUCCEEDED, Phase.SUCCEEDED, *Phase]
CHOICES: list[tuple[str, list[Any]]] = [
    ("phase", WORDS),
    ("heard_at", [NOW - timedelta(minutes=ago) for ago in (0, 5, 40, 150, -60)]),
    ("error_code", [None, "conflict.halted"]),
    ("installed", ["2.0.0", "1.0.0", None]),
    ("installed_phase", [Phase.SUCCEEDED, Phase.PROBATION, None]),
    ("reported_since", [True, False]),
    ("pinned", [None, None, None, "1.0.0"]),
    ("moved", [False, False, True]),
    ("online", [True, False]),
    ("last_seen", [NOW - timedelta(minutes=ago) for ago in (0, 0, 4, 35, 200, 13_000, -90)]),
    ("hours", [None, "2930:" + "0" * 42 + "1" * 126]),
    ("tags", [{}, {"site": "bern"}, {"site": "basel"}]),
    ("facts", [{"model": "pi4"}, {}]),
]


def observed(device: str, number: int) -> Observation:
    """One of all devices that can be thought of; 0 is the plainest."""
    fields: dict[str, Any] = {}
    for name, choices in CHOICES:
        number, which = divmod(number, len(choices))
        fields[name] = choices[which]
    return Observation(device=device, **fields)


numbers = st.integers(0, 2**23)
fleets = st.lists(numbers, max_size=len(NAMES)).map(lambda some: list(map(observed, NAMES, some)))
changed = st.dictionaries(st.sampled_from(NAMES), numbers, max_size=5).map(
    lambda some: [observed(device, number) for device, number in some.items()]
)
parts = st.fixed_dictionaries(
    {
        "soak": st.sampled_from(["0s", "10m"]),
        "success": st.sampled_from([0, 50, 100]),
        "max_failures": st.sampled_from([None, 0, 2]),
        "max_failures_percent": st.sampled_from([None, 25]),
        "min_results": st.sampled_from([1, 3]),
        "deadline": st.sampled_from([None, "1h"]),
        "concurrency": st.sampled_from([None, None, 1, 3]),
        "approval": st.booleans(),
    }
)
kinds = st.sampled_from(
    [
        {"devices": 1},
        {"devices": 3},
        {"devices": ["pi-1", "pi-5"]},
        {"where": {"site": "bern"}},
        {"upto": 10},
        {"upto": 50},
        {"upto": 100},
    ]
)


@st.composite
def waves(draw: st.DrawFn) -> list[Wave]:
    made: list[Wave] = []
    highest = 0.0
    for _ in range(draw(st.integers(1, 4))):
        kind: dict[str, Any] = draw(kinds)
        if kind.get("upto", 101) <= highest:
            continue
        highest = kind.get("upto", highest)
        more: dict[str, Any] = draw(parts)
        if more["concurrency"] and draw(st.booleans()):
            more = more | {"concurrency_per": "site"}
        made.append(Wave(**kind, **more))
    return made or [Wave(upto=100)]


bases = st.builds(
    Targets,
    upto=st.sampled_from([0, BUCKETS // 2, BUCKETS, BUCKETS]),
    where=st.sampled_from([{}, {}, {"model": "pi4"}]),
    devices=st.lists(st.sampled_from(NAMES), unique=True, max_size=5),
    exclude=st.sampled_from([[], [], ["pi-2"]]),
)


@st.composite
def new_plans(draw: st.DrawFn) -> Plan:
    """Rollouts that have not begun."""
    wanted = RolloutPlan(waves=draw(waves()), on_failure=draw(st.sampled_from(OnFailure)))
    return Plan(
        rollout=ROLLOUT,
        version="2.0.0",
        state=RolloutState.ACTIVE,
        base=draw(bases),
        plan=wanted,
        progress=tuple(WaveProgress() for _ in wanted.waves),
        deadline=draw(st.sampled_from([None, None, None, NOW + timedelta(hours=2)])),
    )


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Rollouts that came as far as some fleet took them, in whatever state somebody put them since."""
    begun = decide(draw(new_plans()), draw(fleets), NOW - timedelta(hours=2)).plan
    approvals = tuple(
        WaveProgress(**{name: getattr(one, name) for name in one.__struct_fields__} | {"approved_at": NOW})
        if draw(st.booleans())
        else one
        for one in begun.progress
    )
    further = decide(replace(begun, progress=approvals), draw(fleets), NOW - timedelta(minutes=30)).plan
    return replace(further, state=draw(st.sampled_from([further.state, *RolloutState])))


@st.composite
def limited_plans(draw: st.DrawFn) -> Plan:
    """Rollouts that have not begun, for everybody, in which each wave lets in so many at a time."""
    limited = [structs_replace(one, concurrency=one.concurrency or 2, approval=False) for one in draw(waves())]
    return replace(
        draw(new_plans()),
        base=Targets(upto=BUCKETS),
        plan=RolloutPlan(waves=limited),
        progress=(WaveProgress(),) * len(limited),
    )


idle = st.lists(st.sampled_from(["bern", "basel"]), min_size=4, max_size=len(NAMES)).map(
    lambda sites: [
        Observation(
            device=name,
            tags={"site": site},
            installed="1.0.0",
            installed_phase=Phase.SUCCEEDED,
            online=True,
            last_seen=NOW,
        )
        for name, site in zip(NAMES, sites, strict=False)
    ]
)
"""Fleets that are all there, and have not begun."""


def has_it(one: Observation) -> Observation:
    return structs_replace(
        one,
        phase=Phase.SUCCEEDED,
        heard_at=NOW - timedelta(hours=1),
        installed="2.0.0",
        installed_phase=Phase.SUCCEEDED,
    )


def meant_by(targets: Targets, seen: Observation) -> bool:
    return is_meant(targets, rollout=ROLLOUT, device=seen.device, tags=seen.tags, facts=seen.facts)


@settings(max_examples=500)
@given(plan=plans() | new_plans(), fleet=fleets)
def test_every_device_has_exactly_one_verdict_and_order_does_not_matter(plan: Plan, fleet: list[Observation]) -> None:
    decisions = decide(plan, fleet, NOW)
    assert set(decisions.verdicts) == {one.device for one in fleet}
    assert decide(plan, list(reversed(fleet)), NOW) == decisions


@given(plan=plans(), fleet=fleets)
def test_looking_again_and_a_restart_change_nothing(plan: Plan, fleet: list[Observation]) -> None:
    first = decide(plan, fleet, NOW)
    assert decide(first.plan, fleet, NOW) == first


@given(plan=plans(), fleet=fleets, at=st.timedeltas(timedelta(), timedelta(hours=3)))
def test_whoever_was_let_in_stays_in(plan: Plan, fleet: list[Observation], at: timedelta) -> None:
    after = decide(plan, fleet, NOW + at)
    before, now = plan.targets, after.targets
    assert now.upto >= before.upto
    assert (now.where, now.exclude) == (before.where, before.exclude)
    # by what each wave says, and not by what is made of that for the announcement
    let_in = {device for one in plan.progress for device in one.devices}
    assert all(device in now.devices or bucket(ROLLOUT, device) < now.upto for device in let_in)
    assert now.upto >= max(one.upto for one in plan.progress)


@settings(max_examples=300)
@given(plan=plans(), stopped=st.none() | st.sampled_from(STOPPED), fleet=fleets | idle)
def test_a_stopped_rollout_starts_nobody(plan: Plan, stopped: RolloutState | None, fleet: list[Observation]) -> None:
    plan = plan if stopped is None else replace(plan, state=stopped)
    after = decide(plan, fleet, NOW)
    if plan.state not in STARTING:
        assert after.plan == plan
    if after.state not in STARTING:
        assert not {Verdict.PENDING, Verdict.DEFERRED, Verdict.WAITING} & set(after.verdicts.values())


@given(plan=plans(), fleet=fleets)
def test_nobody_outside_the_waves_that_began_is_let_in(plan: Plan, fleet: list[Observation]) -> None:
    after = decide(plan, fleet, NOW)
    for one in fleet:
        if meant_by(after.targets, one):
            assert meant_by(plan.base, one)
    for number, progress in enumerate(after.plan.progress):
        wave = after.plan.waves[number]
        if progress.started_at is None:
            assert (progress.upto, progress.devices) == (0, [])
            continue
        assert progress.upto <= after.plan.share(number)
        chosen = [one for one in progress.devices if not _is_share(after.plan, number, one, fleet)]
        if isinstance(wave.devices, int):
            assert len(progress.devices) <= wave.devices
        elif isinstance(wave.devices, list):
            assert set(progress.devices) <= set(wave.devices)
        elif wave.upto is not None:
            # rounded up to one device where it would be nobody
            assert len(chosen) <= 1


def _is_share(plan: Plan, wave: int, device: str, fleet: list[Observation]) -> bool:
    place = bucket(ROLLOUT, device)
    named = device in plan.base.devices and place < plan.waves[wave].buckets
    return named or place < plan.share(wave)


@given(plan=new_plans(), fleet=fleets)
def test_waves_begin_in_order_and_only_on_the_proof_of_those_before(plan: Plan, fleet: list[Observation]) -> None:
    after = decide(plan, fleet, NOW).plan
    marks = {one.device: Judge(after, NOW).mark(one) for one in fleet}
    begun = [one.started_at is not None for one in after.progress]
    assert begun == sorted(begun, reverse=True)
    tally = Tally(marks.values())
    for number in range(1, after.begun):
        before = after.progress[number - 1]
        assert before.proven_at is not None
        good, bad = tally.number(number - 1, {Verdict.SUCCEEDED}), tally.number(number - 1, UNPROVEN)
        wanted = after.waves[number - 1].success
        nobody = not tally.number(number - 1, BUSY | UNPROVEN | {Verdict.SUCCEEDED})
        assert nobody or good * 100 >= wanted * (good + bad)
        assert not after.waves[number].approval
        assert number > 1 or not nobody


@given(plan=plans(), fleet=fleets, new=limited_plans(), there=idle, back=numbers)
def test_complete_means_that_nobody_is_waited_for(
    plan: Plan, fleet: list[Observation], new: Plan, there: list[Observation], back: int
) -> None:
    # all but one are through, and the last one may be anything
    begun = decide(new, [has_it(one) for one in there], NOW).plan
    for before, seen in (plan, fleet), (begun, [*map(has_it, there[1:]), observed(there[0].device, back)]):
        after = decide(before, seen, NOW)
        if after.state is RolloutState.COMPLETE:
            assert not OPEN & set(after.verdicts.values())
        if after.state is RolloutState.ACTIVE and before.state is RolloutState.COMPLETE:
            assert OPEN & set(after.verdicts.values())


@given(plan=plans(), fleet=fleets)
def test_a_last_word_is_the_verdict_and_a_success_needs_more_than_a_word(plan: Plan, fleet: list[Observation]) -> None:
    after = decide(plan, fleet, NOW)
    for one in fleet:
        verdict = after.verdicts[one.device]
        if one.phase in LAST_WORDS - {Phase.SUCCEEDED} and one.error_code != "conflict.halted":
            assert verdict is FINAL[one.phase]
        if verdict is Verdict.SUCCEEDED and after.plan.state in STARTING:
            assert (one.installed, one.installed_phase) == ("2.0.0", Phase.SUCCEEDED)
        if verdict in ABSENT:
            assert one.phase not in LAST_WORDS - {Phase.SUCCEEDED, Phase.CANCELLED}


@given(plan=plans(), fleet=fleets, new=limited_plans(), there=idle)
def test_no_more_than_so_many_of_a_wave_begin_at_a_time(
    plan: Plan, fleet: list[Observation], new: Plan, there: list[Observation]
) -> None:
    # each turn ends well, until all are through
    while {one.device for one in there if one.phase is None}:
        now = decide(new, there, NOW)
        turn = {device for device, mark in now.marks.items() if mark.place}
        groups = Counter((now.marks[one.device].wave, one.tags["site"]) for one in there if one.device in turn)
        for number, wave in enumerate(now.plan.waves):
            some = [count for (of, _), count in groups.items() if of == number]
            assert (max(some, default=0) if wave.concurrency_per else sum(some)) <= (wave.concurrency or 0)
        may = {one.device for one in there if one.phase is None and meant_by(now.targets, one)}
        assert may == turn
        if not may:
            break
        new, there = now.plan, [has_it(one) if one.device in turn else one for one in there]
    after = decide(replace(plan, state=RolloutState.ACTIVE), fleet, NOW)
    for number, wave in enumerate(after.plan.waves):
        new = [
            one.device
            for one in fleet
            if after.marks[one.device].wave == number
            and after.verdicts[one.device] in {Verdict.PENDING, Verdict.DEFERRED, Verdict.LATE}
            and _lets_in(after.plan.progress[number], one)
            and not meant_by(plan.targets, one)
        ]
        if wave.concurrency is not None and wave.concurrency_per is None:
            assert len(new) <= wave.concurrency


def _lets_in(progress: WaveProgress, one: Observation) -> bool:
    """Whether the wave itself does: a later one may pick a device of this one that was taken back."""
    return one.device in progress.devices or bucket(ROLLOUT, one.device) < progress.upto


@settings(max_examples=800)
@given(
    plan=plans(),
    fleet=fleets,
    changes=changed,
    heard=st.dictionaries(st.sampled_from(NAMES), st.booleans(), max_size=8),
    at=st.timedeltas(timedelta(), timedelta(hours=3)),
)
def test_a_look_at_what_changed_is_as_good_as_a_look_at_everything(
    plan: Plan, fleet: list[Observation], changes: list[Observation], heard: dict[str, bool], at: timedelta
) -> None:
    first = decide(plan, fleet, NOW)
    standing = Standing(None, first.plan, first.marks)
    known = {one.device: one for one in fleet} | {one.device: one for one in changes}
    # a mere sign of life, or of its end, is looked at only where it is listened for
    for device, online in heard.items():
        if device in known:
            known[device] = structs_replace(known[device], online=online, last_seen=NOW + at)
    devices = standing.take_due(NOW + at) | {one.device for one in changes} | (standing.listening & known.keys())
    judge = Judge(first.plan, NOW + at)
    standing.update({device: judge.mark(known[device]) for device in devices})
    whole: Decisions = decide(first.plan, list(known.values()), NOW + at)
    plan = by_counts(first.plan, standing.tally, NOW + at)
    if plan is not None:
        assert whole.plan == plan
        assert standing.tally.verdicts() == Tally(whole.marks.values()).verdicts()
        for wave in range(len(plan.waves)):
            assert +Counter(standing.tally.wave(wave)) == +Counter(Tally(whole.marks.values()).wave(wave))


@settings(max_examples=500)
@given(plan=plans(), fleet=fleets, new=new_plans(), there=idle, later=fleets)
def test_going_on_forgives_those_who_were_in_the_way_once_and_nobody_else(
    plan: Plan, fleet: list[Observation], new: Plan, there: list[Observation], later: list[Observation]
) -> None:
    begun = decide(new, there, NOW).plan
    for before, seen in (plan, fleet), (begun, [*fleet, *there[len(fleet) :]]):
        going, known = resumed(replace(before, state=RolloutState.ACTIVE, stopped="too many failed"), seen, NOW)
        first = decide(going, known, NOW)
        # a wave that begins now may have failed before
        assert first.state in STARTING or first.plan.begun > going.begun
        kept = {device: mark.forgiven for device, mark in first.marks.items()}
        # who has begun and is away as usual is silent again later; and where a wave that begins now stops the rollout,
        # who was late and had not begun is held
        some = {*UNPROVEN, Verdict.ASLEEP, *([Verdict.HELD] if first.state not in STARTING else [])}
        assert all(first.verdicts[device] in some for device, forgiven in kept.items() if forgiven)
        after = decide(first.plan, [structs_replace(one, forgiven=kept.get(one.device, False)) for one in later], NOW)
        if after.state is not RolloutState.ACTIVE:
            continue
        failed = Counter(mark.wave for device, mark in after.marks.items() if _fails_anew(mark, kept.get(device)))
        for number in range(after.plan.begun):
            most = after.plan.waves[number].max_failures
            assert most is None or failed[number] <= most


def _fails_anew(mark: Mark, was_forgiven: bool | None) -> bool:
    return mark.verdict in FAILURES and not was_forgiven


def test_every_law_is_listed_in_the_docs() -> None:
    text = (Path(__file__).parents[3] / "docs" / "rollouts.md").read_text()
    listed = re.findall(r"^\d+\. ", text.partition("## Laws")[2].partition("\n## ")[0], re.MULTILINE)
    held = [name for name in globals() if name.startswith("test_")]
    assert [f"{number}. " for number in range(1, len(held))] == listed
