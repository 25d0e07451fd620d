"""The demo's story: three releases, what must come of each, and what differed if it did not."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec
import urllib3

from controller.cli.releases import announce
from controller.cli.uploading import push_file
from controller.demo.fleet import CHANNEL, PACKAGE, DemoFleet
from controller.demo.sample import layered_source
from controller.http.views import RolloutDetail
from controller.packaging.package_creator import PackageCreator
from controller.rollouts.plan import RolloutState
from controller.rollouts.views import Rollout, RolloutDevice
from controller.rollouts.waves import ALL_AT_ONCE, RolloutPlan, Wave
from schemas.messages import LAST_WORDS, Phase

RELEASE_SECONDS: Final = 60.0


class Chapter(msgspec.Struct, frozen=True, kw_only=True):
    """One release and what is expected of every device.

    Attributes:
        phase: the update's last word.
        runs: the version that runs afterwards.
        plan: in which waves it is released.
        tried_on_one: whether it gets no further than the one device of the first wave.
    """

    version: str
    phase: Phase
    runs: str
    plan: RolloutPlan = ALL_AT_ONCE
    tried_on_one: bool = False


CANARY: Final = RolloutPlan(name="demo", waves=[Wave(devices=1, max_failures=0), Wave(upto=100)])


STORY: Final = (
    Chapter(version="1.0.0", phase=Phase.SUCCEEDED, runs="1.0.0"),
    Chapter(version="1.1.0", phase=Phase.SUCCEEDED, runs="1.1.0"),
    Chapter(version="1.2.0", phase=Phase.ROLLED_BACK, runs="1.1.0", plan=CANARY, tried_on_one=True),
)


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a chapter; `running` is what each device's gauge itself says that it is."""

    chapter: Chapter
    seconds: float
    rollout: Rollout
    devices: dict[str, RolloutDevice]
    running: dict[str, str]

    @property
    def wire_bytes(self) -> int:
        """What all devices together received."""
        return sum(one.update.wire_bytes or 0 for one in self.devices.values() if one.update)


OnLook = Callable[[Chapter, Mapping[str, RolloutDevice]], None]


def build_releases(sample: Path, folder: Path) -> dict[str, Path]:
    """Build the package file of every chapter; version to file."""
    files = {}
    for chapter in STORY:
        source = layered_source(sample, chapter.version, folder)
        files[chapter.version] = PackageCreator(source).build(version=chapter.version, platform=None, out=folder).path
    return files


def tell(fleet: DemoFleet, chapter: Chapter, package_file: Path, on_look: OnLook) -> Outcome:
    """Publish one release and wait until every device has said its last word, or the rollout has stopped."""
    begun = time.monotonic()
    push_file(fleet.client, package_file)
    rollout = announce(fleet.client, name=PACKAGE, version=chapter.version, channel=CHANNEL, plan=chapter.plan)
    seen: dict[str, RolloutDevice] = {}

    def all_done() -> bool:
        detail = fleet.client.get(RolloutDetail, "rollouts", rollout.id)
        seen.update({one.device: one for one in detail.devices.items})
        on_look(chapter, seen)
        if chapter.tried_on_one and detail.rollout.state is RolloutState.HALTED:
            return True
        return all(
            device in seen and (update := seen[device].update) is not None and update.phase in LAST_WORDS
            for device in fleet.devices
        )

    fleet.wait(all_done, f"the last word of every device on {chapter.version}", RELEASE_SECONDS)
    seconds = time.monotonic() - begun
    running = {device: running_version(port) for device, port in fleet.gauges.items()}
    after = fleet.client.get(RolloutDetail, "rollouts", rollout.id).rollout
    return Outcome(chapter=chapter, seconds=seconds, rollout=after, devices=seen, running=running)


def running_version(port: int) -> str:
    """What a gauge says of itself; a few words where it does not answer."""
    try:
        with urllib3.PoolManager(retries=urllib3.Retry(3, backoff_factor=0.2), timeout=5.0) as pool:
            answer = pool.request("GET", f"http://127.0.0.1:{port}/health")
    except urllib3.exceptions.HTTPError:
        return "no answer"
    text = answer.data[:200].decode(errors="replace").strip()
    return text.removesuffix(" is well") if answer.status == 200 else f"{answer.status}: {text}"


def differences(outcome: Outcome) -> list[str]:
    """One line for each device with which it did not go as the story says."""
    lines = []
    chapter = outcome.chapter
    for device, one in sorted(outcome.devices.items()):
        phase = one.update.phase if one.update else "nothing"
        why = f" ({one.update.error.message})" if one.update and one.update.error else ""
        if chapter.tried_on_one and one.wave != 1:
            if one.update is not None:
                lines.append(f"{device}: expected {chapter.version} never to get there, but it was {phase}{why}")
        elif phase != chapter.phase:
            lines.append(f"{device}: expected {chapter.version} to be {chapter.phase}, but it was {phase}{why}")
        running = outcome.running.get(device, "no answer")
        if running != chapter.runs:
            lines.append(
                f"{device}: expected {chapter.runs} to run after {chapter.version}, but the gauge says {running}"
            )
    return lines
