"""The stories of an operator at the page, in a real Chromium, with a real controller and broker."""

import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from schemas.messages import InstalledPackage, Phase, ReleaseState, Verb
from tests.support.broker import Broker
from tests.support.browser import PHONE, WAIT_MS, looking, needs_chromium
from tests.support.controller import ControllerProcess
from tests.support.fake_device import FakeDevice, fake_device
from tests.support.repository import make_package

pytestmark = [pytest.mark.broker, needs_chromium]

Unique = Callable[[str], str]
GOOD = (Phase.ACCEPTED, Phase.FETCHING, Phase.STAGED, Phase.SWITCHED, Phase.PROBATION, Phase.SUCCEEDED)
BAD = (Phase.ACCEPTED, Phase.FETCHING, Phase.STAGED, Phase.SWITCHED, Phase.PROBATION, Phase.ROLLED_BACK)

expect.set_options(timeout=WAIT_MS)


@asynccontextmanager
async def fleet(
    controller: ControllerProcess, broker: Broker, names: list[str], *, channel: str, package: str, version: str
) -> AsyncIterator[list[FakeDevice]]:
    """Devices on a channel that run a version of a package, as the controller knows."""
    async with AsyncExitStack() as stack:
        made = [
            await stack.enter_async_context(
                fake_device(broker.url, name, topic_root=controller.topic_root, channel=channel)
            )
            for name in names
        ]
        for device in made:
            await device.report(packages={package: installed(version)})
        controller.until(lambda: all(_known(controller, name) for name in names))
        yield made


def installed(version: str) -> InstalledPackage:
    return InstalledPackage(
        version=version,
        manifest="ab" * 32,
        installed_at=datetime.now(UTC),
        previous=None,
        phase=Phase.SUCCEEDED,
        rollout=None,
    )


def _known(controller: ControllerProcess, name: str) -> bool:
    answer = controller.get(f"/devices/{name}")
    return answer.status == 200 and answer.json()["channel"] is not None


def push(controller: ControllerProcess, folder: Path, package: str, version: str, files: dict[str, str]) -> None:
    answer = controller.push(make_package(folder, package, version, files))
    assert answer.status == 201, answer.body


async def confirm(page: Page, button: str) -> None:
    """Press the button of the dialog that has opened."""
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_be_visible()
    await dialog.get_by_role("button", name=button, exact=True).click()


async def test_publishing_a_version_and_seeing_it_arrive(
    controller: ControllerProcess, broker: Broker, unique: Unique, tmp_path: Path
) -> None:
    package, channel, name = unique("tacho"), unique("ch"), unique("pi")
    push(controller, tmp_path, package, "1.0.0", {"app": "one", "kept": "k", "gone": "g"})
    push(controller, tmp_path, package, "1.1.0", {"app": "two", "kept": "k", "new": "n" * 100})
    async with (
        fleet(controller, broker, [name], channel=channel, package=package, version="1.0.0") as (device,),
        looking(controller.url) as page,
    ):
        await page.goto("/packages")
        await page.get_by_placeholder("part of a name").fill(package)
        await page.get_by_role("button", name="Find").click()
        await page.get_by_role("link", name=package, exact=True).click()
        await page.get_by_role("link", name="since 1.0.0").click()
        numbers = page.locator(".numbers")
        await expect(numbers).to_contain_text("Added1")
        await expect(numbers).to_contain_text("Changed1")
        await expect(numbers).to_contain_text("Removed1")
        await expect(numbers).to_contain_text("As before1")

        await page.get_by_role("link", name="1.1.0", exact=True).click()
        await page.get_by_role("link", name="Release", exact=True).click()
        dialog = page.get_by_role("dialog")
        # what it would do is shown as soon as it is known for whom; the only channel of a fleet is filled in already
        await dialog.get_by_label("Channel").fill(channel)
        await dialog.get_by_label("Channel").press("Tab")
        await expect(dialog).to_contain_text("1 of 1 device would take it now")
        await expect(dialog).to_contain_text("by the plan all-at-once")
        # another plan is looked at as soon as it is chosen
        await dialog.get_by_label("Plan").select_option("canary")
        await expect(dialog).to_contain_text("by the plan canary")
        await dialog.get_by_label("Plan").select_option("all-at-once")
        await expect(dialog).to_contain_text("by the plan all-at-once")
        await confirm(page, "Release")
        await expect(page).to_have_url(re.compile("/rollouts/"))
        await expect(page.get_by_role("status")).to_contain_text("Released")

        announced = await device.announcement("1.1.0")
        grid = page.locator("canvas.grid")
        await expect(grid).to_have_attribute("data-cells", "p")
        await device.update(announced, *GOOD[:2])
        await expect(grid).to_have_attribute("data-cells", "f")
        await device.update(announced, *GOOD[2:])
        await expect(page.locator(".numbers")).to_contain_text("Have it1 of 1")
        await grid.focus()
        await page.keyboard.press("ArrowRight")
        await expect(page.locator("#cell")).to_contain_text(name)


async def test_watching_a_canary_fail_finding_the_reason_and_reverting_it(
    controller: ControllerProcess, broker: Broker, unique: Unique, tmp_path: Path
) -> None:
    package, channel = unique("tacho"), unique("ch")
    names = sorted(unique("pi") for _ in range(3))
    push(controller, tmp_path, package, "1.2.0", {"app": "broken"})
    async with (
        fleet(controller, broker, names, channel=channel, package=package, version="1.1.0") as devices,
        looking(controller.url) as page,
    ):
        plan = {"name": "one first", "wave": [{"devices": 1}, {"upto": 100}], "on_failure": "halt"}
        wish = {"package": package, "version": "1.2.0", "channel": channel, "plan": plan}
        rollout = controller.send("POST", "/releases", wish).json()["id"]
        await page.goto("/")
        await page.locator(f'a[href="/rollouts/{rollout}"]').click()
        grid, waves = page.locator("canvas.grid"), page.locator(".waves > li")
        await expect(waves).to_have_count(2)
        announced = await devices[0].announcement("1.2.0")
        (canary,) = announced.targets.devices
        await next(one for one in devices if one.id == canary).update(announced, *BAD)

        await expect(grid).to_have_attribute("data-cells", re.compile("^k[hi]{2}$"))
        await expect(waves.first).to_contain_text("failed")
        await expect(page.locator(".state", has_text="halted")).to_be_visible()
        await expect(page.locator(".because")).to_contain_text("wave 1")
        wrong = page.locator("section", has_text="What went wrong").locator("details")
        await expect(wrong).to_contain_text("health.http")
        await expect(wrong.locator(".log")).to_have_text("first line\nlast line")
        await expect(wrong.get_by_role("link", name=canary)).to_be_visible()
        await page.locator(".legend").get_by_role("link", name="rolled back").click()
        await expect(page.locator("#devices tbody tr")).to_have_count(1)

        await page.get_by_role("link", name="Revert").click()
        dialog = page.get_by_role("dialog")
        await expect(dialog).to_contain_text(f"{package} 1.2.0 on {channel}")
        await dialog.get_by_role("link", name="Leave it").click()
        await expect(dialog).to_be_hidden()
        assert controller.get(f"/rollouts/{rollout}").json()["rollout"]["state"] == "halted"
        await page.get_by_role("link", name="Revert").click()
        await confirm(page, "Revert")
        await expect(page.get_by_role("status")).to_contain_text("devices go back")
        for device in devices:
            await device.until(lambda device=device: device.announcements[-1].state is ReleaseState.REVERTED)
        await expect(page.get_by_role("link", name="Revert")).to_have_count(0)
        # nothing waits any more, and it says who did it
        await expect(page.locator("main")).to_contain_text("reverted by somebody at the controller's machine")
        await expect(waves.last).to_contain_text("ended")
        await expect(waves.last).to_contain_text("the rollout was reverted; it never began")
        await expect(grid).to_have_attribute("data-cells", re.compile("^kvv$"))
        await expect(page.locator(".legend")).to_contain_text("not begun")


async def test_saying_go_to_the_next_wave(controller: ControllerProcess, broker: Broker, unique: Unique) -> None:
    package, channel = unique("tacho"), unique("ch")
    names = sorted(unique("pi") for _ in range(2))
    answer = controller.push(make_package(Path(controller.data.parent), package, "1.2.0", {"app": "new"}))
    assert answer.status == 201
    async with (
        fleet(controller, broker, names, channel=channel, package=package, version="1.1.0") as devices,
        looking(controller.url) as page,
    ):
        plan = {"name": "ask me", "wave": [{"devices": 1}, {"upto": 100, "approval": True}]}
        wish = {"package": package, "version": "1.2.0", "channel": channel, "plan": plan}
        rollout = controller.send("POST", "/releases", wish).json()["id"]
        await page.goto(f"/rollouts/{rollout}")
        announced = await devices[0].announcement("1.2.0")
        first = next(one for one in devices if one.id in announced.targets.devices)
        await first.update(announced, *GOOD)
        await first.report(packages={package: installed("1.2.0")})
        await page.get_by_role("link", name="Approve the next wave").click()
        await confirm(page, "Approve the next wave")
        await expect(page.get_by_role("status")).to_contain_text("Approved")
        await devices[0].until(lambda: devices[0].announcements[-1].targets.upto == 10_000)


async def test_pinning_a_device_and_asking_it_for_a_report(
    controller: ControllerProcess, broker: Broker, unique: Unique
) -> None:
    package, channel, name = unique("tacho"), unique("ch"), unique("pi")
    async with (
        fleet(controller, broker, [name], channel=channel, package=package, version="1.0.0") as (device,),
        looking(controller.url, refusals=True) as page,
    ):
        await page.goto("/")
        await page.get_by_placeholder("Find a device").fill(name[-6:])
        await page.keyboard.press("Enter")
        await page.get_by_role("link", name=name).click()
        await page.get_by_role("link", name=f"Pin {package}").click()
        version = page.get_by_label("Version")
        await expect(version).to_have_value("1.0.0")
        await version.fill("new")
        await confirm(page, "Pin")
        await expect(page.get_by_role("alert")).to_contain_text("'new'")
        await expect(version).to_have_value("new")
        await version.fill("1.0.0")
        await confirm(page, "Pin")
        await expect(page.get_by_role("status")).to_contain_text("Pinned")
        await expect(page.get_by_text("pinned to 1.0.0")).to_be_visible()
        await device.until(lambda: device.desired and device.desired[-1].pins == {package: "1.0.0"})

        # a key that is pressed before the scripts have run follows the link, which is right too, but no dialog
        await page.wait_for_load_state("load")
        await page.get_by_role("link", name="Ask for a report").focus()
        await page.keyboard.press("Enter")
        await confirm(page, "Report")
        await device.until(lambda: [one.verb for one in device.commands] == [Verb.REPORT])
        await page.get_by_role("link", name=f"Take the pin off {package}").click()
        await confirm(page, "Take the pin off")
        await device.until(lambda: not device.desired[-1].pins)


async def test_a_phone_shows_every_page_without_scrolling_sideways(
    controller: ControllerProcess, broker: Broker, unique: Unique, tmp_path: Path
) -> None:
    package, channel = unique("a-rather-long-name-of-a-package"), unique("channel")
    names = [unique("pi-with-a-rather-long-name-in-the-kitchen") for _ in range(2)]
    for version in ("1.0.0", "1.1.0-rc.1"):
        push(controller, tmp_path, package, version, {f"a/rather/long/path/to/a/file/of/{version}": version})
    async with (
        fleet(controller, broker, names, channel=channel, package=package, version="1.0.0") as (device, _),
        looking(controller.url, size=PHONE, scheme="dark") as page,
    ):
        wish = {"package": package, "version": "1.1.0-rc.1", "channel": channel}
        rollout = controller.send("POST", "/releases", wish).json()["id"]
        await device.update(await device.announcement("1.1.0-rc.1"), *BAD)
        device_page, version_page = f"/devices/{names[0]}", f"/packages/{package}/1.1.0-rc.1"
        compared = f"/packages/{package}/compare?from=1.0.0&to=1.1.0-rc.1"
        rollout_page = f"/rollouts/{rollout}"
        for path in (
            "/",
            "/devices",
            device_page,
            f"{device_page}/do/hold",
            "/rollouts",
            rollout_page,
            f"{rollout_page}/do/halt",
            "/packages",
            f"/packages/{package}",
            version_page,
            compared,
            f"{version_page}/do/release",
        ):
            await page.goto(path)
            await expect(page.locator("main")).to_be_visible()
            width = await page.evaluate("document.documentElement.scrollWidth")
            assert width <= PHONE[0], (path, width)


async def test_without_scripts_everything_can_be_asked_for(
    controller: ControllerProcess, broker: Broker, unique: Unique
) -> None:
    package, channel, name = unique("tacho"), unique("ch"), unique("pi")
    async with (
        fleet(controller, broker, [name], channel=channel, package=package, version="1.0.0") as (device,),
        looking(controller.url, scripts=False) as page,
    ):
        await page.goto(f"/devices/{name}")
        await page.get_by_role("link", name="Hold", exact=True).click()
        await page.get_by_role("button", name="Hold").click()
        await expect(page.get_by_role("status")).to_contain_text("Held")
        await device.until(lambda: device.desired and device.desired[-1].hold)


async def test_what_a_device_says_is_shown_and_never_run(
    controller: ControllerProcess, broker: Broker, unique: Unique
) -> None:
    channel, name = unique("ch"), unique("pi")
    evil = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    async with (
        fleet(controller, broker, [name], channel=channel, package="tacho", version="1.0.0") as (device,),
        looking(controller.url) as page,
    ):
        await page.goto(f"/devices/{name}")
        await device.report(facts={"model": evil, "services": evil}, tags={"site": evil})
        await device.say(Phase.DEFERRED, detail={"reason": evil + "\r\nevent: device\r\ndata: gone\r\n\r\n"})
        await expect(page.locator(".now")).to_contain_text("<script>alert(2)</script>")
        assert await page.locator("main img, main script").count() == 0
