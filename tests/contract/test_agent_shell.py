"""The agent against a real broker and a real repository: what it hears, and what it says."""

import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from controller.repository.package_repository import PackageRepository
from device_agent.config import AgentConfig, BrokerAuth
from device_agent.diagnosis import Finding, examine
from schemas.manifest import Health
from schemas.messages import Desired, Phase, ReleaseState, RolloutPolicy, Targets, Verb
from tests.support.agents import Control, agent, announce, control, new_id, order
from tests.support.broker import Broker, ProductionBroker
from tests.support.links import until
from tests.support.repository import add_release, make_repository, serve_folder

pytestmark = pytest.mark.wire

QUICK = Health(probation_s=0, start_period_s=0)
WHOLE_LIFE = ["accepted", "fetching", "staged", "switched", "probation", "succeeded"]
DEVICE = "pi-1"


@pytest.fixture
def repository(tmp_path: Path) -> PackageRepository:
    made = make_repository(tmp_path / "controller")
    for version in ("1.0.0", "1.1.0", "2.0.0"):
        add_release(made, "tacho", version, {"page.html": f"version {version}"}, health=QUICK)
    return made


@pytest.fixture
def base_url(repository: PackageRepository) -> Iterator[str]:
    with serve_folder(repository.folder) as url:
        yield url


@pytest.fixture
def config(
    tmp_path: Path, repository: PackageRepository, broker: Broker, base_url: str, topic_root: str
) -> AgentConfig:
    root_file = tmp_path / "root.json"
    root_file.write_bytes(repository.trusted_root())
    return AgentConfig(
        id=DEVICE,
        root=tmp_path / "device",
        broker=broker.url,
        topic_root=topic_root,
        trusted_root=root_file,
        repositories=[base_url],
        tags={"site": "harbour"},
    )


@pytest.fixture
async def controller(config: AgentConfig) -> AsyncIterator[Control]:
    async with control(config.broker, config.topic_root, DEVICE) as made:
        yield made


def installed(config: AgentConfig) -> str:
    return (config.root / "packages/tacho/current/page.html").read_text()


async def test_an_announced_release_is_installed_and_every_step_is_told(
    config: AgentConfig, controller: Control
) -> None:
    async with agent(config):
        said = await controller.announce(announce("tacho", "1.0.0"))
        await controller.until(controller.ended)
        await controller.until(lambda: controller.reports and controller.reports[-1].seq == len(WHOLE_LIFE))

    assert controller.phases() == WHOLE_LIFE
    assert [e.seq for e in controller.events] == list(range(1, len(controller.events) + 1))
    assert {e.rollout for e in controller.events} == {said.rollout}
    assert installed(config) == "version 1.0.0"
    report = controller.reports[-1]
    assert report.packages["tacho"].version == "1.0.0"
    assert report.packages["tacho"].phase is Phase.SUCCEEDED
    assert report.seq == controller.events[-1].seq
    assert report.tags == {"site": "harbour"}
    assert {"platform", "agent_version", "disk_free", "boot_id"} <= set(report.facts)


async def test_presence_is_online_while_it_runs_and_offline_after_an_orderly_end(
    config: AgentConfig, controller: Control
) -> None:
    for session in (1, 2):
        async with agent(config) as running:
            await controller.until(lambda: controller.presences and controller.presences[-1].online)
            await running.end()
        await controller.until(lambda: not controller.presences[-1].online)
        assert controller.presences[-1].session == controller.presences[-2].session == session
    assert [p.online for p in controller.presences] == [True, False, True, False]


async def test_the_same_announcement_again_changes_nothing(config: AgentConfig, controller: Control) -> None:
    said = announce("tacho", "1.0.0")
    async with agent(config):
        await controller.announce(said)
        await controller.until(controller.ended)
        await controller.announce(said)
        await controller.announce(said)
        await controller.announce(announce("tacho", "1.1.0"))
        await controller.until(lambda: controller.ended("1.1.0"))
    async with agent(config):
        await controller.announce(announce("tacho", "2.0.0"))
        await controller.until(lambda: controller.ended("2.0.0"))

    assert controller.phases() == WHOLE_LIFE * 3
    assert len({e.update for e in controller.events}) == 3


async def test_what_is_not_understood_costs_one_line_and_the_next_message_is_heard(
    config: AgentConfig, controller: Control, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING", logger="flotilla")
    good = announce("tacho", "1.0.0", revision=2)
    newer = b'{"schema": 2, "rollout": "' + good.rollout.encode() + b'"}'
    bad = {
        "release/stable/tacho": (b"{not json", "Announcement"),
        "release/stable/other": (newer, "schema 2 is newer"),
        "release/stable/mail": (b"[" * 200_000, "Announcement"),
        "release/stable/list": (b"[1]", "object"),
    }
    async with agent(config):
        await controller.until(lambda: controller.presences)
        for topic, (payload, _) in bad.items():
            await controller.shout(topic, payload, retain=True)
        await controller.shout("release/stable/wrong", b'{"schema":1}', retain=True)
        await controller.say("desired", b'"hold"')
        await controller.say("commands", b"\xff\xfe")
        # what comes with the connection is looked at as a whole: a later word about a release goes before an earlier
        await until(lambda: sum("action=refused" in record.message for record in caplog.records) == len(bad) + 3)
        await controller.announce(announce("nosuch", "1.0.0"))
        await controller.announce(announce("other", "not-a-version"))
        await controller.announce(good)
        await controller.until(lambda: controller.ended("1.0.0") and len(controller.events) > len(WHOLE_LIFE))

    refused = [r.message for r in caplog.records if "action=refused" in r.message]
    assert len(refused) == len(bad) + 3
    for topic, (_, words) in bad.items():
        assert sum(topic in line and words in line for line in refused) == 1
    assert all("\n" not in line for line in refused)
    assert [e.phase for e in controller.events if e.package == "nosuch"][-1] in (Phase.FAILED, Phase.REJECTED)
    assert installed(config) == "version 1.0.0"


async def test_a_payload_over_the_limit_is_not_taken(config: AgentConfig, controller: Control) -> None:
    async with agent(config):
        await controller.until(lambda: controller.presences)
        await controller.shout("release/stable/big", b"{" + b" " * (256 * 1024) + b"}", retain=True)
        await controller.announce(announce("tacho", "1.0.0"))
        await controller.until(controller.ended)
    assert controller.phases() == WHOLE_LIFE


async def test_events_are_sent_again_when_asked_for(config: AgentConfig, controller: Control) -> None:
    async with agent(config):
        await controller.announce(announce("tacho", "1.0.0"))
        await controller.until(controller.ended)
        before = list(controller.heard)
        await controller.order(order(Verb.REPLAY, after_seq=2))
        await controller.until(lambda: len(controller.heard) == 2 * len(before) - 2)
    assert controller.heard[len(before) :] == before[2:]


async def test_a_command_counts_once_and_not_after_its_time(
    config: AgentConfig, controller: Control, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="flotilla")
    async with agent(config):
        for version in ("1.0.0", "1.1.0"):
            await controller.announce(announce("tacho", version))
            await controller.until(lambda v=version: controller.ended(v))
        command = order(Verb.ROLLBACK, package="tacho")
        await controller.order(order(Verb.ROLLBACK, package="tacho", valid_s=-1))
        await controller.order(command)
        await controller.order(command)
        await controller.until(lambda: controller.phases()[-1] == "rolled_back")
        await controller.order(order(Verb.REPORT))
        await until(lambda: any("verb=report" in r.message for r in caplog.records))
    assert controller.phases().count("rolled_back") == 1
    assert installed(config) == "version 1.0.0"


async def test_a_rollback_by_hand_is_not_undone_by_hearing_the_announcement_again(
    config: AgentConfig, controller: Control
) -> None:
    async with agent(config):
        for version in ("1.0.0", "1.1.0"):
            said = await controller.announce(announce("tacho", version))
            await controller.until(lambda v=version: controller.ended(v))
        await controller.order(order(Verb.ROLLBACK, package="tacho"))
        await controller.until(lambda: controller.phases()[-1] == "rolled_back")
    async with agent(config):
        await controller.announce(said)
        await controller.order(order(Verb.CHECK))
        await controller.until(lambda: "check" in controller.reports[-1].facts)
    assert controller.phases()[-1] == "rolled_back"
    assert installed(config) == "version 1.0.0"


async def test_what_happened_without_a_broker_is_told_when_there_is_one(
    config: AgentConfig, controller: Control, topic_root: str
) -> None:
    async with agent(config):
        await controller.announce(announce("tacho", "1.0.0", policy=RolloutPolicy(not_before=in_s(1.0))))
        await controller.until(lambda: controller.phases() == ["deferred"])
    lonely = AgentConfig(**{**as_dict(config), "broker": "mqtt://127.0.0.1:1"})
    async with agent(lonely):
        await until((config.root / "packages/tacho/current/page.html").exists)
        await until(lambda: last_phase(config) == "succeeded")
    assert controller.phases() == ["deferred"]
    async with agent(config):
        await controller.until(controller.ended)
    assert controller.phases() == ["deferred", *WHOLE_LIFE]
    assert [e.seq for e in controller.events] == list(range(1, len(controller.events) + 1))


async def test_a_paused_rollout_starts_nobody_and_goes_on_later(config: AgentConfig, controller: Control) -> None:
    rollout = new_id()
    async with agent(config):
        await controller.announce(
            announce("tacho", "1.0.0", rollout=rollout, policy=RolloutPolicy(not_before=in_s(600)))
        )
        await controller.until(lambda: controller.phases() == ["deferred"])
        await controller.announce(announce("tacho", "1.0.0", rollout=rollout, revision=2, state=ReleaseState.PAUSED))
        await controller.until(lambda: controller.phases() == ["deferred", "cancelled"])
        # an older revision, as a broker that lost its memory may send it
        await controller.announce(announce("tacho", "1.0.0", rollout=rollout, revision=1))
        await controller.announce(announce("tacho", "1.0.0", rollout=rollout, revision=3))
        await controller.until(lambda: controller.phases()[-1] == "succeeded")
    assert controller.phases() == ["deferred", "cancelled", *WHOLE_LIFE]


async def test_a_reverted_rollout_takes_the_device_back(config: AgentConfig, controller: Control) -> None:
    async with agent(config):
        await controller.announce(announce("tacho", "1.0.0"))
        await controller.until(lambda: controller.ended("1.0.0"))
        said = await controller.announce(announce("tacho", "1.1.0"))
        await controller.until(lambda: controller.ended("1.1.0"))
        await controller.announce(
            announce("tacho", "1.1.0", rollout=said.rollout, revision=2, state=ReleaseState.REVERTED)
        )
        await controller.until(lambda: controller.phases()[-1] == "rolled_back")
    assert installed(config) == "version 1.0.0"


async def test_targets_that_leave_the_device_out_change_nothing(config: AgentConfig, controller: Control) -> None:
    async with agent(config):
        await controller.announce(announce("tacho", "1.0.0", targets=Targets(where={"site": "airport"})))
        await controller.announce(announce("tacho", "1.1.0", targets=Targets(where={"site": "harbour"})))
        await controller.until(controller.ended)
    assert {e.version for e in controller.events} == {"1.1.0"}


async def test_a_pin_goes_before_the_channel_and_the_channel_counts_again_without_it(
    config: AgentConfig, controller: Control
) -> None:
    async with agent(config):
        await controller.announce(announce("tacho", "2.0.0"))
        await controller.until(lambda: controller.ended("2.0.0"))
        await controller.desire(Desired(rev=1, pins={"tacho": "1.0.0"}))
        await controller.until(lambda: controller.ended("1.0.0"))
        assert installed(config) == "version 1.0.0"
        await controller.announce(announce("tacho", "1.1.0"))
        await controller.desire(Desired(rev=2))
        await controller.until(lambda: controller.ended("1.1.0"))
    assert installed(config) == "version 1.1.0"


async def test_a_pin_that_is_taken_away_brings_the_channels_release_back(
    config: AgentConfig, controller: Control
) -> None:
    async with agent(config):
        await controller.announce(announce("tacho", "2.0.0"))
        await controller.until(lambda: controller.ended("2.0.0"))
        await controller.desire(Desired(rev=1, pins={"tacho": "1.0.0"}))
        await controller.until(lambda: controller.ended("1.0.0"))
        await controller.desire(None)
        await controller.until(lambda: controller.phases("2.0.0") == WHOLE_LIFE * 2)
    assert installed(config) == "version 2.0.0"


async def test_the_device_follows_the_channel_it_is_told(config: AgentConfig, controller: Control) -> None:
    async with agent(config):
        await controller.announce(announce("tacho", "1.0.0"))
        await controller.announce(announce("tacho", "2.0.0", channel="beta"))
        await controller.until(lambda: controller.ended("1.0.0"))
        await controller.desire(Desired(rev=1, channel="beta", tags={"site": "airport"}))
        await controller.until(lambda: controller.ended("2.0.0"))
        await controller.until(lambda: controller.reports[-1].channel == "beta")
    assert controller.reports[-1].tags == {"site": "airport"}
    assert installed(config) == "version 2.0.0"


async def test_a_device_on_hold_starts_nothing(config: AgentConfig, controller: Control) -> None:
    async with agent(config):
        await controller.desire(Desired(rev=1, hold=True))
        await controller.announce(announce("tacho", "1.0.0"))
        await controller.until(lambda: controller.phases() == ["accepted", "deferred"])
        await controller.order(order(Verb.CHECK))
        await controller.until(lambda: controller.reports and "check" in controller.reports[-1].facts)
        assert controller.phases() == ["accepted", "deferred"]
        assert (controller.events[-1].detail or {})["reason"] == "hold"
        await controller.desire(Desired(rev=2, hold=False))
        await controller.until(controller.ended)
    assert controller.phases() == ["accepted", "deferred", *WHOLE_LIFE]


async def test_a_withdrawn_announcement_starts_nobody(config: AgentConfig, controller: Control) -> None:
    async with agent(config):
        said = await controller.announce(
            announce("tacho", "1.0.0", policy=RolloutPolicy(not_before=in_s(600), jitter_s=10))
        )
        await controller.until(lambda: controller.phases() == ["deferred"])
        await controller.withdraw(said)
        await controller.until(lambda: controller.phases() == ["deferred", "cancelled"])


async def test_a_retry_that_waited_while_its_rollout_was_halted_starts_nothing(
    config: AgentConfig, controller: Control, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with agent(config):
        said = await controller.announce(announce("tacho", "9.9.9"))
        await controller.until(lambda: controller.phases()[-1:] == ["failed"])
    before = controller.phases()
    await controller.order(order(Verb.RETRY, package="tacho", rollout=said.rollout))
    await controller.announce(msgspec.structs.replace(said, revision=said.revision + 1, state=ReleaseState.HALTED))
    async with agent(config):
        await until(lambda: f"rollout {said.rollout} starts nobody now" in caplog.text)
        again = msgspec.structs.replace(said, revision=said.revision + 2)
        await controller.announce(again)
        await controller.order(order(Verb.RETRY, package="tacho", rollout=said.rollout))
        await controller.until(lambda: controller.phases()[len(before) :][-1:] == ["failed"])
    assert controller.phases() == before * 2


async def test_with_tls_a_password_and_access_rules_it_works_the_same(
    config: AgentConfig, production_broker: ProductionBroker, tmp_path: Path
) -> None:
    password = tmp_path / "password"
    password.write_text(production_broker.passwords["dev-a"] + "\n")
    secure = AgentConfig(
        id="dev-a",
        root=config.root,
        broker=production_broker.url,
        trusted_root=config.trusted_root,
        repositories=config.repositories,
        broker_auth=BrokerAuth(username="dev-a", password_file=password, ca=production_broker.ca_file),
    )
    controller = production_broker.settings("controller", clean_start=True)
    async with control(production_broker.url, secure.topic_root, "dev-a", as_whom=controller) as made, agent(secure):
        said = await made.announce(announce("tacho", "1.0.0"))
        await made.until(made.ended)
        await made.until(lambda: made.reports and made.reports[-1].packages)
        await made.desire(Desired(rev=1, tags={"site": "quay"}))
        await made.until(lambda: made.reports[-1].tags == {"site": "quay"})
        await made.order(order(Verb.ROLLBACK, package="tacho"))
        await made.withdraw(said)
        await made.desire(None)
    assert made.phases() == WHOLE_LIFE
    assert made.presences[0].online
    found = await broker_found(secure)
    assert found.ok, f"{found.text}\n{production_broker.broker.log_text()[-2000:]}"


async def broker_found(config: AgentConfig) -> Finding:
    """What the check says of the broker, which on a busy disk may need longer than the check waits: it flushes its
    database with every change."""
    latest = time.monotonic() + 60
    while True:
        found = next(one for one in await examine(config) if one.name == "broker")
        if found.ok or "no answer within" not in found.text or time.monotonic() > latest:
            return found


def in_s(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


def as_dict(config: AgentConfig) -> dict[str, object]:
    return {name: getattr(config, name) for name in config.__struct_fields__}


def last_phase(config: AgentConfig) -> str:
    from device_agent.journal import Journal  # noqa: PLC0415 - beside its only use

    with Journal(config.root, read_only=True) as journal:
        update = journal.last_update("tacho")
    return update.phase.value if update and update.phase else ""
