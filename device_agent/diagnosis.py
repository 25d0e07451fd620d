"""Looks at what updates depend on and says, one line each, what is wrong: broker, repository, trust, disk, clock.

It changes nothing and disturbs nobody: to the broker it comes under an id of its own, because a second
connection with the device's would throw the agent out.
"""

import asyncio
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final

import msgspec

from device_agent.config import AgentConfig
from device_agent.durability import free_space
from device_agent.threads import in_thread
from device_agent.timekeeping import EARLIEST, KeptClock
from device_agent.trusted_root import root_problem, trusted_root_file
from schemas.errors import one_line
from schemas.layout import MAX_METADATA_BYTES, METADATA
from transport import ConnectRefused, TransportError, connect

_WRONG_USER: Final = frozenset({0x86, 0x87})
"""MQTT 5's reason codes for a bad user name or password, and for one that is not authorised."""

LEAST_FREE: Final = 64 * 1024 * 1024
"""Bytes below which hardly any update fits."""
LEAST_INODES: Final = 1000
WRONG_BY_S: Final = 300.0
"""Seconds between the device's clock and a repository's from which on something is wrong."""
ANSWER_S: Final = 5.0


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the result."""

    name: str
    ok: bool
    text: str


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    problem: str
    date: datetime | None = None


async def examine(
    config: AgentConfig, *, announced: Iterable[str] = (), root_check: Callable[[bytes], str] = root_problem
) -> list[Finding]:
    """All findings, in the order in which they are to be read.

    Args:
        root_check: what is wrong with a trusted root, or an empty string.
        announced: repositories that announcements named, besides the configured ones.
    """
    bases = list(dict.fromkeys([*config.repositories, *announced]))
    answers = await asyncio.gather(*(in_thread(_ask, base) for base in bases))
    return [
        await _broker(config),
        _repository(bases, answers),
        await in_thread(_trusted_root, config, root_check),
        await in_thread(_disk, config.root),
        await in_thread(_clock, config.root, [a.date for a in answers if a.date is not None]),
    ]


def summary(findings: Sequence[Finding]) -> str:
    """What the report's fact `check` says: `ok`, or what is wrong."""
    return "; ".join(f"{one.name}: {one.text}" for one in findings if not one.ok) or "ok"


async def _broker(config: AgentConfig) -> Finding:
    settings = replace(
        config.link_settings(), client_id=f"{config.id[:56]}-check", session_expiry_s=0, clean_start=True
    )
    user = f"the user {settings.username}" if settings.username else "a nameless user"
    try:
        async with connect(settings):
            pass
    except ConnectRefused as error:
        hint = f"; is {user} or its password wrong?" if error.reason_code in _WRONG_USER else ""
        return Finding(name="broker", ok=False, text=one_line(error) + hint)
    except TransportError as error:
        return Finding(name="broker", ok=False, text=one_line(error))
    text = f"{settings.address()} answers"
    if settings.username not in (None, config.id):
        # Mosquitto takes subscriptions that its rules do not allow, and delivers nothing: there is nothing to ask it
        text += f"; but {user} is not the device's id {config.id}, as a broker with production.conf's rules wants it"
    return Finding(name="broker", ok=True, text=text)


def _ask(base: str) -> _Answer:
    import urllib3  # noqa: PLC0415 - only a check needs it; an idle agent does without

    url = f"{base.rstrip('/')}/{METADATA}/timestamp.json"
    try:
        with urllib3.PoolManager(retries=urllib3.Retry(0, redirect=3), timeout=urllib3.Timeout(ANSWER_S)) as pool:
            answer = pool.request("GET", url, preload_content=False)
            date = _date(answer.headers.get("Date"))
            content = answer.read(MAX_METADATA_BYTES)
            answer.release_conn()
    except urllib3.exceptions.HTTPError as error:
        reason = getattr(error, "reason", None) or error
        return _Answer(problem=f"{base}: {one_line(reason, 160)}")
    if answer.status != 200:
        return _Answer(problem=f"{url} answers {answer.status}", date=date)
    if not content.lstrip().startswith(b"{"):
        return _Answer(problem=f"{url} is not signed metadata; is that a repository's address?", date=date)
    return _Answer(problem="", date=date)


def _date(header: str | None) -> datetime | None:
    try:
        return parsedate_to_datetime(header).astimezone(UTC) if header else None
    except ValueError:
        return None


def _repository(bases: Sequence[str], answers: Sequence[_Answer]) -> Finding:
    problems = [answer.problem for answer in answers if answer.problem]
    if problems:
        return Finding(name="repository", ok=False, text="; ".join(problems))
    if not bases:
        return Finding(name="repository", ok=True, text="none is configured, announcements name theirs")
    return Finding(name="repository", ok=True, text=f"{', '.join(bases)} answers")


def _trusted_root(config: AgentConfig, root_check: Callable[[bytes], str]) -> Finding:
    kept = trusted_root_file(config.root)
    file = kept if kept.exists() else config.trusted_root
    if file is None:
        text = "none; set trusted_root in agent.toml (`flotilla root` writes it)"
        return Finding(name="trusted root", ok=False, text=text)
    try:
        problem = root_check(file.read_bytes())
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    if problem:
        return Finding(name="trusted root", ok=False, text=f"{file}: {problem}")
    since = "" if file == kept else ", to be adopted at the first start"
    return Finding(name="trusted root", ok=True, text=f"{file}{since}")


def _disk(root: Path) -> Finding:
    there = root
    while not there.exists() and there != there.parent:
        there = there.parent
    problem = ""
    if not os.access(there, os.W_OK | os.X_OK):
        problem = f"this account may not write in {there}"
    try:
        space = free_space(there)
    except OSError as error:
        return Finding(name="disk", ok=False, text=f"{there}: {error.strerror}")
    free = f"{space.free // 2**20} MiB free at {root}"
    if not problem and space.free < LEAST_FREE:
        problem = f"only {free}"
    if not problem and space.inodes < LEAST_INODES:
        problem = f"only {space.inodes} more files fit at {root}"
    return Finding(name="disk", ok=not problem, text=problem or free)


def _clock(root: Path, dates: Sequence[datetime]) -> Finding:
    now = datetime.now(UTC)
    off_s = max((abs((now - date).total_seconds()) for date in dates), default=0.0)
    behind_s = KeptClock(root).behind_s
    problem = ""
    if now < EARLIEST:
        problem = f"{now:%Y-%m-%d %H:%M}Z cannot be; is the time synchronised?"
    elif off_s > WRONG_BY_S:
        problem = f"{off_s:.0f} s away from the repository's; is the time synchronised?"
    elif behind_s > WRONG_BY_S:
        problem = f"{behind_s:.0f} s behind the last signature that was seen; is the time synchronised?"
    return Finding(name="clock", ok=not problem, text=problem or f"{now:%Y-%m-%d %H:%M:%S}Z")
