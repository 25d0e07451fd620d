"""What a press on 'Install' may mean for one device, and what Home Assistant is shown."""

from typing import Any

import pytest

from controller.fleet.views import Device, Update
from controller.homeassistant.offers import PackageState, packages_of
from schemas.messages import Announcement, Desired, Phase, Progress, ReleaseState, RolloutPolicy, Targets
from tests.unit.fleet.builders import NOW, ROLLOUT, an_id, installed


def device(**changes: Any) -> Device:
    """A device on `stable` that has tacho 1.0.0."""
    fields: dict[str, Any] = {
        "id": "pi-1",
        "online": True,
        "session": 1,
        "first_seen": NOW,
        "last_seen": NOW,
        "agent_version": "1.2.3",
        "boot_id": "boot",
        "reported_at": NOW,
        "channel": "stable",
        "tags": {"site": "bern"},
        "facts": {},
        "packages": {"tacho": installed("1.0.0")},
        "life": 1,
        "seq": 0,
        "missing": 0,
        "update": None,
    }
    return Device(**(fields | changes))


def announced(version: str = "2.0.0", **changes: Any) -> Announcement:
    """What `stable` announces of tacho."""
    fields: dict[str, Any] = {
        "rollout": ROLLOUT,
        "revision": 1,
        "package": "tacho",
        "version": version,
        "channel": "stable",
        "state": ReleaseState.ACTIVE,
        "targets": Targets(),
        "policy": RolloutPolicy(),
        "repository": [],
        "published_at": NOW,
    }
    return Announcement(**(fields | changes))


def update(phase: Phase, **changes: Any) -> Update:
    """What the device does with tacho 2.0.0."""
    fields: dict[str, Any] = {
        "update": an_id(1),
        "rollout": ROLLOUT,
        "package": "tacho",
        "version": "2.0.0",
        "from_version": "1.0.0",
        "phase": phase,
        "at": NOW,
        "attempt": 1,
        "progress": None,
        "error": None,
        "wire_bytes": None,
    }
    return Update(**(fields | changes))


def shown(there: Device, *announcements: Announcement, desired: Desired | None = None) -> PackageState:
    (one,) = packages_of(there, {(one.channel, one.package): one for one in announcements}, desired)
    return one


def test_what_the_channel_announces_to_the_device_is_offered() -> None:
    one = shown(device(), announced())
    assert (one.installed, one.latest, one.offered) == ("1.0.0", "2.0.0", True)


@pytest.mark.parametrize(
    ("changes", "desired"),
    [
        pytest.param({"state": ReleaseState.PAUSED}, None, id="paused"),
        pytest.param({"state": ReleaseState.HALTED}, None, id="halted"),
        pytest.param({"state": ReleaseState.REVERTED}, None, id="reverted"),
        pytest.param({"targets": Targets(upto=0)}, None, id="its wave has not come"),
        pytest.param({"targets": Targets(where={"site": "basel"})}, None, id="for others"),
        pytest.param({"channel": "beta"}, None, id="another channel"),
        pytest.param({"version": "0.9.0"}, None, id="a downgrade"),
        pytest.param({"version": "1.0.0"}, None, id="it is there already"),
        pytest.param({}, Desired(rev=1, hold=True), id="held"),
        pytest.param({}, Desired(rev=1, pins={"tacho": "1.0.0"}), id="pinned"),
    ],
)
def test_a_button_widens_no_rollout_and_passes_no_hold_or_pin(changes: dict[str, Any], desired: Desired | None) -> None:
    one = shown(device(), announced(**changes), desired=desired)
    assert (one.installed, one.latest, one.offered) == ("1.0.0", "1.0.0", False)


def test_a_downgrade_that_the_rollout_allows_is_offered() -> None:
    assert shown(device(), announced("0.9.0", policy=RolloutPolicy(allow_downgrade=True))).offered


def test_a_package_that_the_device_lacks_is_shown_once_it_is_meant() -> None:
    one = shown(device(packages={}), announced())
    assert (one.installed, one.latest, one.offered) == (None, "2.0.0", True)
    assert packages_of(device(packages={}), {("stable", "tacho"): announced(targets=Targets(upto=0))}, None) == []


@pytest.mark.parametrize("phase", list(Phase))
def test_progress_is_shown_from_fetching_until_the_device_has_proven_it_or_is_back(phase: Phase) -> None:
    working = {Phase.FETCHING, Phase.STAGED, Phase.SWITCHED, Phase.PROBATION, Phase.ROLLING_BACK}
    one = shown(device(update=update(phase, progress=Progress(bytes_done=1, bytes_total=3))), announced())
    assert one.in_progress == (phase in working)
    assert one.percent == (33 if phase is Phase.FETCHING else None)


def test_another_package_s_update_is_not_this_one_s() -> None:
    one = shown(device(update=update(Phase.FETCHING, package="needle")), announced())
    assert (one.in_progress, one.percent) == (False, None)


def test_numbers_that_make_no_sense_stay_within_a_hundred() -> None:
    for done, total, percent in ((5, 0, 0), (9, 3, 100)):
        there = device(update=update(Phase.FETCHING, progress=Progress(bytes_done=done, bytes_total=total)))
        assert shown(there, announced()).percent == percent


def test_a_version_that_is_none_is_left_to_the_device_to_judge() -> None:
    assert shown(device(packages={"tacho": installed("what?")}), announced()).offered
