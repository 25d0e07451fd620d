"""What a channel points at, and what became of it there: a release that was stopped is listed as that."""

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.repository.records import ReleaseRecord
from controller.rollouts.plan import RolloutState
from controller.rollouts.store import RolloutStore
from tests.support.in_process import FILE_TOKEN, Application, application, bearer
from tests.support.repository import add_release

API = "/api/v1/packages"


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Application]:
    """tacho 1.1.0 on `stable` took the place of 1.0.0, and 1.0.0 is on `beta`."""
    with application(tmp_path) as made:
        for version in ("1.0.0", "1.1.0"):
            add_release(made.repository, "tacho", version, {"a": version})
        for version, channel in (("1.0.0", "beta"), ("1.0.0", "stable"), ("1.1.0", "stable")):
            release(made, version, channel)
        yield made


def ask(app: Application, method: str, path: str, body: object = None) -> Any:
    answer = app.client.request(method, path, json=body, headers=bearer(FILE_TOKEN))
    assert answer.is_success, answer.text
    return answer.json()


def release(app: Application, version: str, channel: str) -> None:
    ask(app, "POST", "/api/v1/releases", {"package": "tacho", "version": version, "channel": channel})


def stop(app: Application, version: str, channel: str, state: RolloutState) -> None:
    store = RolloutStore(app.engine)
    (rollout,) = [
        one for one in ask(app, "GET", f"/api/v1/rollouts?channel={channel}")["items"] if one["version"] == version
    ]
    store.set_state(rollout["id"], state)


def stopped(app: Application, path: str = API) -> dict[str, dict[str, str]]:
    found = ask(app, "GET", path)
    items = found["items"] if isinstance(found, dict) else found
    return {one["version"]: one["stopped"] for one in items}


def text(app: Application, path: str) -> str:
    """What people read of a page: no markup, one space between words."""
    shown = app.client.get(path, headers={"Accept": "text/html", **bearer(FILE_TOKEN)}).text
    found = re.search(r"<main\b.*</main>", shown, re.DOTALL)
    assert found is not None, shown
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", found[0])).split())


@pytest.mark.parametrize("state", [RolloutState.REVERTED, RolloutState.HALTED, RolloutState.PAUSED])
def test_a_version_that_a_channel_points_at_is_listed_with_what_stopped_it_there(
    app: Application, state: RolloutState
) -> None:
    stop(app, "1.1.0", "stable", state)
    assert stopped(app) == {"1.1.0": {"stable": state.value}, "1.0.0": {}}
    assert stopped(app, f"{API}/tacho/1.1.0") == {"1.1.0": {"stable": state.value}}
    assert f"beta 1.0.0 , stable 1.1.0 {state.value}" in text(app, "/packages")
    of_package = text(app, "/packages/tacho")
    assert f"beta 1.0.0 stable 1.1.0 {state.value} Versions" in of_package
    assert f"1.1.0 any stable {state.value}" in of_package
    assert f"Channels stable {state.value}" in text(app, "/packages/tacho/1.1.0")


def test_a_version_that_goes_its_way_on_a_channel_is_listed_without_a_word(app: Application) -> None:
    assert stopped(app) == {"1.1.0": {}, "1.0.0": {}}
    assert "beta 1.0.0 , stable 1.1.0 " in text(app, "/packages")
    assert "reverted" not in text(app, "/packages/tacho/1.1.0")


def test_what_was_stopped_on_one_channel_or_before_another_release_is_said_of_no_other(app: Application) -> None:
    stop(app, "1.1.0", "stable", RolloutState.REVERTED)
    release(app, "1.1.0", "beta")
    assert stopped(app) == {"1.1.0": {"stable": "reverted"}, "1.0.0": {}}
    release(app, "1.0.0", "stable")
    assert stopped(app) == {"1.1.0": {}, "1.0.0": {}}


def test_a_record_and_what_is_listed_have_the_same_facts_but_one(app: Application) -> None:
    (record,) = app.repository.records("tacho", "1.1.0")
    (listed,) = ask(app, "GET", f"{API}/tacho/1.1.0")
    assert {*listed} == {*ReleaseRecord.__struct_fields__, "stopped"}
    assert (listed["manifest"], listed["channels"]) == (record.manifest, ["stable"])


@pytest.mark.parametrize("state", [None, RolloutState.PAUSED, RolloutState.HALTED, RolloutState.REVERTED])
def test_whoever_yanks_is_warned_of_channels_where_it_may_still_start_and_of_no_others(
    app: Application, state: RolloutState | None
) -> None:
    if state is not None:
        stop(app, "1.1.0", "stable", state)
    fact = "Channel stable still announces it: release another version there."
    assert (fact in text(app, "/packages/tacho/1.1.0/do/yank")) is (state is not RolloutState.REVERTED)
    warnings = ask(app, "POST", f"{API}/tacho/1.1.0/yank", {"yanked": True})["warnings"]
    if state is RolloutState.REVERTED:
        assert warnings == []
    else:
        (warning,) = warnings
        assert "still announces it on channel stable; release another version there, or withdraw it" in warning
