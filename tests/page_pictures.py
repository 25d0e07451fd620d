"""Makes the pictures of the page in `docs/images/`: `make pictures`.

A fleet of 240 devices is told to a real controller as it would have been over the last hour, by the real intake and the
real rollout engine, and then looked at in a real Chromium. The same random numbers every time. The demo's picture is
what a real demo prints, with the tables as they were in the end.
"""

import asyncio
import io
import random
import re
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path

from rich.console import Console
from sqlalchemy import Engine, select

from controller.cli.demo import summary_text
from controller.database import open_database, reading, sqlite_url, to_db, utc_now
from controller.demo.fleet import START_SECONDS, DemoFleet
from controller.demo.sample import sample_folder
from controller.demo.story import STORY, Chapter, Outcome, build_releases, differences, tell
from controller.demo.table import table_of
from controller.fleet.incoming import EventIn, Incoming, PresenceIn, ReportedIn
from controller.fleet.intake_store import IntakeStore
from controller.rollouts.plan_files import ready_plan
from controller.rollouts.store import RolloutStore
from controller.rollouts.tables import rollout_devices
from schemas.codec import encode
from schemas.ids import uuid7
from schemas.messages import ErrorReport, InstalledPackage, Phase, Presence, Reported, UpdateEvent
from tests.support.broker import new_broker
from tests.support.browser import DESKTOP, PHONE, looking
from tests.support.controller import controller_process

IMAGES = Path(__file__).parents[1] / "docs" / "images"
DEVICES = 240
AGENTS = 6
WIDTH = 100
"""Columns of the terminal in which the demo is drawn."""
TALL = (1280, 1120)
VIEWS = (
    ("page-fleet.png", DESKTOP, "light", "/"),
    ("page-rollout.png", TALL, "light", "/rollouts/{rollout}"),
    ("page-rollout-phone.png", PHONE, "dark", "/rollouts/{rollout}"),
    ("page-device-phone.png", PHONE, "light", "/devices/{device}"),
)
DEMO = "demo.svg"
PLACES = ("kitchen", "hall", "roof", "gate", "barn", "lab")
STEPS = (Phase.ACCEPTED, Phase.FETCHING, Phase.STAGED, Phase.SWITCHED, Phase.PROBATION)
LOG = 'Traceback (most recent call last):\n  File "tacho.py", line 41, in <module>\n    gauge = Gauge("/dev/i2c-1")\n'
LOG += "OSError: [Errno 121] Remote I/O error"


class Fleet:
    """Tells the controller's database what devices would say, at moments of the past."""

    def __init__(self, engine: Engine, devices: int = DEVICES) -> None:
        self._engine = engine
        self._intake = IntakeStore(engine)
        self._chance = random.Random(7)
        self.rollouts = RolloutStore(engine)
        self.ids = sorted(f"pi-{self._chance.choice(PLACES)}-{number:03d}" for number in range(devices))
        self._away = set(self._chance.sample(self.ids, 6))
        self._seq = dict.fromkeys(self.ids, 0)
        self._runs = {name: self._chance.choices(("1.1.0", "1.0.0"), (9, 1))[0] for name in self.ids}

    def appear(self, now: datetime) -> None:
        """All devices report, and all but a few are online."""
        said: list[Incoming] = []
        for name in self.ids:
            online = name not in self._away
            presence = Presence(device=name, online=online, session=1, boot_id="b", agent_version="0.1.0", at=now)
            said += [PresenceIn(presence=presence, live=True), self._report(name, now)]
        self._intake.take_in(said, now)

    def take(self, rollout: str, version: str, now: datetime, *, share: float = 1.0) -> None:
        """Whoever may start does: most succeed, a few fail, and the rest of `share` is still at it."""
        word = rollout_devices.c
        with reading(self._engine) as connection:
            found = select(word.device).where(word.rollout == rollout, word.verdict == "pending").order_by(word.device)
            starting = list(connection.scalars(found))
        for number, name in enumerate(starting):
            at = now + timedelta(seconds=60 + self._chance.random() * 480)
            if self._chance.random() > share:
                self._say(rollout, version, name, STEPS[: self._chance.randint(1, len(STEPS))], at)
            elif number % 41 == 40:
                self._say(rollout, version, name, (*STEPS, Phase.ROLLING_BACK, Phase.ROLLED_BACK), at)
            else:
                self._say(rollout, version, name, (*STEPS, Phase.SUCCEEDED), at)
                self._runs[name] = version
                self._intake.take_in([self._report(name, at + timedelta(seconds=20))], at + timedelta(seconds=20))

    def _say(self, rollout: str, version: str, name: str, phases: tuple[Phase, ...], now: datetime) -> None:
        update = uuid7(to_db(now) // 1000, self._chance.randbytes(10))
        said: list[Incoming] = []
        for step, phase in enumerate(phases):
            self._seq[name] += 1
            failed = phase is Phase.ROLLED_BACK
            error = ErrorReport(code="health.http", message="http://127.0.0.1:8500/health: 500", log_tail=LOG)
            event = UpdateEvent(
                device=name,
                boot_id="b",
                seq=self._seq[name],
                update=update,
                rollout=rollout,
                attempt=1,
                package="tacho",
                version=version,
                from_version=self._runs[name],
                phase=phase,
                at=now + timedelta(seconds=step * 4),
                error=error if failed else None,
            )
            said.append(EventIn(event=event, payload=encode(event)))
        self._intake.take_in(said, now)

    def _report(self, name: str, now: datetime) -> ReportedIn:
        installed = InstalledPackage(
            version=self._runs[name],
            manifest="ab" * 32,
            installed_at=now,
            previous="1.0.0",
            phase=Phase.SUCCEEDED,
            rollout=None,
        )
        facts = {"model": "Raspberry Pi 4 Model B Rev 1.4", "platform": "linux-aarch64", "disk_free": 9_876_543_210}
        facts |= {
            "os": "Debian GNU/Linux 12 (bookworm)",
            "memory": 3_981_000_000,
            "temperature_c": 51,
            "memory_free": 2_212_000_000,
        }
        reported = Reported(
            device=name,
            at=now,
            seq=self._seq[name],
            channel="stable",
            tags={"site": "bern"},
            facts=facts,
            packages={"tacho": installed},
        )
        return ReportedIn(reported=reported, live=True)


def an_hour(data: Path) -> tuple[str, str]:
    """An hour of a canary rollout; its id, and a device that went back."""
    engine = open_database(sqlite_url(data / "flotilla.db"))
    fleet, now = Fleet(engine), utc_now()
    begun = now - timedelta(minutes=49)
    fleet.appear(begun - timedelta(minutes=5))
    made = fleet.rollouts.create(
        package="tacho",
        version="1.2.0",
        channel="stable",
        repository=["http://127.0.0.1/repo"],
        plan=ready_plan("canary"),
        now=begun,
    )
    moment = begun
    for _ in range(3):
        fleet.take(made.id, "1.2.0", moment)
        # the soak is over, and everybody is heard of again
        moment += timedelta(minutes=13)
        fleet.appear(moment)
        for _ in range(2):
            fleet.rollouts.evaluate(made.id, moment)
    fleet.take(made.id, "1.2.0", moment, share=0.7)
    fleet.rollouts.evaluate(made.id, now)
    word = rollout_devices.c
    with reading(engine) as connection:
        back = connection.scalar(select(word.device).where(word.rollout == made.id, word.phase == "rolled_back"))
    engine.dispose()
    return made.id, back or fleet.ids[0]


async def take_pictures(url: str, rollout: str, device: str) -> None:
    """One picture for each view."""
    for name, size, scheme, path in VIEWS:
        async with looking(url, size=size, scheme=scheme) as page:
            await page.goto(path.format(rollout=rollout, device=device))
            await page.locator("main h1").wait_for()
            await page.screenshot(path=IMAGES / name)
            print(IMAGES / name)


def draw_demo(folder: Path) -> None:
    """Play the demo, and draw what it says."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, highlight=False, markup=False)
    begun = time.monotonic()
    with DemoFleet(folder, AGENTS) as fleet:
        console.print(f"watch it in a browser at {fleet.client.url}/")
        files = build_releases(sample_folder(None), folder / "build")
        fleet.wait(fleet.all_online, "the start of every agent", START_SECONDS)
        outcomes = [told(fleet, chapter, files[chapter.version]) for chapter in STORY]
        for outcome in outcomes:
            assert not differences(outcome), differences(outcome)
            console.print(table_of(outcome.chapter, fleet.devices, outcome.devices))
        console.print(summary_text(outcomes, time.monotonic() - begun))
    # the reader's own font, and nothing that is fetched from elsewhere
    drawn = re.sub(r"@font-face \{.*?\}\s*", "", console.export_svg(title="make demo"), flags=re.DOTALL)
    (IMAGES / DEMO).write_text(drawn)
    print(IMAGES / DEMO)


def told(fleet: DemoFleet, chapter: Chapter, package_file: Path) -> Outcome:
    """Publish a chapter's release, and wait for what comes of it."""
    return tell(fleet, chapter, package_file, lambda _chapter, _seen: None)


def main() -> None:
    """Make them all."""
    with tempfile.TemporaryDirectory(prefix="flotilla-pictures-") as demo:
        draw_demo(Path(demo))
    with tempfile.TemporaryDirectory(prefix="flotilla-pictures-") as folder:
        data = Path(folder) / "data"
        data.mkdir()
        rollout, device = an_hour(data)
        broker = new_broker(Path(folder) / "broker")
        try:
            broker.start()
            with controller_process(data, broker.url) as controller:
                asyncio.run(take_pictures(controller.url, rollout, device))
        finally:
            broker.remove()


if __name__ == "__main__":
    main()
