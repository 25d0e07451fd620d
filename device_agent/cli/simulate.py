"""`flotilla-agent simulate`: many simulated devices on a real broker."""

import argparse
import asyncio
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from device_agent.simulator.course import Kind
from device_agent.simulator.running import simulate as run_fleet
from device_agent.simulator.tally import Tally
from device_agent.simulator.worker import Orders
from schemas.errors import FlotillaError, OperatorError, one_line
from schemas.names import CHANNEL_PATTERN, DEVICE_PATTERN, matches
from schemas.topics import Topics
from schemas.versions import parse
from transport import SettingsError

MAX_DEVICES: Final = 100_000
DEVICES_A_PROCESS: Final = 5000
SESSION_EXPIRY_S: Final = 3600
"""The broker forgets simulated devices sooner than real ones, for which it is a week."""
_LINE_EVERY_S: Final = 2.0

RATES: Final = (Kind.FAILING, Kind.SLOW, Kind.SILENT, Kind.FLAPPING, Kind.DUPLICATED)


def simulate(arguments: argparse.Namespace) -> int:
    """Run the fleet until it ends, and say what it did.

    Raises:
        OperatorError: `input.bad`, `config.bad`.
        NetworkError: `broker.*`: there is no broker.
    """
    parts = parts_of(arguments)
    asyncio.run(_until_told(arguments, parts))
    return 0


async def _until_told(arguments: argparse.Namespace, parts: list[Orders]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    printer = _Printer(as_json=arguments.as_json)
    done = await run_fleet(parts, stop, for_s=arguments.for_s, until_settled=arguments.until_settled, tell=printer.tell)
    printer.end(done)


class _Printer:
    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._begun = time.monotonic()
        self._told_at = self._begun - _LINE_EVERY_S
        self._told = ""

    def tell(self, tally: Tally) -> None:
        """How it goes: now and then, and only news."""
        now = time.monotonic()
        if now - self._told_at < _LINE_EVERY_S and not self._as_json:
            return
        text = self._json(tally, final=False) if self._as_json else _progress(tally)
        if self._as_json or text != self._told:
            self._told, self._told_at = text, now
            print(text if self._as_json else f"{now - self._begun:6.0f} s  {text}", flush=True)

    def end(self, tally: Tally) -> None:
        """What it all came to."""
        if self._as_json:
            print(self._json(tally, final=True), flush=True)
            return
        seconds = time.monotonic() - self._begun
        print("\n".join(_summary(tally, seconds)), flush=True)

    def _json(self, tally: Tally, *, final: bool) -> str:
        told = {"seconds": round(time.monotonic() - self._begun, 3), **msgspec.to_builtins(tally), "final": final}
        return msgspec.json.encode(told).decode()


def _progress(tally: Tally) -> str:
    return (
        f"{tally.connected} of {tally.devices} connected, updates: {tally.updates} begun, {tally.ended} ended, "
        f"{tally.written} events"
    )


def _summary(tally: Tally, seconds: float) -> list[str]:
    events = ", ".join(f"{phase} {count}" for phase, count in tally.events.items()) or "none"
    messages = ", ".join(f"{kind} {count}" for kind, count in sorted(tally.messages.items())) or "none"
    failures = ", ".join(f"{code} {count}" for code, count in sorted(tally.failures.items())) or "none"
    return [
        "",
        f"{tally.devices} devices for {seconds:.0f} s, {tally.connections} connections",
        f"updates     {tally.updates} begun, {tally.ended} ended, {tally.open} open",
        f"events      {tally.written} written, {tally.confirmed} confirmed, {tally.event_bytes} bytes: {events}",
        f"messages    {sum(tally.messages.values())} published, {tally.message_bytes} bytes: {messages}",
        f"failures    {failures}",
        f"silent {tally.silent}, connections dropped {tally.drops}, gave up for a duplicated id {tally.duplicates}",
        f"cost        {tally.cpu_s:.1f} s of processor time, {tally.memory / 2**20:.0f} MiB",
    ]


def parts_of(arguments: argparse.Namespace) -> list[Orders]:
    """What each process of the fleet is to be: as few as the fleet needs, and no more than there are cores.

    Raises:
        OperatorError: `input.bad` for an option that cannot be.
    """
    devices = _within("--devices", arguments.devices, 1, MAX_DEVICES)
    rates = {kind: _share(kind, getattr(arguments, kind.value)) for kind in RATES}
    if sum(rates.values()) > 1:
        raise OperatorError("input.bad", f"the shares of {', '.join(RATES)} devices are more than 1 together")
    for version in arguments.bad_version:
        _wrong("--bad-version", partial(parse, version))
    _wrong("--topic-root", partial(Topics, arguments.topic_root))
    if not matches(CHANNEL_PATTERN, arguments.channel):
        raise OperatorError("input.bad", f"--channel: {one_line(arguments.channel)!r} is not a channel's name")
    if not matches(DEVICE_PATTERN, f"{arguments.prefix}-100000"):
        raise OperatorError("input.bad", f"--prefix: no device id can begin with {one_line(arguments.prefix)!r}")
    cores = os.cpu_count() or 1
    processes = arguments.processes or min(cores, -(-devices // DEVICES_A_PROCESS))
    count = min(int(_within("--processes", processes, 1, 64)), int(devices))
    rate = _within("--connect-rate", arguments.connect_rate, 0.1, 100_000)
    if arguments.for_s is not None:
        _within("--for", arguments.for_s, 0.1, 31 * 86_400)
    whole = Orders(
        broker=arguments.broker,
        username=arguments.username,
        password_file=_absolute(arguments.password_file),
        ca_file=_absolute(arguments.ca),
        topic_root=arguments.topic_root,
        channel=arguments.channel,
        prefix=arguments.prefix,
        devices=int(devices),
        part=0,
        parts=count,
        per_s=rate / count,
        rates=rates,
        pace_s=_within("--pace", arguments.pace, 0, 86_400),
        seed=arguments.seed,
        bad_versions=arguments.bad_version,
        session_expiry_s=SESSION_EXPIRY_S,
        verbose=arguments.verbose,
    )
    _wrong("--broker", whole.link_settings(arguments.prefix).address)
    return [msgspec.structs.replace(whole, part=part) for part in range(count)]


def _wrong(flag: str, look: Callable[[], object]) -> None:
    """Look at what a flag says; what is wrong with it is wrong usage, whatever it is elsewhere."""
    try:
        look()
    except (FlotillaError, SettingsError) as error:
        raise OperatorError("input.bad", f"{flag}: {error}") from error


def _absolute(path: str | None) -> str | None:
    return str(Path(path).absolute()) if path else None


def _within(flag: str, value: float, least: float, most: float) -> float:
    if not least <= value <= most:
        raise OperatorError("input.bad", f"{flag}: {value:g} is not between {least:g} and {most:g}")
    return value


def _share(kind: Kind, text: str) -> float:
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise OperatorError("input.bad", f"--{kind}: {one_line(text)!r} is not a share like 0.05 or 5%")
    return share
