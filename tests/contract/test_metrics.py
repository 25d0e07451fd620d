"""What `/metrics` says, who may read it, and that the dashboard asks for nothing else."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from schemas.log_lines import FIELDS
from schemas.messages import Phase
from tests.support.broker import Broker
from tests.support.controller import ControllerProcess, controller_process
from tests.support.fake_device import fake_device
from tests.support.links import settings, until
from tests.support.promql import named
from tests.support.repository import make_package
from tests.unit.fleet.builders import installed
from transport import connect

pytestmark = pytest.mark.broker

DASHBOARD = Path(__file__).parents[2] / "examples" / "grafana" / "flotilla.json"
SCRAPED_BY_PROMETHEUS = {"job", "instance"}
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(text: str) -> Samples:
    """Name and labels to value."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(found: Samples, name: str, **labels: str) -> float | None:
    return found.get((name, frozenset(labels.items())))


def scrape(controller: ControllerProcess) -> Samples:
    answer = controller.call("GET", "/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return samples(answer.body.decode())


@pytest.fixture(scope="module")
def busy(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ControllerProcess, Samples]]:
    """A controller, and what it told while one of two devices had taken a release and the other had failed."""
    folder = tmp_path_factory.mktemp("busy")
    arguments = ("--log-format", "json")
    with controller_process(folder / "data", broker.url, topic_root="busy/v1", arguments=arguments) as controller:
        assert controller.push(make_package(folder, "tacho", "1.0.0", {"a": "a"})).status == 201
        yield controller, asyncio.run(_play(controller, broker.url))


async def _play(controller: ControllerProcess, broker_url: str) -> Samples:
    root = controller.topic_root
    async with (
        fake_device(broker_url, "pi-1", topic_root=root) as first,
        fake_device(broker_url, "pi-2", topic_root=root) as second,
    ):
        await first.report()
        await second.report()
        wish = {"package": "tacho", "version": "1.0.0", "channel": "stable"}
        assert controller.send("POST", "/releases", wish).status == 201
        announced = await first.announcement("1.0.0")
        await first.update(announced, Phase.ACCEPTED, Phase.SUCCEEDED)
        await first.report(packages={"tacho": installed("1.0.0")})
        async with connect(settings(broker_url, "vandal", clean_start=True)) as link:
            await link.publish(f"{root}/devices/pi-1/events", b"{")
        await second.update(announced, Phase.ACCEPTED, Phase.FAILED)
        await until(lambda: value(scrape(controller), "flotilla_rollout_devices", **_failed(controller)) == 1)
        return scrape(controller)


def _failed(controller: ControllerProcess) -> dict[str, str]:
    (rollout,) = controller.get("/rollouts").json()["items"]
    about = {"package": "tacho", "version": "1.0.0", "channel": "stable", "verdict": "failed"}
    return {"rollout": rollout["id"], **about}


def test_a_scrape_tells_how_fleet_rollouts_intake_and_repository_are(
    busy: tuple[ControllerProcess, Samples],
) -> None:
    _, found = busy
    assert value(found, "flotilla_devices") == 2
    assert value(found, "flotilla_devices_online") == 2
    assert value(found, "flotilla_package_devices", package="tacho", version="1.0.0") == 1
    assert value(found, "flotilla_channel_devices", channel="stable") == 2
    assert value(found, "flotilla_phase_devices", phase="failed") == 1
    assert value(found, "flotilla_phase_devices", phase="succeeded") == 1
    assert value(found, "flotilla_rollouts", state="complete") == 1
    assert value(found, "flotilla_rollouts", state="halted") == 0
    assert value(found, "flotilla_intake_events_total", outcome="stored") == 4
    assert value(found, "flotilla_intake_lag_seconds_count") == 4
    assert value(found, "flotilla_intake_batch_messages_sum") == pytest.approx(4 + 3 + 2 + 1, abs=4)
    batches = value(found, "flotilla_intake_batch_messages_count")
    assert batches is not None
    assert batches >= 1
    assert value(found, "flotilla_intake_commit_seconds_count") == batches
    assert value(found, "flotilla_refused_messages_total", code="message.json") == 1
    assert value(found, "flotilla_unpublished_messages", kind="announcements") == 0
    assert value(found, "flotilla_missing_events") == 0
    assert value(found, "flotilla_repository_bytes", kind="objects") is not None
    assert value(found, "flotilla_broker_connected") == 1
    assert value(found, "flotilla_database_up") == 1
    left = value(found, "flotilla_metadata_seconds_left")
    assert left is not None
    assert 13 * 86_400 < left <= 14 * 86_400
    asked = {"method": "POST", "route": "/api/v1/releases", "status": "201"}
    assert value(found, "flotilla_http_requests_total", **asked) == 1


def test_every_query_of_the_dashboard_is_for_metrics_and_labels_that_are_there(
    busy: tuple[ControllerProcess, Samples],
) -> None:
    _, found = busy
    labels: dict[str, set[str]] = {}
    for name, given in found:
        labels.setdefault(name, set()).update(key for key, _ in given)
    dashboard = json.loads(DASHBOARD.read_text())
    asked: set[str] = set()
    for panel in panels(dashboard):
        for target in panel["targets"]:
            query = named(target["expr"])
            asked |= query.metrics
            assert query.metrics, panel["title"]
            assert query.metrics <= labels.keys(), f"{panel['title']}: {query.metrics - labels.keys()}"
            there = SCRAPED_BY_PROMETHEUS.union(*(labels[name] for name in query.metrics))
            assert {label for metric, label in query.matched if label not in labels[metric]} <= SCRAPED_BY_PROMETHEUS
            assert query.grouped <= there, panel["title"]
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert shown <= (query.grouped or there), panel["title"]
    for variable in dashboard["templating"]["list"]:
        for metric, label in re.findall(r"label_values\((\w+), (\w+)\)", str(variable["query"])):
            assert label in labels[metric] | SCRAPED_BY_PROMETHEUS, variable["name"]
    ours = {name for name in labels if name.startswith("flotilla_")}
    families = {re.sub(r"_(bucket|count|sum|total|created)$", "", name) for name in ours}
    unseen = families - {re.sub(r"_(bucket|count|sum|total)$", "", name) for name in asked}
    assert unseen <= {"flotilla_repository_packages"}, "a metric that the dashboard does not show"


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for panel in dashboard["panels"]:
        if panel["type"] != "row":
            yield panel


def test_its_log_is_json_lines_of_the_vocabulary(busy: tuple[ControllerProcess, Samples]) -> None:
    controller, _ = busy
    lines = [json.loads(line) for line in controller.log_text().splitlines()]
    assert all({"at", "level", "action", "message"} <= line.keys() <= FIELDS.keys() for line in lines)
    actions = {line["action"]: line for line in lines}
    assert {"listening", "connected", "refused", "rollout"} <= actions.keys()
    assert (actions["refused"]["topic"], actions["refused"]["code"]) == ("busy/v1/devices/pi-1/events", "message.json")
    assert (actions["rollout"]["package"], actions["rollout"]["state"]) == ("tacho", "complete")


def test_a_path_or_a_method_that_is_not_ours_makes_no_series_of_its_own(
    busy: tuple[ControllerProcess, Samples],
) -> None:
    controller, _ = busy
    for path in ("/nothing/1", "/nothing/2", "/repo/objects/aa/bb"):
        controller.call("GET", path)
    controller.call("PROPFIND", "/healthz")
    counted = {key: number for key, number in scrape(controller).items() if key[0] == "flotilla_http_requests_total"}
    assert {dict(labels)["method"] for _, labels in counted} == {"GET", "POST", "other"}
    assert not any("nothing" in dict(labels)["route"] or "objects" in dict(labels)["route"] for _, labels in counted)
    for route, times in (("none", 2), ("/repo", 1)):
        assert value(counted, "flotilla_http_requests_total", method="GET", route=route, status="404") == times


def test_where_others_can_connect_only_who_may_read_the_api_reads_the_metrics(
    broker: Broker, tmp_path: Path, topic_root: str
) -> None:
    with controller_process(tmp_path / "data", broker.url, listen="0.0.0.0", topic_root=topic_root) as controller:
        controller.call("GET", "/metrics").problem(401, "auth.refused")
        token = {"Authorization": f"Bearer {controller.token}"}
        assert b"flotilla_devices 0.0" in controller.call("GET", "/metrics", headers=token).body
        assert controller.call("GET", "/healthz").status == 200
        assert controller.call("GET", "/readyz").status == 200


def test_on_loopback_no_foreign_page_reads_the_metrics(busy: tuple[ControllerProcess, Samples]) -> None:
    controller, _ = busy
    assert controller.call("GET", "/metrics", headers={"Host": "evil.example"}).status == 400
