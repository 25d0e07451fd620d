"""Whole updates: the chain of events, the release that runs afterwards file by file, and what happened on the way."""

import asyncio
import itertools
from datetime import timedelta
from pathlib import Path

from device_agent.layout import FIXED_MTIME
from device_agent.updates import Answer, Origin, Submitted
from schemas.manifest import Requires
from schemas.messages import Phase, Progress
from tests.unit.agent.device import Device, rollout, until
from tests.unit.agent.releases import PLATFORM, build

ONE, TWO = build(version="1.0.0"), build(version="1.1.0")

WELL = ["accepted", "fetching", "staged", "switched", "probation", "succeeded"]
UNDONE = ["accepted", "fetching", "staged", "switched", "rolling_back", "rolled_back"]


async def test_a_first_installation_ends_with_the_whole_release_running(device: Device) -> None:
    one = build(version="1.0.0")
    update = await device.update_to(one)
    assert device.story(update.id) == WELL
    device.assert_runs(one)
    assert {event.from_version for event in device.events()} == {None}
    assert (device.folders.package("tacho").state / "data/seed.txt").read_bytes() == b"first content\n"


async def test_an_update_keeps_the_release_before_it_and_only_that(device: Device) -> None:
    one, two, three = (build(version=f"1.{n}.0") for n in range(3))
    await device.update_to(one, 1)
    update = await device.update_to(two, 2)
    assert device.story(update.id) == WELL
    device.assert_runs(two, previous={"tacho": one})
    await device.update_to(three, 3)
    device.assert_runs(three, previous={"tacho": two})
    told = (await device.manager.installed())["tacho"]
    assert (told.version, told.previous, told.phase, told.rollout) == ("1.2.0", "1.1.0", Phase.SUCCEEDED, rollout(3))


async def test_only_what_is_missing_is_fetched_and_every_byte_is_told(device: Device) -> None:
    one, two = build(version="1.0.0"), build(version="1.1.0")
    await device.update_to(one, 1)
    device.shelf.fetched.clear()
    update = await device.update_to(two, 2)
    new = set(two.contents) - set(one.contents)
    assert sorted(device.shelf.fetched) == sorted(new)
    staged = next(e for e in device.events() if e.update == update.id and e.phase is Phase.STAGED)
    size = sum(len(two.contents[sha]) for sha in new)
    assert staged.progress == Progress(bytes_done=size, bytes_total=size)
    assert staged.detail == {
        "route": "objects",
        "wire_bytes": 100 + sum(len(two.contents[sha]) // 2 for sha in new),
        "expected_bytes": 100 + size + 400 * len(new),
        "objects": len(new),
    }
    assert device.shelf.open_sources == 0
    assert device.shelf.asked[-1] == ["https://repo.example/"]


async def test_the_same_announcement_twice_changes_nothing(device: Device) -> None:
    one = build(version="1.0.0")
    await device.update_to(one)
    calls, told = list(device.power.calls), len(device.events())
    assert await device.submit(one) == Submitted(answer=Answer.INSTALLED)
    await device.rest()
    assert (device.power.calls, len(device.events())) == (calls, told)


async def test_the_same_wish_while_it_is_under_way_is_the_same_update(device: Device) -> None:
    one = build(version="1.0.0")
    device.shelf.block = asyncio.Event()
    first = await device.submit(one)
    await device.shelf.blocked.wait()
    assert await device.submit(one) == Submitted(answer=Answer.UNDER_WAY, update=first.update)
    device.shelf.block.set()
    assert first.update is not None
    await device.end_of(first.update)
    assert device.story() == [f"tacho 1.0.0 {phase}" for phase in WELL]


async def test_another_rollout_of_what_is_installed_is_answered_and_changes_nothing(device: Device) -> None:
    one = build(version="1.0.0")
    await device.update_to(one, 1)
    calls = [call for call in device.power.calls if call.startswith(("start", "stop", "fetch"))]
    update = await device.update_to(one, 2)
    assert device.story(update.id) == ["accepted", "succeeded"]
    assert device.events()[-1].detail == {"already_installed": True}
    assert [call for call in device.power.calls if call.startswith(("start", "stop", "fetch"))] == calls
    assert await device.submit(one, 2) == Submitted(answer=Answer.INSTALLED)
    device.assert_runs(one)


async def test_a_local_wish_for_what_is_installed_changes_nothing(device: Device) -> None:
    one = build(version="1.0.0")
    await device.update_to(one, 1)
    assert await device.submit(one, 0) == Submitted(answer=Answer.INSTALLED)


async def test_a_local_installation_belongs_to_no_rollout(device: Device) -> None:
    one = build(version="1.0.0")
    update = await device.update_to(one, 0, origin=Origin.FILE, repository=["/media/usb/tacho.flotilla"])
    assert device.story(update.id) == WELL
    assert {event.rollout for event in device.events()} == {None}
    assert device.shelf.asked[0] == Path("/media/usb/tacho.flotilla")


async def test_what_was_announced_never_leads_to_a_file_of_the_device(device: Device) -> None:
    """Nor where an agent before this one had written it down so."""
    await device.update_to(build(version="1.0.0"), 1, repository=["/etc/shadow"])
    await device.update_to(build(version="1.1.0"), 0, repository=["file:///etc/shadow", "https://repo.example/"])
    assert {tuple(asked) for asked in device.shelf.asked if not isinstance(asked, Path)} == {
        (),
        ("https://repo.example/",),
    }
    assert not [asked for asked in device.shelf.asked if isinstance(asked, Path)]


async def test_requirements_that_are_met_are_no_obstacle(device: Device) -> None:
    needs = Requires(agent="^1", packages={"tacho": "^1.0"}, upgrade_from="*", hardware=["Pi 3*", "Pi 4*"])
    await device.update_to(ONE, 1)
    other = build("engine", "2.0.0", requires=needs, platform=PLATFORM, files={"bin/run": (b"engine", 0o755)})
    update = await device.update_to(other, 2)
    assert device.story(update.id) == WELL
    device.assert_runs(ONE, other)


async def test_a_downgrade_that_is_allowed_is_an_update(device: Device) -> None:
    await device.update_to(TWO, 1)
    await device.update_to(ONE, 2, allow_downgrade=True)
    device.assert_runs(ONE, previous={"tacho": TWO})


async def test_two_packages_are_worked_on_one_after_the_other(device: Device) -> None:
    engine = build("engine", "3.0.0", files={"bin/run": (b"engine", 0o755)}, services=("motor", "pump"))
    first, second = await device.submit(ONE, 1), await device.submit(engine, 2)
    assert first.update is not None
    assert second.update is not None
    await device.end_of(second.update)
    story = device.story()
    assert story.index("tacho 1.0.0 succeeded") < story.index("engine 3.0.0 fetching")
    device.assert_runs(ONE, engine)
    device.probe.sick.add("3.1.0")
    await device.update_to(build("engine", "3.1.0", files={"bin/run": (b"new", 0o755)}), 3)
    device.assert_runs(ONE, engine)


async def test_services_that_only_the_old_release_had_go_away(device: Device) -> None:
    await device.update_to(build(version="1.0.0", services=("web", "old")), 1)
    await device.update_to(two := build(version="1.1.0", services=("web", "new")), 2)
    assert device.services.removed == ["old"]
    device.assert_runs(two, previous={"tacho": build(version="1.0.0", services=("web", "old"))})


async def test_services_that_only_the_new_release_had_go_away_with_it(device: Device) -> None:
    await device.update_to(one := build(version="1.0.0", services=("web", "old")), 1)
    device.probe.sick.add("1.1.0")
    await device.update_to(build(version="1.1.0", services=("web", "new")), 2)
    assert device.services.removed == ["new"]
    device.assert_runs(one)


async def test_hooks_see_their_release_and_what_they_print_is_told(device: Device) -> None:
    await device.update_to(ONE, 1)
    two = build(version="1.1.0", hooks=("pre_switch", "post_switch"))
    update = await device.update_to(two, 2)
    switched = next(e for e in device.events() if e.update == update.id and e.phase is Phase.SWITCHED)
    assert switched.detail == {"pre_switch": "pre_switch was here", "post_switch": "post_switch was here"}
    folders = device.folders.package("tacho")
    context = device.hooks.contexts["pre_switch"]
    assert context.folder == folders.release("1.1.0", two.sha256)
    assert context.values["path.current"] == str(folders.current)
    assert context.environment["FLOTILLA_VERSION"] == "1.1.0"
    order = [call for call in device.power.calls if "1.1.0" in call or call == "stop tacho"]
    at = order.index("pre_switch tacho 1.1.0")
    assert order[at:] == [
        "pre_switch tacho 1.1.0",
        "stop tacho",
        "post_switch tacho 1.1.0",
        "start tacho 1.1.0",
        "stop tacho",  # services that only the old release had: none
    ]


async def test_state_survives_updates_and_going_back(device: Device) -> None:
    await device.update_to(ONE, 1)
    state = device.folders.package("tacho").current / "data/seed.txt"
    state.write_bytes(b"worked on\n")
    await device.update_to(TWO, 2)
    assert state.read_bytes() == b"worked on\n"
    device.probe.sick.add("1.2.0")
    await device.update_to(build(version="1.2.0"), 3)
    assert state.read_bytes() == b"worked on\n"
    device.assert_runs(TWO, previous={"tacho": ONE})


async def test_everything_is_flushed_before_the_device_says_that_it_is_staged(device: Device) -> None:
    await device.update_to(ONE, 1)
    points = [point for point in device.power.points if "advance" in point or "flush" in point]
    assert points[points.index("after advance by start") :][:3] == [
        "after advance by start",
        "before flush",
        "after flush",
    ]
    entry = ONE.manifest.files[0]
    assert device.folders.object(entry.sha256, 0o555).stat().st_mtime == FIXED_MTIME
    # once for the release, once for the state that it begins with
    assert device.flushes == 2
    await device.update_to(TWO, 2)
    assert device.flushes == 3


async def test_progress_is_told_at_most_once_a_second_and_in_steps_worth_telling(device: Device) -> None:
    async def pace() -> None:
        enough = device.clock.elapsed + 0.4
        await until(lambda: device.clock.elapsed >= enough)

    files = {f"file-{n}": (b"%d" % n * 1000, 0o644) for n in range(20)} | {"bin/run": (b"run", 0o755)}
    big = build(version="1.0.0", files=files)
    device.shelf.pace = pace
    await device.update_to(big, 1)
    told = [event for event in device.events() if event.phase is Phase.FETCHING]
    assert len(told) > 3
    assert all(b.at - a.at >= timedelta(seconds=1) for a, b in itertools.pairwise(told))
    done = [event.progress.bytes_done for event in told if event.progress]
    total = sum(len(content) for content in big.contents.values())
    assert done == sorted(set(done))
    assert {event.progress.bytes_total for event in told if event.progress} == {total}
    assert len(done) == len(told)
    assert done[0] == 0


async def test_packages_that_need_each_other_may_be_announced_in_any_order(device: Device) -> None:
    needs = build(version="1.0.0", requires=Requires(packages={"engine": "^2"}))
    engine = build("engine", "2.1.0", files={"bin/run": (b"engine", 0o755)})
    first = await device.submit(needs, 1)
    await device.submit(engine, 2)
    assert first.update is not None
    await device.end_of(first.update)
    assert device.story(first.update) == ["accepted", "deferred", *WELL]
    device.assert_runs(needs, engine)
