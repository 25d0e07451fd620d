"""Rollouts in the database: made, superseded, changed, completed, and what their topics announce."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine

from controller.fleet.incoming import Incoming
from controller.fleet.intake_store import IntakeStore
from controller.rollouts.announcing import AnnouncementStore
from controller.rollouts.plan import RolloutState, Verdict
from controller.rollouts.reader import RolloutReader
from controller.rollouts.store import RolloutStore
from controller.rollouts.views import Rollout
from schemas.codec import decode
from schemas.errors import OperatorError, PublisherError
from schemas.messages import Announcement, ErrorReport, Phase, ReleaseState, RolloutPolicy, Targets
from tests.unit.fleet.builders import NOW, event_in, installed, reported_in


def create(engine: Engine, version: str = "2.0.0", **changes: Any) -> Rollout:
    values = {"package": "tacho", "version": version, "channel": "stable", "repository": ["http://127.0.0.1:1/repo"]}
    return RolloutStore(engine).create(**(values | {"now": NOW} | changes))


def take_in(engine: Engine, *batch: Incoming) -> None:
    IntakeStore(engine).take_in(batch, NOW)


def says(engine: Engine, rollout: Rollout, device: str, phase: Phase, seq: int, **changes: Any) -> RolloutState:
    take_in(engine, event_in(device, seq, phase, rollout=rollout.id, version=rollout.version, **changes))
    if phase is Phase.SUCCEEDED:
        take_in(engine, reported_in(device, seq, packages={"tacho": installed(rollout.version)}))
    evaluation = RolloutStore(engine).evaluate(rollout.id, NOW)
    assert evaluation is not None
    return evaluation.state


def verdicts(engine: Engine, rollout: Rollout) -> dict[str, Verdict | None]:
    return {one.device: one.verdict for one in RolloutReader(engine).devices(rollout.id)}


def announced(engine: Engine) -> Announcement | None:
    (topic,) = AnnouncementStore(engine).topics(changed_only=False)
    return decode(topic.payload, Announcement) if topic.payload is not None else None


def test_a_new_rollout_is_announced_to_all_of_its_channel(engine: Engine) -> None:
    take_in(engine, reported_in("pi-1"), reported_in("pi-2"), reported_in("pi-3", channel="beta"))
    rollout = create(engine)
    assert (rollout.state, rollout.meant, rollout.verdicts) == (RolloutState.ACTIVE, 2, {"pending": 2})
    message = announced(engine)
    assert message is not None
    assert (message.rollout, message.revision, message.state) == (rollout.id, 1, ReleaseState.ACTIVE)
    assert (message.version, message.published_at, message.targets) == ("2.0.0", NOW, Targets())


def test_the_devices_words_complete_it_and_the_announcement_says_so(engine: Engine) -> None:
    take_in(engine, reported_in("pi-1"), reported_in("pi-2"))
    rollout = create(engine)
    assert says(engine, rollout, "pi-1", Phase.SUCCEEDED, 1) is RolloutState.ACTIVE
    error = ErrorReport(code="health.http", message="answered 500")
    assert says(engine, rollout, "pi-2", Phase.ROLLED_BACK, 1, error=error) is RolloutState.COMPLETE
    message = announced(engine)
    assert message is not None
    assert (message.revision, message.state) == (2, ReleaseState.COMPLETE)
    view = RolloutReader(engine).rollout(rollout.id)
    assert (view.verdicts, view.phases) == ({"rolled_back": 1, "succeeded": 1},) * 2
    (failed,) = RolloutReader(engine).devices(rollout.id, after="pi-1")
    assert failed.update is not None
    assert (failed.device, failed.verdict, failed.update.error) == ("pi-2", Verdict.ROLLED_BACK, error)
    (failure,) = RolloutReader(engine).failures(rollout.id)
    assert (failure.code, failure.count, failure.devices) == ("health.http", 1, ["pi-2"])
    assert (failure.message, failure.log_tail) == ("answered 500", "")


def test_what_went_wrong_is_grouped_by_its_code_with_one_log_each(engine: Engine) -> None:
    take_in(engine, *(reported_in(f"pi-{number}") for number in range(1, 5)))
    rollout = create(engine)
    for number, code in enumerate(("disk.full", "health.http", "health.http"), 1):
        error = ErrorReport(code=code, message=f"{code} on pi-{number}", log_tail=f"log of pi-{number}")
        phase = Phase.FAILED if code == "disk.full" else Phase.ROLLED_BACK
        says(engine, rollout, f"pi-{number}", phase, 1, error=error)
    refused = ErrorReport(code="requires.agent", message="too old")
    says(engine, rollout, "pi-4", Phase.REJECTED, 1, error=refused)
    reader = RolloutReader(engine)
    assert reader.rollout(rollout.id).verdicts == {"failed": 1, "rejected": 1, "rolled_back": 2}
    found = [(one.code, one.count, one.devices, one.log_tail) for one in reader.failures(rollout.id)]
    assert found == [
        ("health.http", 2, ["pi-2", "pi-3"], "log of pi-2"),
        ("disk.full", 1, ["pi-1"], "log of pi-1"),
        ("requires.agent", 1, ["pi-4"], ""),
    ]


def test_a_device_that_has_the_version_already_needs_no_word(engine: Engine) -> None:
    take_in(engine, reported_in("pi-1", packages={"tacho": installed("2.0.0")}))
    rollout = create(engine)
    assert rollout.state is RolloutState.COMPLETE
    assert verdicts(engine, rollout) == {"pi-1": Verdict.SUCCEEDED}


def test_a_device_that_joins_later_reopens_it_and_one_that_leaves_is_forgotten(engine: Engine) -> None:
    take_in(engine, reported_in("pi-1"))
    rollout = create(engine)
    says(engine, rollout, "pi-1", Phase.SUCCEEDED, 1)
    take_in(engine, reported_in("pi-2"))
    evaluation = RolloutStore(engine).evaluate(rollout.id, NOW)
    assert evaluation is not None
    assert (evaluation.state, evaluation.verdicts) == (RolloutState.ACTIVE, 1)
    runs = {"tacho": installed("2.0.0")}
    take_in(engine, reported_in("pi-1", seq=1, channel="beta", packages=runs), reported_in("pi-2", channel="beta"))
    assert says(engine, rollout, "pi-3", Phase.REJECTED, 1) is RolloutState.COMPLETE
    assert verdicts(engine, rollout) == {"pi-1": Verdict.SUCCEEDED, "pi-3": Verdict.REJECTED}


def test_looking_again_changes_nothing(engine: Engine) -> None:
    take_in(engine, reported_in("pi-1"))
    rollout = create(engine)
    says(engine, rollout, "pi-1", Phase.SUCCEEDED, 1)
    before = announced(engine)
    evaluation = RolloutStore(engine).evaluate(rollout.id, NOW)
    assert evaluation is not None
    assert (evaluation.state_changed, evaluation.verdicts) == (False, 0)
    assert announced(engine) == before


def test_a_newer_rollout_supersedes_the_older_one_and_revisions_go_on(engine: Engine) -> None:
    take_in(engine, reported_in("pi-1"), reported_in("pi-2"))
    first = create(engine)
    says(engine, first, "pi-1", Phase.SUCCEEDED, 1)
    second = create(engine, "2.1.0", now=NOW + timedelta(seconds=1))
    message = announced(engine)
    assert message is not None
    assert (message.rollout, message.revision, message.version) == (second.id, 2, "2.1.0")
    assert second.id > first.id
    old = RolloutReader(engine).rollout(first.id)
    assert (old.state, old.revision) == (RolloutState.SUPERSEDED, 1)
    assert verdicts(engine, first) == {"pi-1": Verdict.SUCCEEDED, "pi-2": Verdict.ENDED}
    take_in(engine, reported_in("pi-9"))
    assert says(engine, first, "pi-2", Phase.CANCELLED, 1) is RolloutState.SUPERSEDED
    assert verdicts(engine, first) == {"pi-1": Verdict.SUCCEEDED, "pi-2": Verdict.CANCELLED}
    assert [one.id for one in RolloutReader(engine).rollouts()] == [second.id, first.id]
    assert [one.id for one in RolloutReader(engine).rollouts(before=second.id)] == [first.id]
    assert [one.id for one in RolloutReader(engine).rollouts(state=RolloutState.ACTIVE)] == [second.id]
    assert RolloutStore(engine).announced_on("stable") == [second.id]


def test_other_packages_and_channels_have_topics_of_their_own(engine: Engine) -> None:
    create(engine)
    create(engine, channel="beta")
    create(engine, package="radio")
    assert len(RolloutStore(engine).announced()) == 3
    assert {topic.revision for topic in AnnouncementStore(engine).topics(changed_only=True)} == {1}


def test_halting_holds_who_has_not_started_and_going_on_lets_them(engine: Engine) -> None:
    take_in(engine, reported_in("pi-1"), reported_in("pi-2"))
    rollout = create(engine)
    says(engine, rollout, "pi-1", Phase.FETCHING, 1)
    store = RolloutStore(engine)
    assert store.set_state(rollout.id, RolloutState.HALTED, NOW).state is RolloutState.HALTED
    assert verdicts(engine, rollout) == {"pi-1": Verdict.UPDATING, "pi-2": Verdict.HELD}
    message = announced(engine)
    assert message is not None
    assert (message.state, message.revision) == (ReleaseState.HALTED, 2)
    assert says(engine, rollout, "pi-1", Phase.CANCELLED, 2) is RolloutState.HALTED
    assert store.set_state(rollout.id, RolloutState.HALTED, NOW).revision == 2
    assert store.set_state(rollout.id, RolloutState.ACTIVE, NOW).revision == 3
    assert verdicts(engine, rollout)["pi-2"] is Verdict.PENDING


def test_a_complete_rollout_can_be_reverted_and_that_is_for_good(engine: Engine) -> None:
    take_in(engine, reported_in("pi-1"))
    rollout = create(engine)
    says(engine, rollout, "pi-1", Phase.SUCCEEDED, 1)
    store = RolloutStore(engine)
    complete = RolloutReader(engine).rollout(rollout.id)
    assert store.set_state(rollout.id, RolloutState.ACTIVE, NOW + timedelta(hours=1), by="user:anna") == complete
    assert (complete.state, complete.changed_at, complete.changed_by) == (RolloutState.COMPLETE, NOW, None)
    store.set_state(rollout.id, RolloutState.REVERTED, NOW)
    assert says(engine, rollout, "pi-1", Phase.ROLLED_BACK, 2) is RolloutState.REVERTED
    for state in (RolloutState.ACTIVE, RolloutState.PAUSED, RolloutState.COMPLETE, RolloutState.SUPERSEDED):
        with pytest.raises(OperatorError, match="is reverted and can't become") as caught:
            store.set_state(rollout.id, state, NOW)
        assert caught.value.code == "rollout.state"
        assert str(caught.value).endswith(f"become {state}: it is over; release the package anew")


def test_what_cannot_be_asked_of_a_rollout_names_what_can(engine: Engine) -> None:
    take_in(engine, reported_in("pi-1"))
    rollout, store = create(engine), RolloutStore(engine)
    store.set_state(rollout.id, RolloutState.HALTED, NOW)
    with pytest.raises(OperatorError, match=r"is halted and can't become paused; it can become active or reverted$"):
        store.set_state(rollout.id, RolloutState.PAUSED, NOW)


def test_a_package_that_leaves_a_channel_leaves_a_tombstone_and_may_come_back(engine: Engine) -> None:
    rollout = create(engine)
    store = RolloutStore(engine)
    assert store.withdraw("stable", "tacho", NOW).state is RolloutState.WITHDRAWN
    assert announced(engine) is None
    with pytest.raises(OperatorError) as caught:
        store.withdraw("stable", "tacho", NOW)
    assert caught.value.code == "rollout.unknown"
    with pytest.raises(OperatorError):
        store.set_state(rollout.id, RolloutState.PAUSED, NOW)
    assert create(engine).revision == 3


def test_only_what_changed_is_to_be_published(engine: Engine) -> None:
    create(engine)
    store = AnnouncementStore(engine)
    (first,) = store.topics(changed_only=True)
    create(engine, "2.0.1")
    store.mark_published([first])
    (second,) = store.topics(changed_only=True)
    assert (first.revision, second.revision) == (1, 2)
    store.mark_published([second])
    assert store.topics(changed_only=True) == []
    assert len(store.topics(changed_only=False)) == 1


@pytest.mark.parametrize(
    ("changes", "error", "code", "words"),
    [
        ({"version": "2"}, PublisherError, "version.bad", "2"),
        ({"channel": "Stable"}, OperatorError, "input.bad", "channel"),
        ({"package": "../tacho"}, OperatorError, "input.bad", "package"),
        ({"targets": Targets(upto=10_001)}, OperatorError, "input.bad", "upto"),
        ({"policy": RolloutPolicy(retries=-1)}, OperatorError, "input.bad", "retries"),
        ({"targets": Targets(where={"a": "x" * 257})}, OperatorError, "input.bad", "where"),
        (
            {"targets": Targets(where={f"k{n}": ["v" * 256] * 200 for n in range(9)})},
            OperatorError,
            "input.bad",
            "large",
        ),
    ],
)
def test_what_breaks_the_contract_is_refused_and_changes_nothing(
    engine: Engine, changes: dict[str, Any], error: type[Exception], code: str, words: str
) -> None:
    kept = create(engine)
    with pytest.raises(error, match=words) as caught:
        create(engine, **changes)
    assert getattr(caught.value, "code", None) == code
    assert "\n" not in str(caught.value)
    assert [one.state for one in RolloutReader(engine).rollouts()] == [RolloutState.ACTIVE]
    message = announced(engine)
    assert message is not None
    assert message.rollout == kept.id


def test_what_is_announced_once_can_be_announced_in_every_later_state(engine: Engine) -> None:
    """Even the largest announcement that is taken has room for the longer words that may follow."""
    rollout = _largest(engine)
    assert says(engine, rollout, "pi-1", Phase.SUCCEEDED, 1) is RolloutState.COMPLETE
    later = NOW + timedelta(microseconds=123_456)
    assert RolloutStore(engine).set_state(rollout.id, RolloutState.REVERTED, later).state is RolloutState.REVERTED


def _largest(engine: Engine) -> Rollout:
    """A rollout with targets so large that those of one more letter are refused."""
    full: dict[str, str | list[str]] = {name: ["v" * 256] * 256 for name in "abc"}
    full["d"] = ["v" * 256] * 238
    rollout = None
    taken, refused = 0, 16 * 256
    while refused - taken > 1:
        letters = (taken + refused) // 2
        filling: dict[str, str | list[str]] = {
            f"e{n}": "w" * min(256, letters - n * 256) for n in range(letters // 256 + 1)
        }
        try:
            rollout = create(engine, targets=Targets(where=full | filling))
            taken = letters
        except OperatorError as error:
            assert "large" in str(error)
            refused = letters
    assert rollout is not None
    return rollout


def test_an_unknown_rollout_is_said_so(engine: Engine) -> None:
    assert RolloutStore(engine).evaluate("nope") is None
    for ask in (RolloutReader(engine).rollout, lambda name: RolloutStore(engine).set_state(name, RolloutState.PAUSED)):
        with pytest.raises(OperatorError) as caught:
            ask("nope")
        assert caught.value.code == "rollout.unknown"


def test_where_asks_for_facts_and_tags_of_the_report(engine: Engine) -> None:
    take_in(
        engine,
        reported_in("pi-1", facts={"model": "pi4"}),
        reported_in("pi-2", facts={"model": "pi5"}),
        reported_in("pi-3", facts={"model": "pi5"}, tags={"model": "pi4"}),
    )
    rollout = create(engine, targets=Targets(where={"model": "pi4"}))
    assert verdicts(engine, rollout) == {"pi-1": Verdict.PENDING, "pi-3": Verdict.PENDING}


ELSEWHERE = ["https://updates.example.com/repo", "https://mirror.example.com/repo"]


def test_rollouts_follow_a_repository_that_moves(engine: Engine) -> None:
    take_in(engine, reported_in("pi-1"))
    rollout = create(engine)
    RolloutStore(engine).set_state(rollout.id, RolloutState.PAUSED, NOW)
    store = AnnouncementStore(engine)
    for topic in store.topics(changed_only=True):
        store.mark_published([topic])
    assert RolloutStore(engine).move_repository(ELSEWHERE, NOW + timedelta(hours=1)) == 1
    assert len(store.topics(changed_only=True)) == 1
    message = announced(engine)
    assert message is not None
    assert (message.rollout, message.revision, message.state) == (rollout.id, 3, ReleaseState.PAUSED)
    assert (message.repository, message.published_at) == (ELSEWHERE, NOW + timedelta(hours=1))
    view = RolloutReader(engine).rollout(rollout.id)
    assert (view.repository, view.revision, view.state) == (ELSEWHERE, 3, RolloutState.PAUSED)
    assert RolloutStore(engine).move_repository(ELSEWHERE, NOW) == 0
    assert announced(engine) == message
    # what is announced after that names the new place too
    RolloutStore(engine).set_state(rollout.id, RolloutState.ACTIVE, NOW)
    message = announced(engine)
    assert message is not None
    assert (message.repository, message.revision) == (ELSEWHERE, 4)


def test_what_is_not_announced_does_not_move(engine: Engine) -> None:
    old = create(engine, "1.0.0")
    create(engine, "2.0.0", repository=ELSEWHERE)
    gone = create(engine, channel="beta")
    RolloutStore(engine).withdraw("beta", "tacho", NOW)
    assert RolloutStore(engine).move_repository(ELSEWHERE, NOW) == 0
    for one in (old, gone):
        assert RolloutReader(engine).rollout(one.id).repository == one.repository
    assert {topic.channel for topic in AnnouncementStore(engine).topics(changed_only=False) if topic.payload} == {
        "stable"
    }


def test_either_all_rollouts_move_or_none(engine: Engine) -> None:
    models = [f"{number:064d}" for number in range(256)]
    take_in(engine, reported_in(f"{0:063d}", tags={"tag.model": models[0], "tag.kind": models[0]}))
    small = create(engine, package="other")
    targets = Targets(
        upto=0, devices=[f"{number:063d}" for number in range(3000)], where={"tag.model": models, "tag.kind": models}
    )
    large = create(engine, targets=targets, now=NOW + timedelta(seconds=1))
    before = AnnouncementStore(engine).topics(changed_only=False)
    with pytest.raises(OperatorError, match=large.id) as refused:
        RolloutStore(engine).move_repository(["https://x.example/" + "x" * 2000] * 16, NOW)
    assert refused.value.code == "input.bad"
    assert AnnouncementStore(engine).topics(changed_only=False) == before
    assert RolloutReader(engine).rollout(small.id).repository == small.repository
