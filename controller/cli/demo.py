"""`flotilla demo`: see a fleet update, break and heal itself, on this machine."""

import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click
from rich.console import Console

from broker_config.errors import BrokerError
from controller.cli.common import size_text
from controller.demo.fleet import START_SECONDS, DemoFleet
from controller.demo.sample import sample_folder
from controller.demo.story import STORY, Outcome, build_releases, differences, tell
from controller.demo.table import LiveTable
from schemas.errors import FlotillaError, OperatorError


@click.command()
@click.option(
    "--agents", type=click.IntRange(1, 50), default=6, show_default=True, metavar="N", help="How many devices."
)
@click.option("--keep", is_flag=True, help="Leave everything running until Ctrl-C, and say where it is.")
@click.option(
    "--sample",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A changed copy of examples/tacho to use instead.",
)
def demo(agents: int, sample: Path | None, *, keep: bool) -> None:
    """Publish three releases to real agents: one to install, one to update to, one that is broken.

    The broken one is tried on one device first, and gets no further.

    Starts a Mosquitto, a controller and agents as processes on free loopback ports, in a folder that is removed
    afterwards. Exits with 0 only if every device runs 1.1.0 in the end, by itself.
    """
    # a shell that starts it in the background would have it ignore SIGINT
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    sources = sample_folder(sample)
    console = Console(highlight=False, markup=False)
    begun = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="flotilla-demo-"))
    try:
        with DemoFleet(folder, agents) as fleet:
            outcomes = _play(fleet, sources, console)
            differed = [line for outcome in outcomes for line in differences(outcome)]
            for line in differed:
                console.print(line, soft_wrap=True)
            if differed:
                raise OperatorError("demo.differed", f"the story differed, first at {differed[0]}")
            console.print(summary_text(outcomes, time.monotonic() - begun), soft_wrap=True)
            if keep:
                _stay(fleet, console)
    except BrokerError as error:
        raise OperatorError("broker.unreachable", str(error)) from error
    except FlotillaError:
        console.print(f"what happened is in {folder}/logs, which stays")
        raise
    except (KeyboardInterrupt, SystemExit):
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def _play(fleet: DemoFleet, sample: Path, console: Console) -> list[Outcome]:
    console.print(f"watch it in a browser at {fleet.client.url}/")
    files = build_releases(sample, fleet.folder / "build")
    console.print(f"broker {fleet.broker.url}, page {fleet.client.url}/, {len(fleet.devices)} agents")
    fleet.wait(fleet.all_online, "the start of every agent", START_SECONDS)
    outcomes = []
    for chapter in STORY:
        with LiveTable(fleet.devices, console) as table:
            outcomes.append(tell(fleet, chapter, files[chapter.version], table.look))
        if differences(outcomes[-1]):
            break
    return outcomes


def summary_text(outcomes: Sequence[Outcome], seconds: float) -> str:
    """What it came to, in a few lines."""
    first, second, broken = outcomes
    count = len(first.devices)
    error = next(one.update.error for one in broken.devices.values() if one.update and one.update.error)
    tried = next(one.device for one in broken.devices.values() if one.wave == 1)
    others = f"the other {count - 1} never started it" if count > 1 else "nobody else was asked"
    installed, updated = (size_text(outcome.wire_bytes // count) for outcome in (first, second))
    return (
        f"\n1.0.0 was installed on {count} devices, {installed} each, in {first.seconds:.1f} s.\n"
        f"1.1.0 took its place with {updated} each, in {second.seconds:.1f} s.\n"
        f"1.2.0 was tried on {tried} first and was not healthy: {error.message}.\n"
        f"{tried} went back to 1.1.0 by itself and proved it healthy, in {broken.seconds:.1f} s;"
        f" the rollout halted at its first wave, and {others}.\n"
        f"Nobody did anything; it all took {seconds:.0f} s."
    )


def _stay(fleet: DemoFleet, console: Console) -> None:
    address = fleet.broker.url.removeprefix("mqtt://")
    host, _, port = address.partition(":")
    console.print(
        f"\nPage        {fleet.client.url}/\n"
        f"API         {fleet.client.url}/api/docs\n"
        + "".join(f"Gauge       http://127.0.0.1:{gauge}/  ({device})\n" for device, gauge in fleet.gauges.items())
        + f"Commands    export FLOTILLA_URL={fleet.client.url}\n"
        + f"Topics      mosquitto_sub -h {host} -p {port} -V mqttv5 -v -t 'flotilla/v1/#'\n\nCtrl-C ends it all.",
        soft_wrap=True,
    )
    waiting = threading.Event()
    try:
        while not waiting.wait(1.0):
            fleet.check()
    except KeyboardInterrupt:
        console.print("ended")


def _end(number: int, _: FrameType | None) -> NoReturn:
    sys.exit(128 + number)
