"""How quick the page answers at 10 000 devices while their events come in: `python -m benchmarks.bench_page`.

Events go through a real broker into a real controller at the rate that is given; meanwhile each page is asked for
again and again, and two readers watch the rollout live. The baseline is `/healthz` in the same run.
"""

import argparse
import asyncio
import http.client
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.common import print_table, state_machine
from controller.database import open_database, sqlite_url, utc_now
from controller.rollouts.store import RolloutStore
from schemas.codec import encode
from schemas.messages import Phase, UpdateEvent
from schemas.topics import DEFAULT_ROOT, Topics
from tests.page_pictures import Fleet
from tests.support.broker import new_broker
from tests.support.controller import ControllerProcess, controller_process
from tests.support.fake_device import new_id
from tests.support.links import settings
from transport import connect

STEPS = (Phase.ACCEPTED, Phase.FETCHING, Phase.STAGED, Phase.SWITCHED, Phase.PROBATION, Phase.SUCCEEDED)
PAGES = ("/healthz", "/", "/devices", "/devices?q=kitchen", "/devices?needs=attention", "/rollouts", "ROLLOUT")


async def say(broker_url: str, ids: list[str], rollout: str, rate: float, seconds: float) -> int:
    """Steps of updates of all devices in turn, at this rate; how many were sent."""
    topics, sent = Topics(DEFAULT_ROOT), 0
    updates = {name: new_id() for name in ids}
    async with connect(settings(broker_url, "bench-page", clean_start=True)) as link:
        begun = time.monotonic()
        for step, phase in enumerate(STEPS, start=1):
            for name in ids:
                if time.monotonic() - begun > seconds:
                    return sent
                event = UpdateEvent(
                    device=name,
                    boot_id="b",
                    seq=step,
                    update=updates[name],
                    rollout=rollout,
                    attempt=1,
                    package="tacho",
                    version="1.2.0",
                    from_version="1.1.0",
                    phase=phase,
                    at=datetime.now(UTC),
                )
                await link.publish(topics.device(name, "events"), encode(event))
                sent += 1
                await asyncio.sleep(max(0.0, begun + sent / rate - time.monotonic()))
    return sent


def ask(controller: ControllerProcess, path: str, times: list[float]) -> None:
    """One page, timed to its last byte."""
    connection = http.client.HTTPConnection("127.0.0.1", controller.port, timeout=30)
    begun = time.perf_counter()
    connection.request("GET", path, headers={"Accept": "text/html"})
    answer = connection.getresponse()
    answer.read()
    times.append(time.perf_counter() - begun)
    assert answer.status == 200, (path, answer.status)
    connection.close()


async def look(controller: ControllerProcess, rollout: str, until: asyncio.Event) -> dict[str, list[float]]:
    """All pages, over and over."""
    times: dict[str, list[float]] = {path: [] for path in PAGES}
    while not until.is_set():
        for path, found in times.items():
            await asyncio.to_thread(ask, controller, f"/rollouts/{rollout}" if path == "ROLLOUT" else path, found)
            await asyncio.sleep(0.02)
    return times


async def watch(controller: ControllerProcess, rollout: str, until: asyncio.Event) -> int:
    """A reader of the live page; how many bytes it was sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", controller.port)
    writer.write(f"GET /rollouts/{rollout}/live HTTP/1.1\r\nHost: 127.0.0.1:{controller.port}\r\n\r\n".encode())
    received = 0
    while not until.is_set():
        try:
            async with asyncio.timeout(1):
                received += len(await reader.read(65536))
        except TimeoutError:
            continue
    writer.close()
    return received


async def measure(
    controller: ControllerProcess, broker_url: str, fleet: Fleet, rollout: str, given: argparse.Namespace
) -> None:
    """Everything at once, and the table."""
    over = asyncio.Event()
    looking = asyncio.create_task(look(controller, rollout, over))
    watching = [asyncio.create_task(watch(controller, rollout, over)) for _ in range(2)]
    begun = time.monotonic()
    sent = await say(broker_url, fleet.ids, rollout, given.rate, given.seconds)
    took = time.monotonic() - begun
    over.set()
    times, received = await looking, [await one for one in watching]
    load = f"{len(fleet.ids)} devices, {sent / took:.0f} events a second for {took:.0f} s, two live readers"
    rows = [(path, str(len(found)), *_figures(found)) for path, found in times.items()]
    print_table(
        f"{load} ({sum(received) / len(received) / took / 1024:.1f} KiB a second each); milliseconds",
        ("page", "asked", "median", "95 %", "longest"),
        rows,
    )


def _figures(times: list[float]) -> tuple[str, str, str]:
    ordered = sorted(times)
    found = (statistics.median(ordered), ordered[int(len(ordered) * 0.95)], ordered[-1])
    return (f"{found[0] * 1e3:.1f}", f"{found[1] * 1e3:.1f}", f"{found[2] * 1e3:.1f}")


def main() -> None:
    """Set up, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=300, help="events a second")
    parser.add_argument("--seconds", type=float, default=30)
    given = parser.parse_args()
    state_machine()
    with tempfile.TemporaryDirectory(prefix="flotilla-bench-page-") as folder:
        data = Path(folder) / "data"
        data.mkdir()
        engine = open_database(sqlite_url(data / "flotilla.db"))
        fleet = Fleet(engine, given.devices)
        fleet.appear(utc_now())
        rollout = RolloutStore(engine).create(
            package="tacho", version="1.2.0", channel="stable", repository=["http://127.0.0.1/repo"], now=utc_now()
        )
        engine.dispose()
        broker = new_broker(Path(folder) / "broker")
        try:
            broker.start()
            with controller_process(data, broker.url) as controller:
                asyncio.run(measure(controller, broker.url, fleet, rollout.id, given))
        finally:
            broker.remove()


if __name__ == "__main__":
    main()
