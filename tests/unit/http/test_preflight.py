"""What a release would do, on a real repository and database, with devices that have reported."""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from sqlalchemy import Engine, func, select

from controller.cli.common import time_text
from controller.cli.preflight import summary_lines
from controller.database import metadata, reading
from controller.fleet.intake_store import IntakeStore
from controller.fleet.orders import OrderStore
from controller.preflight.gathering import Preflights
from controller.preflight.openings import Openings, own_zone
from controller.preflight.pace import Pace, estimate
from controller.preflight.views import ForeseenDevice, Preflight
from controller.preflight.waves import waves_s
from controller.repository.package_repository import PackageRepository
from controller.repository.records import ReleaseRecord
from controller.rollouts.plan import RolloutState, Verdict
from controller.rollouts.plan_files import ready_plan
from controller.rollouts.reader import RolloutReader
from controller.rollouts.store import RolloutStore
from controller.rollouts.waves import ALL_AT_ONCE, RolloutPlan, Wave
from controller.web.rendering import make_environment
from controller.web.statics import Statics
from device_agent.simulator.course import facts_of, manifest_of
from schemas.errors import OperatorError, PublisherError
from schemas.manifest import Requires
from schemas.messages import BUCKETS, ErrorReport, Phase, RolloutPolicy, Targets, Window
from schemas.requirements import SLACK_BYTES
from schemas.routes import REQUEST_BYTES, Kind
from schemas.targeting import bucket
from tests.support.bundles import index_of, make_bundles, pages
from tests.support.database import opened
from tests.support.in_process import FILE_TOKEN, application, bearer
from tests.support.repository import add_release
from tests.unit.fleet.builders import NOW, an_id, event_in, installed, presence_in, reported_in, succeeded_in

BIG, SMALL = "x" * 50_000, "small\n"


class Bench:
    """A repository with tacho 1.0.0 and 1.1.0, a fleet's tables, and what is said about them."""

    def __init__(self, folder: Path) -> None:
        self.engine: Engine = opened(folder / "flotilla.db")
        self.repository = PackageRepository(folder / "repository", self.engine)
        self.intake = IntakeStore(self.engine)
        self.orders = OrderStore(self.engine)
        self.rollouts = RolloutStore(self.engine)
        self.old = self.add("1.0.0", {"same": BIG, "dial": "1"})
        self.new = self.add("1.1.0", {"same": BIG, "dial": SMALL})

    def add(self, version: str, files: Mapping[str, str | bytes], name: str = "tacho", **more: Any) -> ReleaseRecord:
        return add_release(self.repository, name, version, files, **more)

    def device(self, device: str, *, online: bool = True, runs: ReleaseRecord | None = None, **facts: Any) -> None:
        """A device that is on channel `stable` and reports what it runs."""
        told = {"platform": "linux-aarch64", "agent_version": "1.0.0", "model": "pi4", **facts}
        packages = {runs.package: installed(runs.version, manifest=runs.manifest)} if runs else {}
        tags = {"site": "bern"} if device.endswith("1") else {}
        said = [reported_in(device, facts=told, packages=packages, tags=tags), presence_in(device, online=online)]
        self.intake.take_in(said, NOW)

    def look(self, version: str = "1.1.0", targets: Targets | None = None, **more: Any) -> Preflight:
        wish = {"package": "tacho", "version": version, "channel": "stable", "policy": RolloutPolicy(), **more}
        return Preflights(self.engine, self.repository).look(targets=targets or Targets(), now=NOW, **wish)

    def row_counts(self) -> dict[str, int]:
        with reading(self.engine) as connection:
            count = {t.name: connection.scalar(select(func.count()).select_from(t)) for t in metadata.sorted_tables}
        return {name: number or 0 for name, number in count.items()}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def only(seen: Preflight) -> ForeseenDevice:
    (one,) = seen.devices
    return one


def codes(seen: Preflight) -> dict[str, list[str]]:
    return {one.device: [obstacle.code for obstacle in one.obstacles] for one in seen.devices}


def test_bytes_are_those_of_what_the_device_lacks(bench: Bench) -> None:
    bench.device("pi-1", runs=bench.old)
    bench.device("pi-2")
    seen = bench.look()
    updated, fresh = seen.devices
    _, manifest = bench.repository.manifest_sizes(bench.new)
    assert (updated.route, updated.bytes) == (Kind.OBJECTS, len(SMALL) + REQUEST_BYTES + manifest)
    assert fresh.bytes > len(BIG)
    assert (updated.installed, fresh.installed) == ("1.0.0", None)
    assert (seen.meant, seen.ready, seen.bytes) == (2, 2, updated.bytes + fresh.bytes)
    assert seen.routes == {Kind.OBJECTS: 2}


def test_it_says_by_which_way_each_device_would_fetch_it(bench: Bench) -> None:
    """A bundle where one leads from what it runs, else the one with everything where that is less than its objects."""
    stranger = bench.add("1.2.0", {"same": BIG})
    old = bench.add("1.3.0", pages(1))
    new = bench.add("1.4.0", pages(2))
    make_bundles(bench.repository, new, last=1)
    bench.device("pi-1", runs=old)
    bench.device("pi-2")
    bench.device("pi-3", runs=stranger)
    seen = bench.look("1.4.0")
    assert [one.route for one in seen.devices] == [Kind.BUNDLE, Kind.FULL, Kind.FULL]
    (step,) = [entry for entry in index_of(bench.repository, new).bundles if entry.source == old.manifest]
    assert step.manifest is not None
    updated = seen.devices[0]
    assert updated.bytes == step.size + REQUEST_BYTES + step.manifest.size
    assert seen.routes == {Kind.BUNDLE: 1, Kind.FULL: 2}


def test_whoever_cannot_or_need_not_take_it_is_named_with_the_reason(bench: Bench) -> None:
    bench.device("fits")
    bench.device("away", online=False)
    bench.device("there", runs=bench.new)
    bench.device("full", disk_free=SLACK_BYTES)
    bench.device("pinned", runs=bench.old)
    bench.device("held", runs=bench.old)
    bench.orders.set_desired("pinned", pins={"tacho": "1.0.0"})
    bench.orders.set_desired("held", hold=True)
    seen = bench.look()
    assert codes(seen) == {
        "away": ["offline"],
        "fits": [],
        "full": ["disk.full"],
        "held": ["held"],
        "pinned": ["pinned"],
        "there": ["installed"],
    }
    assert (seen.meant, seen.ready) == (6, 1)
    assert seen.obstacles == {"offline": 1, "disk.full": 1, "held": 1, "pinned": 1, "installed": 1}
    assert "pinned to 1.0.0" in [obstacle.message for one in seen.devices for obstacle in one.obstacles]


def test_who_would_refuse_what_has_failed_there_before_is_named(bench: Bench) -> None:
    codes_of = {"pi-1": "health.http", "pi-2": "fetch.timeout", "pi-3": "health.http", "pi-4": "health.http"}
    for name in codes_of:
        bench.device(name, runs=bench.old, simulated=name == "pi-4")
    first, again = (
        RolloutStore(bench.engine).create(
            package="tacho", version="1.1.0", channel="stable", repository=[], now=NOW + timedelta(seconds=number)
        )
        for number in range(2)
    )
    for name, code in codes_of.items():
        said = {"version": "1.1.0", "rollout": first.id, "error": ErrorReport(code=code, message="no")}
        bench.intake.take_in([event_in(name, 1, Phase.ROLLED_BACK, **said)], NOW)
    bench.intake.take_in([event_in("pi-3", 2, Phase.SUCCEEDED, version="1.1.0", rollout=again.id)], NOW)
    # not of itself but of its network; it went well since; a simulated one forgets
    assert codes(bench.look("1.1.0")) == {"pi-1": ["conflict.failed_before"], "pi-2": [], "pi-3": [], "pi-4": []}
    bench.intake.take_in([event_in("pi-3", 3, Phase.ROLLED_BACK, version="1.1.0", rollout=again.id)], NOW)
    assert codes(bench.look("1.1.0"))["pi-3"] == []  # somebody wanted it back
    (refusal,) = bench.look("1.1.0").devices[0].obstacles
    assert refusal.message.startswith("it failed there before (health.http); after `flotilla ask pi-1 retry")
    assert codes(bench.look("1.0.0"))["pi-1"] == ["installed"]
    said = {"version": "1.1.0", "rollout": again.id, "error": ErrorReport(code="health.http", message="no")}
    bench.intake.take_in([event_in("pi-1", 2, Phase.ROLLED_BACK, **said)], NOW)
    RolloutStore(bench.engine).retry(again.id, "pi-1", NOW + timedelta(seconds=5))
    assert codes(bench.look("1.1.0"))["pi-1"] == []


def test_a_simulated_device_runs_the_version_that_it_says_though_it_never_saw_the_real_manifest(bench: Bench) -> None:
    facts = facts_of("sim-1", 1, agent_version="1.0.0", boot_id=an_id(1))
    for device, more in (("sim-1", facts), ("pi-1", {})):
        runs = {"tacho": installed("1.1.0", manifest=manifest_of("tacho", "1.1.0"))}
        told = {"platform": "linux-aarch64", "agent_version": "1.0.0", **more}
        bench.intake.take_in([reported_in(device, facts=told, packages=runs), presence_in(device)], NOW)
    # what else says 1.1.0 may be another one, from before it was deleted and pushed anew
    assert codes(bench.look("1.1.0")) == {"pi-1": [], "sim-1": ["installed"]}
    bench.add("1.2.0", {"dial": "2"})
    assert codes(bench.look("1.2.0")) == {"pi-1": [], "sim-1": []}


REFUSED = "something newer than tacho 1.0.0 and {} (requires.downgrade) without --allow-downgrade"


def test_devices_that_run_something_newer_are_counted_in_one_line_unless_they_may_go_back(bench: Bench) -> None:
    for name, runs in (("pi-1", bench.new), ("pi-2", bench.new), ("pi-3", bench.old), ("pi-4", None)):
        bench.device(name, runs=runs)
    assert bench.look("1.0.0").warnings == ["2 devices run " + REFUSED.format("refuse it")]
    for meant in (Targets(where={"site": "bern"}), Targets(exclude=["pi-2"]), Targets(upto=0, devices=["pi-1"])):
        assert bench.look("1.0.0", meant).warnings == ["1 device runs " + REFUSED.format("refuses it")]
    assert bench.look("1.0.0", policy=RolloutPolicy(allow_downgrade=True)).warnings == []
    assert bench.look("1.1.0").warnings == []


def test_what_a_device_says_that_is_no_version_is_newer_than_none(bench: Bench) -> None:
    bench.intake.take_in([reported_in("pi-1", packages={"tacho": installed("no version")})], NOW)
    assert bench.look("1.0.0").warnings == []


@pytest.mark.parametrize(
    ("requires", "code"),
    [
        (Requires(agent=">=2"), "requires.agent"),
        (Requires(packages={"engine": "^1"}), "requires.packages"),
        (Requires(upgrade_from=">=1.0.5"), "requires.upgrade_from"),
        (Requires(hardware=["Raspberry Pi 5*"]), "requires.hardware"),
    ],
)
def test_requirements_are_those_that_the_device_would_refuse_by(bench: Bench, requires: Requires, code: str) -> None:
    bench.add("2.0.0", {"a": "a"}, requires=requires)
    bench.device("pi-1", runs=bench.old)
    seen = only(bench.look("2.0.0"))
    assert [obstacle.code for obstacle in seen.obstacles] == [code]
    assert (seen.route, seen.bytes) == (None, 0)


def test_the_platform_and_a_downgrade_are_refused_too(bench: Bench) -> None:
    bench.add("3.0.0", {"a": "a"}, platform="linux-x86_64")
    bench.device("pi-1", runs=bench.new)
    assert codes(bench.look("3.0.0")) == {"pi-1": ["requires.platform"]}
    seen = bench.look("1.0.0")
    assert codes(seen) == {"pi-1": ["requires.downgrade"]}
    assert "release it with --allow-downgrade if that is meant" in only(seen).obstacles[0].message
    assert codes(bench.look("1.0.0", policy=RolloutPolicy(allow_downgrade=True))) == {"pi-1": []}


def test_only_those_that_are_meant_are_looked_at(bench: Bench) -> None:
    for device in ("pi-1", "pi-2", "pi-3"):
        bench.device(device)
    assert list(codes(bench.look(targets=Targets(exclude=["pi-2"])))) == ["pi-1", "pi-3"]
    assert list(codes(bench.look(targets=Targets(upto=0, devices=["pi-3"])))) == ["pi-3"]
    assert list(codes(bench.look(targets=Targets(where={"site": "bern"})))) == ["pi-1"]


@pytest.mark.parametrize(
    ("wish", "code", "words"),
    [
        (
            {"targets": Targets(upto=0, devices=["pi-8", "pi-9"])},
            "device.unknown",
            "for nobody: pi-8, pi-9 were never heard of",
        ),
        (
            {"plan": RolloutPlan(waves=[Wave(upto=50), Wave(devices=["pi-9"])])},
            "device.unknown",
            "wave 2 (1 device) would wait for ever: pi-9 was never heard of",
        ),
        (
            {
                "plan": RolloutPlan(waves=[Wave(devices=["pi-1"]), Wave(upto=100)]),
                "targets": Targets(exclude=["pi-1", "pi-2"]),
            },
            "input.bad",
            "wave 1 (1 device) would wait for ever: the release leaves out pi-1; name others in the first wave",
        ),
    ],
)
def test_a_release_that_could_never_begin_is_refused_as_in_its_dry_run(
    bench: Bench, wish: dict[str, Any], code: str, words: str
) -> None:
    for device in ("pi-1", "pi-2", "pi-3"):
        bench.device(device)
    release: dict[str, Any] = {"package": "tacho", "channel": "stable", "repository": [], "now": NOW}
    before = bench.rollouts.create(version="1.0.0", **release)
    asked: list[Callable[[], object]] = [
        lambda: bench.look(**wish),
        lambda: bench.rollouts.create(version="1.1.0", **release, **wish),
    ]
    for ask in asked:
        with pytest.raises(OperatorError) as caught:
            ask()
        assert (caught.value.code, words in str(caught.value)) == (code, True), str(caught.value)
    assert bench.rollouts.announced() == [before.id]


def test_of_several_named_devices_those_never_heard_of_are_told_from_those_elsewhere(bench: Bench) -> None:
    bench.device("pi-1")
    bench.intake.take_in([reported_in("pi-7", channel="beta")], NOW)
    named = Targets(upto=0, devices=["pi-1", "pi-7", "pi-9"])
    assert bench.look(targets=named).warnings == [
        "pi-9 was never heard of",
        "named, but not on channel stable or left out by a condition: pi-7",
    ]
    wave = RolloutPlan(waves=[Wave(devices=["pi-1", "pi-9"])])
    assert bench.look(plan=wave).warnings == ["pi-9 was never heard of"]


def test_a_release_that_would_mean_nobody_is_warned_of(bench: Bench) -> None:
    assert bench.look(channel="stabel").warnings == ["no device that was heard of follows channel stabel"]
    for device in ("pi-1", "pi-2"):
        bench.device(device)
    bench.intake.take_in([reported_in("pi-7", channel="beta", tags={"site": "elsewhere"})], NOW)
    assert bench.look(channel="stabel").warnings == [
        "no device that was heard of follows channel stabel; devices follow stable, beta"
    ]
    assert bench.look(targets=Targets(where={"site": "elsewhere"})).warnings == [
        "no device that was heard of on channel stable is meant"
    ]
    assert bench.look().warnings == []
    assert bench.look(targets=Targets(exclude=["pi-22"])).warnings == ["pi-22 was never heard of"]


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ({"site": "berm"}, "no device has site=berm; there is site=bern"),
        ({"site": ["berm", "basl"]}, "no device has site=berm or basl; there is site=bern"),
        ({"site": "bern", "sitee": "bern"}, "no device has sitee=bern; nor any other value of it"),
    ],
)
def test_a_release_for_what_no_device_has_is_refused(bench: Bench, where: dict[str, Any], why: str) -> None:
    """It would take from all what they are offered; a channel nobody is on yet is another matter."""
    assert bench.look(targets=Targets(where=where)).meant == 0, "no device has reported: nothing is known to be wrong"
    bench.device("pi-1")
    with pytest.raises(OperatorError) as refused:
        bench.look(targets=Targets(where=where))
    assert (refused.value.code, refused.value.message) == ("device.unknown", f"it would be for nobody: {why}")


def test_a_release_for_a_tag_that_a_device_was_just_told_is_not_refused(bench: Bench) -> None:
    bench.device("pi-1")
    OrderStore(bench.engine).set_desired("pi-1", tags={"ring": "canary"}, now=NOW)
    assert bench.look(targets=Targets(where={"ring": "canary"})).meant == 0


def test_a_wave_with_a_condition_that_no_device_meets_is_warned_of(bench: Bench) -> None:
    bench.device("pi-1")
    bench.device("pi-2")
    plan = RolloutPlan(waves=[Wave(where={"site": "bernn"}), Wave(where={"site": "basel"}), Wave(upto=100)])
    assert bench.look(plan=plan).warnings == [
        "no device that is meant has site=bernn: wave 1 waits until one has",
        (
            "no device is left for wave 2: none that is meant has site=basel, or the waves before it have them all; "
            "it is passed over as long as that is so"
        ),
    ]
    assert bench.look(plan=RolloutPlan(waves=[Wave(where={"site": "bern"}), Wave(upto=100)])).warnings == []


ENDS_AT = ": the plan night ends at upto ="
ALL_DO = "; with a last wave of upto = 100 all do"


@pytest.mark.parametrize(
    ("waves", "warnings"),
    [
        ([Wave(upto=10), Wave(upto=62.5)], [f"37.5 % of the devices never get it{ENDS_AT} 62.5{ALL_DO}"]),
        (
            [Wave(upto=30), Wave(devices=["pi-1"])],
            [f"70 % of the devices never get it, but those that a wave names{ENDS_AT} 30{ALL_DO}"],
        ),
        ([Wave(upto=10), Wave(upto=100)], []),
        ([Wave(upto=100), Wave(devices=["pi-1"])], []),
        ([Wave(devices=["pi-1"])], []),
    ],
)
def test_a_plan_that_ends_before_everybody_has_it_says_so_released_and_in_its_dry_run(
    tmp_path: Path, waves: list[Wave], warnings: list[str]
) -> None:
    with application(tmp_path) as app:
        add_release(app.repository, "tacho", "1.0.0", {"a": "a"})
        IntakeStore(app.engine).take_in([reported_in(f"pi-{number}") for number in range(4)], NOW)
        plan = msgspec.to_builtins(RolloutPlan(name="night", waves=waves))
        wish = {"package": "tacho", "version": "1.0.0", "channel": "stable", "plan": plan}
        for path in ("/preflight", ""):
            answer = app.client.post(f"/api/v1/releases{path}", json=wish, headers=bearer(FILE_TOKEN))
            assert answer.is_success, answer.text
            assert answer.json()["warnings"] == warnings


def test_devices_come_in_pages_and_are_counted_all(bench: Bench) -> None:
    for number in range(5):
        bench.device(f"pi-{number}")
    first = bench.look(limit=2)
    assert ([one.device for one in first.devices], first.next, first.meant) == (["pi-0", "pi-1"], "pi-1", 5)
    rest = bench.look(limit=3, after="pi-1")
    assert ([one.device for one in rest.devices], rest.next, rest.ready) == (["pi-2", "pi-3", "pi-4"], None, 5)


def test_the_end_is_estimated_by_what_the_last_rollouts_took(bench: Bench) -> None:
    bench.device("pi-1")
    assert bench.look().estimate.ends_at is None
    assert "no history" in bench.look().estimate.basis
    rollout = bench.rollouts.create(package="tacho", version="1.0.0", channel="stable", repository=[], now=NOW)
    for seq, (phase, at_s) in enumerate([(Phase.ACCEPTED, 0), (Phase.FETCHING, 5), (Phase.SUCCEEDED, 40)], 1):
        said = event_in("pi-1", seq, phase, rollout=rollout.id, update=an_id(7), version="1.0.0")
        bench.intake.take_in([said], NOW + timedelta(seconds=at_s))
    ends = bench.look(policy=RolloutPolicy(jitter_s=20)).estimate
    assert (ends.seconds, ends.ends_at) == (60, NOW + timedelta(seconds=60))
    assert "1 device took at most 40 s in the last rollout of tacho on channel stable" in ends.basis
    assert "jitter take up to 20 s more" in ends.basis


LATE = Window(start="22:00", end="22:30")
BERLIN = ZoneInfo("Europe/Berlin")
TOOK_S = 40


def with_history(bench: Bench) -> None:
    """Have one device whose update took `TOOK_S`."""
    bench.device("pi-1")
    rollout = bench.rollouts.create(package="tacho", version="1.0.0", channel="stable", repository=[], now=NOW)
    for seq, (phase, at_s) in enumerate([(Phase.ACCEPTED, 0), (Phase.SUCCEEDED, TOOK_S)], 1):
        said = event_in("pi-1", seq, phase, rollout=rollout.id, update=an_id(7), version="1.0.0")
        bench.intake.take_in([said], NOW + timedelta(seconds=at_s))


def test_a_window_is_said_and_the_end_is_counted_from_when_it_opens(bench: Bench) -> None:
    with_history(bench)
    seen = bench.look(plan=RolloutPlan(waves=[Wave(upto=100)], window=LATE, jitter="20s"), zone=BERLIN)
    opens = datetime(2026, 3, 1, 21, tzinfo=UTC)
    assert (seen.starts_at, seen.estimate.ends_at) == (opens, opens + timedelta(seconds=TOOK_S))
    assert "counted from when they may start" in seen.estimate.basis
    assert "more" not in seen.estimate.basis  # the jitter is over before it opens
    lines = list(summary_lines(seen))
    when = time_text(opens)
    assert lines[0].endswith(f"1 of 1 device would take it from {when} on")
    assert (
        f"start      {when}: the window opens, 22:00 to 22:30 in each device's own time zone, counted here in the"
        " controller's" in lines
    )
    # what the release itself says goes before its plan
    policy = RolloutPolicy(window=Window(start="23:00", end="01:00", days=[0]))
    monday = bench.look(plan=RolloutPlan(waves=[Wave(upto=100)], window=LATE), policy=policy, zone=UTC)
    assert monday.starts_at == datetime(2026, 3, 2, 23, tzinfo=UTC)
    assert "23:00 to 01:00 on Mon in each" in monday.starts_when


def on_page(seen: Preflight) -> str:
    """The words of what the page shows of it."""
    drawn = make_environment(Statics()).get_template("ask_preflight.html").render(preflight=seen)
    return " ".join(re.sub(r"<[^>]*>", " ", drawn).split())


def test_the_page_says_when_a_window_opens(bench: Bench) -> None:
    with_history(bench)
    shown = on_page(bench.look(policy=RolloutPolicy(window=LATE), zone=UTC))
    assert "1 of 1 device would take it from 2026-03-01 22:00:00 UTC on" in shown
    assert "Start 2026-03-01 22:00:00 UTC: the window opens, 22:00 to 22:30 in" in shown
    assert "End about 2026-03-01 22:00:40 UTC: 1 device took" in shown
    assert "1 device would take it now" in on_page(bench.look())


def test_a_window_that_is_open_is_said_too_and_one_after_not_before_is_waited_for(bench: Bench) -> None:
    with_history(bench)
    noon = Window(start="12:00", end="13:00")
    seen = bench.look(policy=RolloutPolicy(window=noon), zone=UTC)
    assert (seen.starts_at, seen.estimate.seconds) == (None, TOOK_S)
    assert next(summary_lines(seen)).endswith("would take it now")
    assert "start      the window is open, 12:00 to 13:00 in each" in "\n".join(summary_lines(seen))
    evening = NOW + timedelta(hours=7)
    seen = bench.look(policy=RolloutPolicy(window=noon, not_before=evening), zone=UTC)
    assert seen.starts_at == NOW + timedelta(days=1)
    assert seen.estimate.ends_at == NOW + timedelta(days=1, seconds=TOOK_S)
    seen = bench.look(policy=RolloutPolicy(not_before=evening, jitter_s=20))
    assert (seen.starts_at, seen.estimate.ends_at) == (evening, evening + timedelta(seconds=TOOK_S + 20))
    assert "take up to 20 s more, counted from when they may start" in seen.estimate.basis
    assert f"start      {time_text(evening)}: nobody starts before that" in list(summary_lines(seen))
    seen = bench.look()
    assert (seen.starts_at, seen.starts_when) == (None, "")


def test_waves_that_do_not_fit_into_one_window_wait_for_the_next(bench: Bench) -> None:
    with_history(bench)
    bench.device("pi-2")
    waves = [Wave(devices=["pi-1"], soak="1h"), Wave(upto=100)]
    seen = bench.look(plan=RolloutPlan(waves=waves, window=LATE), zone=UTC)
    opens = NOW + timedelta(hours=10)
    assert seen.starts_at == opens
    assert seen.estimate.ends_at == opens + timedelta(days=1, seconds=TOOK_S)
    assert "it does not fit into one window, so it may be later" in seen.estimate.basis
    # a device that takes longer than what is left of it fits no better
    seen = bench.look(policy=RolloutPolicy(window=Window(start="11:00", end="12:00")), zone=UTC)
    assert "does not fit" not in seen.estimate.basis
    seen = bench.look(policy=RolloutPolicy(window=Window(start="11:00", end="12:01"), jitter_s=30), zone=UTC)
    assert "does not fit" in seen.estimate.basis
    # one that never closes is none
    always = RolloutPlan(
        waves=[Wave(devices=["pi-1"], soak="2d"), Wave(upto=100)], window=Window(start="22:00", end="22:00")
    )
    assert "does not fit" not in bench.look(plan=always, zone=UTC).estimate.basis


def test_what_begins_at_the_end_of_the_calendar_is_no_error(bench: Bench) -> None:
    with_history(bench)
    seen = bench.look(policy=RolloutPolicy(window=LATE, not_before=datetime(9999, 12, 31, 23, tzinfo=UTC)), zone=UTC)
    assert seen.starts_at == datetime(9000, 1, 1, 22, tzinfo=UTC)


def test_the_controllers_zone_is_the_machines(tmp_path: Path) -> None:
    assert own_zone("Europe/Berlin") == own_zone(":Europe/Berlin") == BERLIN
    assert own_zone("Nowhere/Atall") is UTC
    assert own_zone("", tmp_path / "none") is UTC


def test_waves_are_those_of_the_plan_and_count_for_the_end(bench: Bench) -> None:
    for number in range(20):
        bench.device(f"pi-{number:02}")
    assert (bench.look().plan, bench.look(targets=Targets(exclude=["pi-00"])).plan) == ("canary", "all-at-once")
    waves = [
        Wave(devices=["pi-03"], soak="1m"),
        Wave(where={"site": "bern"}),
        Wave(upto=50, concurrency=4),
        Wave(upto=100),
    ]
    seen = bench.look(plan=RolloutPlan(waves=waves))
    assert [wave.devices for wave in seen.waves] == [1, 2, 7, 10]
    sure = {one.device: one.wave for one in seen.devices if one.wave is not None}
    assert sure == {"pi-03": 1, "pi-01": 2, "pi-11": 2}
    assert {one.wave for one in bench.look(plan=ALL_AT_ONCE).devices} == {1}
    # a minute of soak, and of devices that take 10 s: two waves of one turn, one of two turns, one of one turn
    assert waves_s(RolloutPlan(waves=waves), seen.waves, 10, 0) == 60 + 10 + 10 + 20 + 10


@pytest.mark.parametrize(
    ("plan", "starting", "later", "words"),
    [
        (
            RolloutPlan(waves=[Wave(upto=50)]),
            9,
            0,
            "18 of 20 devices could take it: 9 of them now (up to 50 %), 9 not at",
        ),
        (ready_plan("canary"), 1, 17, "18 of 20 devices could take it: 1 of them now (1 device), 17 later"),
        (ALL_AT_ONCE, 18, 0, "18 of 20 devices would take it now"),
        (RolloutPlan(waves=[Wave(upto=100, concurrency=4)]), 4, 14, "4 of them now (everybody), 14 later"),
        (RolloutPlan(waves=[Wave(upto=100, approval=True)]), 0, 18, "0 of them now (everybody), 18 later"),
        (RolloutPlan(waves=[Wave(devices=["pi-02", "pi-19"])]), 1, 1, "1 of them now (2 devices)"),
    ],
)
def test_it_says_how_many_start_now_and_how_many_later(
    bench: Bench, plan: RolloutPlan, starting: int, later: int, words: str
) -> None:
    for number in range(20):
        bench.device(f"pi-{number:02}", online=number < 18)
    seen = bench.look(plan=plan)
    lines = list(summary_lines(seen))
    assert (seen.ready, seen.starting, seen.later) == (18, starting, later)
    assert words in lines[0]
    assert "would not  2 offline" in lines
    told = [line for line in lines if line.startswith("waves  ")]
    assert bool(told) is (len(plan.waves) > 1 or starting + later < 18)
    assert ("(1, soak 10m)" in str(told)) is (plan.name == "canary")


def test_a_device_with_two_obstacles_is_counted_as_one_that_would_not(bench: Bench) -> None:
    bench.device("away", online=False)
    bench.device("held")
    bench.orders.set_desired("held", hold=True)
    apart = "1 offline, 1 held"
    assert f"would not  {apart}" in list(summary_lines(bench.look()))
    assert f"Would not {apart}" in on_page(bench.look())
    bench.device("held", online=False)
    both = "2 devices, some for several reasons: 2 offline, 1 held"
    assert f"would not  {both}" in list(summary_lines(bench.look()))
    assert f"Would not {both}" in on_page(bench.look())
    (said,) = [line for line in summary_lines(bench.look(targets=Targets(exclude=["away"]))) if "would not" in line]
    assert said == "would not  1 device, for several reasons: 1 offline, 1 held"


@pytest.mark.parametrize(
    ("took", "words"),
    [
        ([7.0], "1 device took at most 7 s in the last rollout of tacho"),
        ([5.0, 7.0], "2 devices took at most 7 s in"),
        ([*map(float, range(1, 11))], "of 10 devices, 9 in 10 took at most 9 s in"),
    ],
)
def test_a_few_devices_are_not_counted_by_tenths(took: list[float], words: str) -> None:
    assert Pace(seconds=took, of="tacho", rollouts=1).told().startswith(words)


def test_each_wave_brings_what_the_dry_run_says_it_begins_with(bench: Bench) -> None:
    names = [f"pi-{number:02}" for number in range(11)]
    for name in names:
        bench.device(name, runs=bench.old)
    plan = ready_plan("canary")
    seen = bench.look(plan=plan)
    assert [wave.devices for wave in seen.waves] == [1, 1, 4, 5]
    assert {one.wave for one in seen.devices} == {None}
    drawn = "which devices a share has is drawn when it is released"
    picked = "a wave of so many devices picks them when it begins, of those that are there then"
    lines = list(summary_lines(seen))
    assert f"wave -     {drawn}; {picked}" in lines
    assert any("1 device (1, soak 10m), up to 10 % (1, soak 10m), up to 50 % (4, soak 10m)" in line for line in lines)
    page = make_environment(Statics()).get_template("ask_preflight.html").render(preflight=seen)
    assert f"up to 50 % (4) → everybody (5), by the plan canary; {drawn}; {picked}" in page
    made = bench.rollouts.create(
        package="tacho", version="1.1.0", channel="stable", repository=["http://r"], plan=plan, now=NOW
    )
    reader, now, seq = RolloutReader(bench.engine), NOW, 0
    for _ in plan.waves:
        may_start = [one.device for one in reader.devices(made.id) if one.verdict is Verdict.PENDING]
        said = {"rollout": made.id, "version": "1.1.0"}
        bench.intake.take_in([one for device in may_start for one in succeeded_in(device, 1, **said)], now)
        now, seq = now + timedelta(minutes=15), seq + 1
        online = [presence_in(name, session=seq + 1) for name in names]
        bench.intake.take_in(online, now)
        bench.rollouts.evaluate(made.id, now)
    brought = reader.rollout(made.id)
    assert brought.state is RolloutState.COMPLETE
    assert [sum(wave.verdicts.values()) for wave in brought.waves] == [wave.devices for wave in seen.waves]
    # nor was that chance: half of them are six, two of which may have been picked
    wish = {"version": "1.0.0", "channel": "stable", "repository": ["http://r"], "plan": plan}
    for number in range(20):
        another = bench.rollouts.create(package=f"other-{number}", **wish)
        places = [bucket(another.id, name) for name in names]
        assert sum(place < BUCKETS // 10 for place in places) <= 2
        assert 4 <= sum(place < BUCKETS // 2 for place in places) <= 6


def test_in_a_larger_fleet_a_wave_begins_with_about_so_many(bench: Bench) -> None:
    for number in range(20):
        bench.device(f"pi-{number:02}")
    (told,) = [line for line in summary_lines(bench.look()) if line.startswith("waves  ")]
    assert "1 device (1, soak 10m), up to 10 % (about 1, soak 10m), up to 50 % (about 8, soak 10m)" in told


@pytest.mark.parametrize(("approvals", "asks"), [(1, "; 1 wave begins when"), (2, "; 2 waves begin when")])
def test_an_estimate_says_how_many_waves_a_person_lets_begin(approvals: int, asks: str) -> None:
    pace = Pace(seconds=[1.0], of="tacho", rollouts=1)
    always = Openings(None, None, now=NOW, zone=UTC)
    told = estimate(
        pace, ready=1, channel="stable", now=NOW, openings=always, whole=lambda one: one, approvals=approvals
    )
    assert told.basis.endswith(f"{asks} a person says go")


@pytest.mark.parametrize(
    ("targets", "plan"),
    [
        (Targets(), "canary"),
        (Targets(where={"site": "bern"}), "all-at-once"),
        (Targets(exclude=[f"pi-{number:02}" for number in range(11)]), "all-at-once"),
        (Targets(exclude=[f"pi-{number:02}" for number in range(10)]), "canary"),
        (Targets(upto=0, devices=[f"pi-{number:02}" for number in range(20)]), "canary"),
        (Targets(upto=0, devices=["pi-01", *(f"elsewhere-{number}" for number in range(30))]), "all-at-once"),
        (Targets(upto=BUCKETS // 2), "all-at-once"),
    ],
)
def test_a_release_gets_the_plan_that_was_foreseen(bench: Bench, targets: Targets, plan: str) -> None:
    for number in range(30):
        bench.device(f"pi-{number:02}")
    foreseen = bench.look(targets=targets)
    made = bench.rollouts.create(
        package="tacho", version="1.1.0", channel="stable", repository=[], targets=targets, now=NOW
    )
    assert (foreseen.plan, made.plan.name) == (plan, plan)


def test_nothing_is_changed(bench: Bench) -> None:
    bench.device("pi-1", runs=bench.old)
    before = bench.row_counts()
    bench.look()
    assert bench.row_counts() == before
    assert bench.repository.channel_of("tacho", "stable") is None


def test_what_does_not_exist_or_was_yanked_is_refused(bench: Bench) -> None:
    asked: list[tuple[Callable[[], Preflight], str]] = [
        (lambda: bench.look("9.9.9"), "release.unknown"),
        (lambda: bench.look("latest"), "version.bad"),
        (lambda: bench.look("1.1.0"), "release.yanked"),
    ]
    bench.repository.yank("tacho", "1.1.0", "bad")
    for ask, code in asked:
        with pytest.raises(PublisherError) as caught:
            ask()
        assert caught.value.code == code
    assert caught.value.message == "tacho 1.1.0 was yanked: bad; release another version"


def test_all_day_on_following_days_is_one_opening() -> None:
    """Monday to Friday all day: from Monday noon on, twenty hours later is in the same opening."""
    window = Window(start="00:00", end="00:00", days=[0, 1, 2, 3, 4])
    openings = Openings(window, None, now=datetime(2026, 3, 2, 12, tzinfo=UTC), zone=UTC)
    assert openings.next_s(20 * 3600.0, 600.0) == 20 * 3600.0
    assert openings.fit
    # Friday ends it, and the week after is another
    assert openings.next_s(4 * 86_400.0 + 11 * 3600.0, 600.0) == 4 * 86_400.0 + 11 * 3600.0
    assert openings.fit
    assert openings.next_s(5 * 86_400.0, 600.0) == 6.5 * 86_400.0
    assert not openings.fit
