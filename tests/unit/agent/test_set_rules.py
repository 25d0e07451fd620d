"""The rules of sets over every combination of phases: who is taken apart, which move each makes, who goes first."""

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from device_agent import lifecycle
from device_agent.lifecycle import Outcome
from device_agent.sets import (
    WAIT_S,
    Broken,
    Members,
    Ready,
    Waiting,
    because_of,
    expected,
    group_members,
    in_order,
    judge,
    together,
)
from device_agent.updates import Install, Origin, Release, Update, UpdateRequest
from schemas.manifest import Requires
from schemas.messages import LAST_WORDS, ErrorReport, Phase, ReleaseSet
from tests.unit.agent.releases import build

NOW = datetime(2026, 3, 1, tzinfo=UTC)
GROUP = ReleaseSet(id="018f0000-0000-7000-8000-000000000001", packages={"a": "2.0.0", "b": "2.0.0"})
LIVE = [phase for phase in Phase if phase not in LAST_WORDS]
BAD = [Phase.REJECTED, Phase.ROLLED_BACK, Phase.FAILED, Phase.CANCELLED]


def update(package: str, phase: Phase | None, *, origin: Origin = Origin.ANNOUNCEMENT, **more: Any) -> Update:
    request = UpdateRequest(package=package, version="2.0.0", group=GROUP, origin=origin)
    return Update(id=f"{package}-{phase}", request=request, phase=phase, created_at=NOW, changed_at=NOW, **more)


def changed(phase: Phase | None, *, begun: bool) -> bool:
    return phase in (None, Phase.SWITCHED, Phase.PROBATION) or (phase is Phase.STAGED and begun)


@pytest.mark.parametrize("culprit", [*BAD, Phase.ROLLING_BACK])
@pytest.mark.parametrize("phase", [*LIVE, None])
@pytest.mark.parametrize("begun", [False, True])
def test_whoever_is_left_when_one_has_gone_moves_as_the_table_allows(
    culprit: Phase, phase: Phase | None, begun: bool
) -> None:
    gone = update("a", culprit, error=ErrorReport(code="hook.failed", message="it said no"))
    left = update("b", phase, switch_begun=begun and changed(phase, begun=True))
    ended, live = ((), (gone, left)) if culprit is Phase.ROLLING_BACK else ((gone,), (left,))
    verdict = judge(Members(GROUP, live, ended), {}, NOW)
    assert isinstance(verdict, Broken)
    if phase is Phase.ROLLING_BACK:
        assert verdict.moves == ()
        return
    ((moved, outcome, error),) = verdict.moves
    assert moved is left
    follows = lifecycle.advance(phase, outcome)
    if left.switch_begun or changed(phase, begun=False):
        assert follows is Phase.ROLLING_BACK
    else:
        assert follows in BAD
        if culprit in (Phase.REJECTED, Phase.CANCELLED):
            assert follows is culprit
    assert error.code == "conflict.set"
    assert "a 2.0.0" in error.message
    assert "it said no" in error.message


@pytest.mark.parametrize(("one", "other"), list(itertools.product(LIVE, LIVE)))
def test_a_set_is_ready_exactly_when_all_are_staged_or_beyond(one: Phase, other: Phase) -> None:
    verdict = judge(Members(GROUP, (update("a", one), update("b", other)), ()), {}, NOW)
    beyond = {Phase.STAGED, Phase.SWITCHED, Phase.PROBATION}
    if Phase.ROLLING_BACK in (one, other):
        assert isinstance(verdict, Broken)
    elif {one, other} <= beyond:
        assert isinstance(verdict, Ready)
    else:
        assert verdict == Waiting()


def test_a_member_that_was_not_announced_is_waited_for_unless_it_runs() -> None:
    members = Members(GROUP, (update("a", Phase.STAGED),), ())
    until = NOW + timedelta(seconds=WAIT_S)
    assert judge(members, {}, NOW) == Waiting(until)
    verdict = judge(members, {}, until)
    assert isinstance(verdict, Broken)
    assert [outcome for _, outcome, _ in verdict.moves] == [Outcome.REJECT]
    running = Install(package="b", current=Release(version="2.0.0", manifest="0" * 64, installed_at=NOW))
    assert isinstance(judge(members, {"b": running}, NOW), Ready)
    older = Install(package="b", current=Release(version="1.0.0", manifest="0" * 64, installed_at=NOW))
    assert judge(members, {"b": older}, NOW) == Waiting(until)


def test_the_newest_word_about_a_member_counts() -> None:
    before, again = update("a", Phase.FAILED), update("a", Phase.STAGED)
    live = [again, update("b", Phase.STAGED)]
    (members,) = group_members(live, [*live, before])
    assert isinstance(judge(members, {}, NOW), Ready)
    (members,) = group_members(live[1:], [live[1], before])
    assert isinstance(judge(members, {}, NOW), Broken)


def test_going_back_on_request_is_no_member() -> None:
    back = update("a", Phase.ROLLING_BACK, origin=Origin.ROLLBACK)
    assert not together(back)
    assert group_members([back], [back]) == []


@pytest.mark.parametrize("code", ["conflict.superseded", "conflict.halted", "conflict.deadline"])
def test_what_says_nothing_about_a_release_says_nothing_about_the_others(code: str) -> None:
    assert because_of("a 2.0.0", ErrorReport(code=code, message="x")).code == code
    assert because_of("a 2.0.0", ErrorReport(code="hook.failed", message="x")).code == "conflict.set"
    assert because_of("a 2.0.0", None).code == "conflict.set"


def test_requirements_count_what_the_set_brings() -> None:
    installed = {"b": Install(package="b", current=Release(version="1.0.0", manifest="0" * 64, installed_at=NOW))}
    assert expected(None, installed) == {"b": "1.0.0"}
    assert expected(GROUP, installed) == GROUP.packages


def test_whoever_is_needed_goes_first_and_circles_end() -> None:
    names = ["app", "engine", "wheel"]
    needs = {"app": {"wheel": "*", "engine": "*"}, "engine": {"wheel": "*"}, "wheel": {}}
    members = [update(name, Phase.STAGED) for name in names]
    manifests = {name: build(name, requires=Requires(packages=needs[name])).manifest for name in names}
    assert [one.package for one in in_order(members, manifests)] == ["wheel", "engine", "app"]
    circle = {name: build(name, requires=Requires(packages=dict.fromkeys(names, "*"))).manifest for name in names}
    assert [one.package for one in in_order(members, circle)] == names
