"""What fails before the switch leaves the running release alone, and says why."""

from typing import Any

import pytest

from device_agent.updates import DeviceProfile
from schemas.errors import FlotillaError, PublisherError, TrustError
from schemas.manifest import Requires, Template
from schemas.messages import ErrorReport
from tests.unit.agent.device import Device
from tests.unit.agent.releases import build, files_of

ONE, TWO = build(version="1.0.0"), build(version="1.1.0")


@pytest.fixture
async def updated(device: Device) -> Device:
    await device.update_to(ONE, 1)
    device.power.calls.clear()
    return device


async def test_a_hook_that_refuses(updated: Device) -> None:
    updated.hooks.failing.add(("pre_switch", "1.1.0"))
    update = await updated.update_to(build(version="1.1.0", hooks=("pre_switch",)), 2)
    assert updated.story(update.id) == ["accepted", "fetching", "staged", "failed"]
    assert not [call for call in updated.power.calls if call.startswith(("stop", "start"))]
    updated.assert_runs(ONE, spare_objects=True)


@pytest.mark.parametrize(
    "error",
    [
        TrustError("trust.expired", "the metadata expired yesterday"),
        TrustError("trust.unsigned", "nobody vouches for it"),
        PublisherError("manifest.bad", "a rule is broken"),
    ],
)
async def test_what_is_not_vouched_for_is_rejected(updated: Device, error: FlotillaError) -> None:
    updated.shelf.resolve_errors.append(error)
    update = await updated.update_to(TWO, 2)
    assert updated.story(update.id) == ["accepted", "rejected"]
    assert update.error == ErrorReport(code=error.code, message=error.message)
    assert "fetch" not in updated.power.calls
    updated.assert_runs(ONE)


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"requires": Requires(agent=">=2")}, "requires.agent"),
        ({"requires": Requires(packages={"engine": "^1"})}, "requires.packages"),
        ({"requires": Requires(packages={"tacho": "^2"})}, "requires.packages"),
        ({"requires": Requires(upgrade_from=">=1.0.5")}, "requires.upgrade_from"),
        ({"requires": Requires(hardware=["Pi Zero*", "Pi 5*"])}, "requires.hardware"),
        ({"platform": "linux-x86_64"}, "requires.platform"),
        ({"settings": {"port": None}}, "requires.setting"),
        ({"version": "0.9.0"}, "requires.downgrade"),
    ],
)
async def test_what_is_not_for_this_device_is_rejected(updated: Device, more: dict[str, Any], code: str) -> None:
    update = await updated.update_to(build(**{"version": "1.1.0", **more}), 2)
    assert updated.story(update.id) == ["accepted", "rejected"]
    assert update.error is not None
    assert update.error.code == code
    assert "fetch" not in updated.power.calls
    updated.assert_runs(ONE)


async def test_a_setting_that_a_template_lacks_is_a_rejection_too(updated: Device) -> None:
    files = files_of("1.1.0") | {"etc/app.conf.in": (b"site=${tags.site}\n", 0o644)}
    template = [Template(source="etc/app.conf.in", target="etc/app.conf")]
    update = await updated.update_to(build(version="1.1.0", files=files, templates=template), 2)
    assert updated.story(update.id) == ["accepted", "fetching", "rejected"]
    assert update.error is not None
    assert update.error.code == "requires.setting"
    updated.assert_runs(ONE, spare_objects=True)


async def test_a_defect_in_a_step_is_told_as_one(updated: Device) -> None:
    def broken() -> DeviceProfile:
        raise ValueError("a fact is odd")

    updated.profile_of = broken
    update = await updated.update_to(TWO, 2)
    assert update.error is not None
    assert (update.error.code, update.error.message) == ("internal.error", "ValueError: a fact is odd")
    assert updated.story(update.id) == ["accepted", "failed"]
