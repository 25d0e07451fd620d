"""Who takes a pin back is told where the device refuses what its channel has."""

from pathlib import Path
from typing import Any

import pytest

from controller.fleet.intake_store import IntakeStore
from tests.support.in_process import FILE_TOKEN, application, bearer
from tests.support.repository import add_release
from tests.unit.fleet.builders import NOW, installed, presence_in, reported_in

HEADERS = bearer(FILE_TOKEN)


def test_a_device_that_was_pinned_to_something_newer_than_its_channel_has(tmp_path: Path) -> None:
    with application(tmp_path) as app:

        def asked(method: str, path: str, wish: object) -> Any:
            done = app.client.request(method, f"/api/v1/{path}", json=wish, headers=HEADERS)
            assert done.is_success, done.text
            return done.json()

        def dialog() -> str:
            return app.client.get("/devices/pi-1/do/unpin", headers={**HEADERS, "Accept": "text/html"}).text

        for version in ("1.3.0", "1.4.0"):
            add_release(app.repository, "tacho", version, {"a": version})
        intake = IntakeStore(app.engine)
        intake.take_in([presence_in("pi-1"), reported_in("pi-1", packages={"tacho": installed("1.4.0")})], NOW)
        release = {"package": "tacho", "version": "1.3.0", "channel": "stable"}
        pinned, free = {"pins": {"tacho": "1.4.0"}}, {"pins": {"tacho": "1.3.0"}}
        asked("PUT", "devices/pi-1/desired", pinned)
        # nothing is announced yet that it could refuse
        assert asked("PUT", "devices/pi-1/desired", {})["warnings"] == []
        asked("POST", "releases", release)
        assert asked("PUT", "devices/pi-1/desired", pinned)["warnings"] == []
        assert "pi-1 runs tacho 1.4.0 and refuses the older 1.3.0 of channel stable" in dialog()  # before it is done
        (warning,) = asked("PUT", "devices/pi-1/desired", {})["warnings"]
        assert warning == (
            "pi-1 runs tacho 1.4.0 and refuses the older 1.3.0 of channel stable (requires.downgrade); "
            "told --pin tacho=1.3.0 beside all else that it is told, it goes there"
        )
        asked("PUT", "devices/pi-1/desired", free)
        assert "refuses" in dialog()
        intake.take_in([reported_in("pi-1", 1, packages={"tacho": installed("1.3.0")})], NOW)
        assert "Take the pin off?" in dialog()
        assert "refuses" not in dialog()
        assert asked("PUT", "devices/pi-1/desired", {})["warnings"] == []
        # where the release itself allows it, it goes back
        intake.take_in([reported_in("pi-1", 2, packages={"tacho": installed("1.4.0")})], NOW)
        asked("POST", "releases", release | {"policy": {"allow_downgrade": True}})
        asked("PUT", "devices/pi-1/desired", pinned)
        assert asked("PUT", "devices/pi-1/desired", {})["warnings"] == []


@pytest.mark.parametrize("how", ["reverted", "excluded"])
def test_who_is_offered_nothing_refuses_nothing(tmp_path: Path, how: str) -> None:
    with application(tmp_path) as app:

        def asked(method: str, path: str, wish: object) -> Any:
            done = app.client.request(method, f"/api/v1/{path}", json=wish, headers=HEADERS)
            assert done.is_success, done.text
            return done.json()

        for version in ("1.3.0", "1.4.0"):
            add_release(app.repository, "tacho", version, {"a": version})
        intake = IntakeStore(app.engine)
        for name, runs in (("pi-1", "1.4.0"), ("pi-2", "1.2.0")):
            intake.take_in([presence_in(name), reported_in(name, packages={"tacho": installed(runs)})], NOW)
        targets = {"exclude": ["pi-1"]} if how == "excluded" else {}
        wish = {"package": "tacho", "version": "1.3.0", "channel": "stable", "targets": targets}
        rollout = asked("POST", "releases", wish)["id"]
        if how == "reverted":
            asked("POST", f"rollouts/{rollout}/state", {"state": "reverted"})
        asked("PUT", "devices/pi-1/desired", {"pins": {"tacho": "1.4.0"}})
        assert asked("PUT", "devices/pi-1/desired", {})["warnings"] == []
