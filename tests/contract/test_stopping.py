"""Cancelling and retrying on single devices of a rollout: asked for is not done. Over a real broker, with the CLI."""

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from controller.database import utc_now
from controller.fleet.service import FleetService
from controller.rollouts.plan import RolloutState, Verdict
from controller.rollouts.views import RolloutDevice
from schemas.errors import OperatorError
from schemas.messages import Announcement, ErrorReport, Phase, ReleaseState, Verb
from tests.support.broker import Broker
from tests.support.command import flotilla
from tests.support.controller import ControllerProcess
from tests.support.database import opened
from tests.support.fake_device import FakeDevice, fake_device
from tests.support.links import until
from tests.support.repository import make_package
from tests.unit.fleet.serving import make_service, serving

pytestmark = pytest.mark.broker

CANCELLED = ErrorReport(code="conflict.cancelled", message="cancelled on request")


class Site:
    """A service with two devices on channel `stable`, one of which fetches 1.1.0."""

    def __init__(self, engine: Engine, service: FleetService, *devices: FakeDevice) -> None:
        self.engine, self.service, self.devices = engine, service, devices
        self.rollout = ""

    async def release(self) -> Announcement:
        made = self.service.steering.create_release(
            package="tacho", version="1.1.0", channel="stable", repository=["http://r"]
        )
        self.rollout = made.id
        return await self.devices[0].announcement("1.1.0")

    def of(self, device: FakeDevice) -> RolloutDevice | None:
        found = self.service.rollouts.devices(self.rollout)
        return next((one for one in found if one.device == device.id), None)

    async def stands(self, device: FakeDevice, verdict: Verdict, asked: Verb | None = None) -> None:
        await until(lambda: (one := self.of(device)) is not None and (one.verdict, one.asked) == (verdict, asked))


@pytest.fixture
async def site(tmp_path: Path, broker: Broker, topic_root: str, unique: Callable[[str], str]) -> AsyncIterator[Site]:
    engine = opened(tmp_path / "flotilla.db")
    service = make_service(engine, broker.url, topic_root, unique("controller"))
    async with (
        serving(service),
        fake_device(broker.url, unique("pi"), topic_root=topic_root) as first,
        fake_device(broker.url, unique("pi"), topic_root=topic_root) as second,
    ):
        for device in (first, second):
            await device.report()
        await until(lambda: len(service.registry.devices(channel="stable")) == 2)
        yield Site(engine, service, first, second)
    engine.dispose()


def sent(device: FakeDevice, verb: Verb) -> list[dict[str, Any]]:
    return [one.args for one in device.commands if one.verb is verb]


async def test_one_device_is_left_out_and_done_only_when_it_says_so(site: Site) -> None:
    announced = await site.release()
    first, second = site.devices
    (accepted, _) = await first.update(announced, Phase.ACCEPTED, Phase.FETCHING)
    await site.stands(first, Verdict.UPDATING)
    site.service.steering.cancel(site.rollout, first.id)
    await site.stands(first, Verdict.UPDATING, Verb.CANCEL)
    assert site.service.rollouts.unanswered(site.rollout) == 1
    await first.until(lambda: first.announcements[-1].targets.exclude == [first.id])
    assert first.announcements[-1].revision > announced.revision
    assert first.announcements[-1].state is ReleaseState.ACTIVE
    await first.until(lambda: sent(first, Verb.CANCEL))
    assert sent(first, Verb.CANCEL) == [{"package": "tacho", "rollout": site.rollout, "version": "1.1.0"}]
    assert sent(second, Verb.CANCEL) == []

    # words that are no last ones do not answer
    await first.update(announced, Phase.FETCHING, update=accepted.update)
    await until(lambda: site.service.registry.device(first.id).seq == first.seq)
    await site.stands(first, Verdict.UPDATING, Verb.CANCEL)
    await first.update(announced, Phase.CANCELLED, update=accepted.update, error=CANCELLED)
    await site.stands(first, Verdict.CANCELLED)
    assert site.service.rollouts.unanswered(site.rollout) == 0
    await site.stands(second, Verdict.PENDING)


async def test_one_that_has_said_nothing_is_shown_as_asked_until_it_answers(site: Site) -> None:
    announced = await site.release()
    first, _ = site.devices
    site.service.steering.cancel(site.rollout, first.id)
    await site.stands(first, Verdict.HELD, Verb.CANCEL)
    await first.update(announced, Phase.CANCELLED, error=CANCELLED)
    await site.stands(first, Verdict.CANCELLED)
    with pytest.raises(OperatorError, match="is done with this rollout: cancelled"):
        site.service.steering.cancel(site.rollout, first.id)


async def test_a_whole_rollout_is_halted_and_asked_until_its_devices_have_answered(site: Site) -> None:
    announced = await site.release()
    first, second = site.devices
    (accepted,) = await first.update(announced, Phase.ACCEPTED)
    await site.stands(first, Verdict.UPDATING)
    asked = site.service.steering.cancel(site.rollout)
    assert (asked.state, asked.cancel_asked_at is not None) == (RolloutState.HALTED, True)
    await first.until(lambda: first.announcements[-1].state is ReleaseState.HALTED)
    await site.stands(first, Verdict.UPDATING, Verb.CANCEL)
    # it was not heard of since: it may have begun without a word
    await site.stands(second, Verdict.HELD, Verb.CANCEL)
    await second.report()
    await site.stands(second, Verdict.HELD)
    await first.update(
        announced, Phase.CANCELLED, update=accepted.update, error=ErrorReport(code="conflict.halted", message="halted")
    )
    await until(lambda: site.service.rollouts.unanswered(site.rollout) == 0)
    assert site.service.steering.set_state(site.rollout, RolloutState.ACTIVE).cancel_asked_at is None
    with pytest.raises(OperatorError, match="ended badly"):
        site.service.steering.retry(site.rollout, second.id)


async def test_what_failed_is_open_again_until_the_device_says_how_it_goes(site: Site) -> None:
    announced = await site.release()
    first, second = site.devices
    await first.update(announced, Phase.ACCEPTED, Phase.ROLLED_BACK)
    await second.update(announced, Phase.ACCEPTED, Phase.SUCCEEDED)
    await site.stands(first, Verdict.ROLLED_BACK)
    site.service.steering.retry(site.rollout)
    await site.stands(first, Verdict.PENDING, Verb.RETRY)
    assert site.service.rollouts.failures(site.rollout) == []
    assert site.service.rollouts.rollout(site.rollout).state is RolloutState.ACTIVE
    await first.until(lambda: sent(first, Verb.RETRY))
    assert sent(first, Verb.RETRY) == [{"package": "tacho", "rollout": site.rollout}]
    assert sent(second, Verb.RETRY) == []
    await first.update(announced, Phase.ACCEPTED)
    await site.stands(first, Verdict.UPDATING)


async def test_a_retry_lets_a_device_in_that_was_left_out(site: Site) -> None:
    announced = await site.release()
    first, _ = site.devices
    site.service.steering.cancel(site.rollout, first.id)
    await first.update(announced, Phase.CANCELLED, error=CANCELLED)
    await site.stands(first, Verdict.CANCELLED)
    site.service.steering.retry(site.rollout, first.id)
    await first.until(lambda: first.announcements[-1].targets.exclude == [])
    await site.stands(first, Verdict.PENDING, Verb.RETRY)


async def test_a_device_that_was_away_when_a_retry_expired_is_asked_again_when_it_is_back(
    site: Site, broker: Broker, topic_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    announced = await site.release()
    first, _ = site.devices
    await first.update(announced, Phase.ACCEPTED, Phase.FAILED)
    await site.stands(first, Verdict.FAILED)
    monkeypatch.setattr("controller.rollouts.asks.EXPIRY", timedelta(seconds=-1))
    site.service.steering.retry(site.rollout)
    await site.stands(first, Verdict.PENDING, Verb.RETRY)
    monkeypatch.undo()
    # it speaks of events that are not here yet: one of them may be the answer
    await first.report(seq=first.seq + 1)
    await until(lambda: site.service.registry.device(first.id).missing == 1)
    assert sent(first, Verb.RETRY) == []
    await first.say(Phase.DEFERRED, package="other")
    await first.report(seq=first.seq)
    await first.until(lambda: sent(first, Verb.RETRY))
    assert first.commands[-1].expires_at > utc_now()
    await first.report(seq=first.seq, tags={"once": "more"})
    await until(lambda: site.service.registry.device(first.id).tags)
    assert len(sent(first, Verb.RETRY)) == 1


async def test_where_nothing_can_be_stopped_or_tried_again_that_is_said(site: Site) -> None:
    announced = await site.release()
    first, _ = site.devices
    await first.update(announced, Phase.ACCEPTED, Phase.SUCCEEDED)
    await until(lambda: site.service.rollouts.rollout(site.rollout).phases.get("succeeded") == 1)
    for refused, words in (
        (lambda: site.service.steering.cancel(site.rollout, first.id), "rollback --package tacho"),
        (lambda: site.service.steering.cancel(site.rollout, "nobody"), "no device nobody"),
        (lambda: site.service.steering.retry(site.rollout), "nothing to retry"),
    ):
        with pytest.raises(OperatorError, match=words):
            refused()
    site.service.steering.set_state(site.rollout, RolloutState.PAUSED)
    with pytest.raises(OperatorError, match="resume it first"):
        site.service.steering.retry(site.rollout)


async def test_the_command_line_says_what_is_asked_and_what_is_done(
    controller: ControllerProcess, broker: Broker, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    def run(*arguments: str) -> str:
        return flotilla(*arguments, env={"FLOTILLA_URL": controller.url}).text

    package, channel = unique("pkg"), unique("ch")
    assert controller.push(make_package(tmp_path, package, "1.1.0", {"a": "a"})).status == 201
    async with fake_device(broker.url, unique("pi"), topic_root=controller.topic_root, channel=channel) as device:
        await device.report()
        await until(lambda: controller.get(f"/devices/{device.id}").json().get("channel") == channel)
        run("release", package, "1.1.0", "--channel", channel)
        announced = await device.announcement("1.1.0")
        (accepted,) = await device.update(announced, Phase.ACCEPTED)
        await until(lambda: controller.get(f"/rollouts/{announced.rollout}").json()["rollout"]["phases"])
        assert f"asked of {device.id}" in run("cancel", announced.rollout, "--device", device.id)
        shown = run("rollout", announced.rollout)
        assert "updating (cancel asked)" in shown
        assert "asked, and not answered yet: 1" in shown
        await device.update(announced, Phase.CANCELLED, update=accepted.update, error=CANCELLED)
        await until(lambda: controller.get(f"/rollouts/{announced.rollout}").json()["unanswered"] == 0)
        assert "cancel asked" not in run("rollout", announced.rollout)
        assert "asked of 1 device;" in run("retry", announced.rollout)
        assert "(retry asked)" in run("rollout", announced.rollout)
        assert "is halted; cancel asked" in run("cancel", announced.rollout)
