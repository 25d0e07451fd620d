"""Whatever comes between, or fails: the channel and what is announced never come apart."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import TimeoutError as PoolTimeout

from controller.fleet.intake_store import IntakeStore
from controller.fleet.registry import DeviceRegistry
from controller.http.releasing import Releasing
from controller.http.views import ReleaseWish, SetWish
from controller.rollouts.plan import RolloutState
from controller.rollouts.store import RolloutStore
from controller.rollouts.views import Rollout
from controller.settings import ControllerSettings, HttpAddress
from schemas.errors import OperatorError
from tests.support.in_process import FILE_TOKEN, application, bearer
from tests.support.repository import add_release
from tests.unit.fleet.builders import NOW, installed, reported_in

SETTINGS = ControllerSettings(data=Path("unused"), http=HttpAddress(host="127.0.0.1", port=1), broker=None)


class Site:
    """Stands for the repository and the fleet: what channel `stable` points at, and what is announced on it."""

    def __init__(self) -> None:
        self.points: dict[str, str] = {}
        self.announced: set[str] = set()
        self.failing: Exception | None = None
        self.steering = self

    def channel_of(self, package: str, _channel: str) -> str | None:
        return self.points.get(package)

    def set_channel(self, package: str, version: str, _channel: str, **_: object) -> None:
        self.points[package] = version

    def unset_channel(self, package: str, _channel: str) -> bool:
        if self.failing:
            raise self.failing
        return self.points.pop(package, None) is not None

    def create_release(self, *, package: str, **_: object) -> None:
        if self.failing:
            raise self.failing
        self.announced.add(package)

    def create_set(self, *, packages: Mapping[str, str], **_: object) -> None:
        if self.failing:
            raise self.failing
        self.announced |= {*packages}

    def near(self, _package: str) -> list[str]:
        return []

    def withdraw(self, channel: str, package: str, **_: object) -> None:
        if package not in self.announced:
            raise OperatorError("rollout.unknown", f"channel {channel} announces no package {package}")
        self.announced.remove(package)


def releasing_at(site: Site) -> Releasing:
    return Releasing(site, site, SETTINGS)  # type: ignore[arg-type]  # what it needs of both


def test_a_withdrawal_that_was_cut_short_is_finished_by_the_second_try() -> None:
    site = Site()
    releasing = releasing_at(site)
    releasing.start(ReleaseWish(package="tacho", version="1.0.0", channel="stable"))
    site.failing = OperatorError("disk.full", "the disk is full")
    with pytest.raises(OperatorError, match="full"):
        releasing.withdraw("tacho", "stable")
    assert (site.points, site.announced) == ({"tacho": "1.0.0"}, set())
    site.failing = None
    with pytest.raises(OperatorError, match="announces no package tacho; it still pointed at one") as refused:
        releasing.withdraw("tacho", "stable")
    assert refused.value.code == "rollout.unknown"
    assert site.points == {}
    with pytest.raises(OperatorError, match=r"announces no package tacho$"):
        releasing.withdraw("tacho", "stable")


def test_a_channel_is_put_back_whatever_kept_the_release_from_being_announced() -> None:
    site = Site()
    releasing = releasing_at(site)
    releasing.start(ReleaseWish(package="tacho", version="1.0.0", channel="stable"))
    site.failing = PoolTimeout("no connection is free")
    with pytest.raises(PoolTimeout):
        releasing.start(ReleaseWish(package="tacho", version="2.0.0", channel="stable"))
    assert site.points == {"tacho": "1.0.0"}


def test_what_cannot_be_put_back_is_said_and_hides_neither_the_reason_nor_the_rest(
    caplog: pytest.LogCaptureFixture,
) -> None:
    site = Site()
    releasing = releasing_at(site)
    releasing.start(ReleaseWish(package="tacho", version="1.0.0", channel="stable"))
    site.failing = PoolTimeout("no connection is free")
    with pytest.raises(PoolTimeout):
        releasing.start_set(SetWish(packages={"tacho": "2.0.0", "nix": "2.0.0"}, channel="stable"))
    assert site.points == {"tacho": "1.0.0", "nix": "2.0.0"}
    assert "channel stable of nix can't be put back: no connection is free" in caplog.text


class Recorder:
    """Stands for the repository and the fleet; holds the first release open until the second has begun or waits."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.second_asked = threading.Event()
        self.steering = self

    def channel_of(self, _package: str, _channel: str) -> str | None:
        return None

    def set_channel(self, _package: str, version: str, _channel: str) -> None:
        self.said.append(f"channel {version}")
        if version == "1.0.0":
            self.second_asked.wait(10)

    def create_release(self, *, version: str, **_: object) -> Rollout | None:
        self.said.append(f"announced {version}")
        return None


def test_one_release_is_announced_before_the_next_one_touches_the_channel() -> None:
    recorder = Recorder()
    releasing = Releasing(recorder, recorder, SETTINGS)  # type: ignore[arg-type]  # what it needs of both

    def announce(version: str) -> None:
        releasing.start(ReleaseWish(package="tacho", version=version, channel="stable"))

    first = threading.Thread(target=announce, args=("1.0.0",))
    second = threading.Thread(target=announce, args=("1.1.0",))
    first.start()
    while not recorder.said:
        first.join(0.01)
    second.start()
    # long enough for the second to run into the channel if nothing kept it from doing so
    second.join(0.3)
    recorder.second_asked.set()
    first.join(10)
    second.join(10)
    assert recorder.said == ["channel 1.0.0", "announced 1.0.0", "channel 1.1.0", "announced 1.1.0"]


def test_a_release_on_a_channel_that_nobody_follows_says_which_are_followed_and_how_to_take_it_back(
    tmp_path: Path,
) -> None:
    with application(tmp_path) as app:
        add_release(app.repository, "tacho", "1.0.0", {"a": "a"})
        IntakeStore(app.engine).take_in([reported_in("pi-1")], NOW)
        nobody = "no device that was heard of follows channel stabel; devices follow stable"
        undo = "to take it back: flotilla withdraw tacho --channel stabel"
        for channel, warnings in (("stable", []), ("stabel", [f"{nobody}; {undo}"])):
            wish = {"package": "tacho", "version": "1.0.0", "channel": channel}
            made = app.client.post("/api/v1/releases", json=wish, headers=bearer(FILE_TOKEN))
            assert (made.status_code, made.json()["warnings"]) == (201, warnings)


def test_a_release_is_announced_though_nobody_can_say_what_to_warn_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def locked(*_: object, **__: object) -> str:
        raise OperatorError("data.bad", "database is locked")

    monkeypatch.setattr(DeviceRegistry, "nobody_follows", locked)
    with application(tmp_path) as app:
        add_release(app.repository, "tacho", "1.0.0", {"a": "a"})
        wish = {"package": "tacho", "version": "1.0.0", "channel": "stable"}
        made = app.client.post("/api/v1/releases", json=wish, headers=bearer(FILE_TOKEN))
        assert (made.status_code, made.json()["warnings"]) == (201, [])
    assert "is announced, and not looked at for what to warn of: database is locked" in caplog.text


def test_a_release_that_devices_refuse_as_older_says_how_many_do(tmp_path: Path) -> None:
    with application(tmp_path) as app:
        add_release(app.repository, "tacho", "1.0.0", {"a": "a"})
        runs = {"tacho": installed("1.1.0")}
        IntakeStore(app.engine).take_in([reported_in(f"pi-{number}", packages=runs) for number in range(3)], NOW)
        line = (
            "3 devices run something newer than tacho 1.0.0 and refuse it (requires.downgrade)"
            " without --allow-downgrade"
        )
        for policy, warnings in (({}, [line]), ({"allow_downgrade": True}, [])):
            if policy:
                RolloutStore(app.engine).withdraw("stable", "tacho")
            wish = {"package": "tacho", "version": "1.0.0", "channel": "stable", "policy": policy}
            made = app.client.post("/api/v1/releases", json=wish, headers=bearer(FILE_TOKEN))
            assert (made.status_code, made.json()["warnings"]) == (201, warnings)


def test_a_set_says_of_each_package_what_a_release_of_it_would_say(tmp_path: Path) -> None:
    with application(tmp_path) as app:
        for name in ("needle", "tacho"):
            add_release(app.repository, name, "1.0.0", {"a": name})
        runs = {"needle": installed("0.9.0"), "tacho": installed("1.1.0")}
        IntakeStore(app.engine).take_in([reported_in("pi-1", packages=runs)], NOW)
        wish = {"packages": {"needle": "1.0.0", "tacho": "1.0.0"}, "channel": "stable"}
        made = app.client.post("/api/v1/releases/sets", json=wish, headers=bearer(FILE_TOKEN))
        assert made.status_code == 201
        line = (
            "1 device runs something newer than tacho 1.0.0 and refuses it (requires.downgrade)"
            " without --allow-downgrade"
        )
        assert {one["package"]: one["warnings"] for one in made.json()} == {"needle": [], "tacho": [line]}


def test_a_release_for_some_says_how_many_are_offered_the_package_no_more(tmp_path: Path) -> None:
    with application(tmp_path) as app:
        for version in ("1.0.0", "1.1.0"):
            add_release(app.repository, "tacho", version, {"a": version})
        sites = {f"pi-{number}": {"site": "bern" if number < 3 else "thun"} for number in range(5)}
        IntakeStore(app.engine).take_in([reported_in(device, tags=tags) for device, tags in sites.items()], NOW)
        some = {"upto": 0, "devices": ["pi-1"]}

        def warned(path: str, version: str, targets: Mapping[str, Any]) -> list[str]:
            wish = {"package": "tacho", "version": version, "channel": "stable", "targets": targets}
            answer = app.client.post(f"/api/v1/releases{path}", json=wish, headers=bearer(FILE_TOKEN))
            assert answer.status_code < 300
            warnings: list[str] = answer.json()["warnings"]
            return [one for one in warnings if not one.startswith(("it takes the place of", "it begins anew"))]

        def line(who: str, are: str = "are") -> str:
            return (
                f"{who} of channel stable {are} not meant by this release and {are} offered no tacho from now on;"
                " to begin with some and go on to all: --wave"
            )

        assert warned("/preflight", "1.0.0", some) == warned("", "1.0.0", {}) == []  # nobody was offered any
        for targets, who in (
            (some, "4 devices"),
            ({"where": {"site": "bern"}}, "2 devices"),
            ({**some, "exclude": ["pi-2"]}, "3 devices"),
        ):
            assert warned("/preflight", "1.1.0", targets) == [line(who)]
            assert warned("", "1.1.0", targets) == [line(who)]
            assert warned("/preflight", "1.0.0", {}) == warned("", "1.0.0", {}) == []
        assert line("about 2 devices") in warned("/preflight", "1.1.0", {"upto": 5000})
        assert line("1 device", "is") in warned("", "1.1.0", {"upto": 0, "devices": ["pi-0", "pi-1", "pi-2", "pi-3"]})
        # who was not offered it before loses nothing
        assert warned("", "1.1.0", some) == [line("3 devices")]
        assert warned("", "1.1.0", some) == []


@pytest.mark.parametrize("state", [RolloutState.HALTED, RolloutState.REVERTED])
def test_a_release_for_some_takes_nothing_from_whom_a_stopped_rollout_offered_nothing(
    tmp_path: Path, state: RolloutState
) -> None:
    with application(tmp_path) as app:
        add_release(app.repository, "tacho", "1.0.0", {"a": "a"})
        IntakeStore(app.engine).take_in([reported_in("pi-1"), reported_in("pi-2")], NOW)
        wish: dict[str, Any] = {"package": "tacho", "version": "1.0.0", "channel": "stable"}
        made = app.client.post("/api/v1/releases", json=wish, headers=bearer(FILE_TOKEN)).json()
        RolloutStore(app.engine).set_state(made["id"], state)
        wish["targets"] = {"upto": 0, "devices": ["pi-1"]}
        for path in ("/preflight", ""):
            answer = app.client.post(f"/api/v1/releases{path}", json=wish, headers=bearer(FILE_TOKEN))
            assert answer.json()["warnings"] == []


def test_a_set_for_some_names_no_waves_as_it_can_have_none(tmp_path: Path) -> None:
    with application(tmp_path) as app:
        for name in ("needle", "tacho"):
            add_release(app.repository, name, "1.0.0", {"a": name})
        IntakeStore(app.engine).take_in([reported_in("pi-1"), reported_in("pi-2")], NOW)
        wish: dict[str, Any] = {"packages": {"needle": "1.0.0", "tacho": "1.0.0"}, "channel": "stable"}
        app.client.post("/api/v1/releases/sets", json=wish, headers=bearer(FILE_TOKEN))
        wish["targets"] = {"upto": 0, "devices": ["pi-1"]}
        made = app.client.post("/api/v1/releases/sets", json=wish, headers=bearer(FILE_TOKEN))
        said = "1 device of channel stable is not meant by this release and is offered no {} from now on"
        assert {one["package"]: one["warnings"][1:] for one in made.json()} == {
            name: [said.format(name)] for name in ("needle", "tacho")
        }


def test_a_release_says_which_rollout_that_is_under_way_it_ends(tmp_path: Path) -> None:
    with application(tmp_path) as app:
        for version in ("1.0.0", "1.1.0"):
            add_release(app.repository, "tacho", version, {"a": version})
        IntakeStore(app.engine).take_in([reported_in("pi-1")], NOW)

        def asked(path: str, wish: object) -> Any:
            answer = app.client.post(f"/api/v1/{path}", json=wish, headers=bearer(FILE_TOKEN))
            assert answer.status_code < 300, answer.text
            return answer.json()

        old, new = ({"package": "tacho", "version": version, "channel": "stable"} for version in ("1.0.0", "1.1.0"))
        rollout = asked("releases", old)
        assert rollout["warnings"] == []
        (again,) = asked("releases/preflight", old)["warnings"]
        assert again == (
            f"it begins anew, in the place of the rollout of this version that is still under way ({rollout['id']})"
        )
        line = f"it takes the place of tacho 1.0.0, which is still under way (rollout {rollout['id']})"
        assert asked("releases/preflight", new)["warnings"] == [line]
        made = asked("releases", new)
        assert made["warnings"] == [line]
        # whoever mends what was stopped knows
        asked(f"rollouts/{made['id']}/state", {"state": "halted"})
        assert asked("releases", old)["warnings"] == []


def test_what_devices_run_or_may_go_back_to_is_deleted_only_when_asked_for_expressly(tmp_path: Path) -> None:
    with application(tmp_path) as app:
        for version in ("1.0.0", "1.1.0", "1.2.0", "1.3.0"):
            add_release(app.repository, "tacho", version, {"a": version})
        runs = {"tacho": installed("1.1.0", previous="1.0.0")}
        IntakeStore(app.engine).take_in([reported_in("pi-1", packages=runs), reported_in("pi-2")], NOW)
        pinned = app.client.put(
            "/api/v1/devices/pi-2/desired", json={"pins": {"tacho": "1.2.0"}}, headers=bearer(FILE_TOKEN)
        )
        assert pinned.is_success

        def delete(version: str, **query: str) -> Any:
            return app.client.delete(f"/api/v1/packages/tacho/{version}", params=query, headers=bearer(FILE_TOKEN))

        for version in ("1.0.0", "1.1.0", "1.2.0"):
            refused = delete(version)
            assert (refused.status_code, refused.json()["code"]) == (409, "release.in_use")
            assert f"devices run tacho {version}, may go back to it or are held at it" in refused.json()["detail"]
            assert app.repository.has("tacho", version)
        assert delete("1.3.0").status_code == 204
        assert delete("1.0.0", although_in_use="true").status_code == 204
        assert not app.repository.has("tacho", "1.0.0")
