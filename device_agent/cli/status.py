"""`flotilla-agent status` and `version`: read agent.db, also while an agent runs on it."""

import argparse
import os
import platform
import sys
from typing import Any

import msgspec

from device_agent.cli.options import config_from
from device_agent.config import AgentConfig
from device_agent.control import is_listening
from device_agent.heard import Heard
from device_agent.journal import Journal
from device_agent.policy import DeviceView
from device_agent.updates import Update
from device_agent.version import VERSION
from schemas.errors import one_line
from schemas.messages import LAST_WORDS, Phase, UpdateEvent

RECENT = 5
_HELD_HERE = "`flotilla-agent hold off` ends it"
_HELD_THERE = "its operator wants so"


def version(arguments: argparse.Namespace) -> int:
    """Print the version."""
    if arguments.as_json:
        print_json({"agent": VERSION, "python": platform.python_version()})
    else:
        sys.stdout.write(f"flotilla-agent {VERSION}\n")
    return 0


def status(arguments: argparse.Namespace) -> int:
    """Print what is installed and what is going on."""
    facts = gather_status(config_from(arguments))
    if arguments.as_json:
        print_json(facts)
    else:
        sys.stdout.write("\n".join(_lines(facts)) + "\n")
    return 0


def gather_status(config: AgentConfig) -> dict[str, Any]:
    """What agent.db says, as plain values.

    Raises:
        OperatorError: `data.bad`; no agent has ever run there.
        DeviceError: the database cannot be read.
    """
    with Journal(config.root, read_only=True) as journal:
        heard = Heard(journal)
        desired = heard.desired()
        device = DeviceView(id=config.id, channel=config.channel, tags=config.tags).told(desired)
        return {
            "device": _name(journal) or config.id,
            "root": str(config.root),
            "running": is_listening(config.root),
            "read_only": not os.access(config.root, os.W_OK),
            "channel": device.channel,
            "pins": dict(device.pins),
            "hold": heard.on_hold(),
            "held_here": heard.is_held_here(),
            "packages": journal.installed(),
            "under_way": [_update(update) for update in journal.unfinished()],
            "recent": [_update(u) for u in journal.history(limit=50) if u.phase in LAST_WORDS][:RECENT],
            "last_seq": journal.last_seq(),
            "unsent_events": len(journal.unsent(10_000)),
        }


def _name(journal: Journal) -> str:
    """What the agent that ran here last calls itself, which only it may have been told; empty for silence."""
    said = journal.events_after(journal.last_seq() - 1, 1)
    return msgspec.json.decode(said[0].payload, type=UpdateEvent).device if said else ""


def _update(update: Update) -> dict[str, Any]:
    return {
        "id": update.id,
        "package": update.package,
        "version": update.version,
        "from_version": update.from_version,
        "origin": update.request.origin,
        "rollout": update.rollout,
        "phase": update.phase,
        "attempt": update.attempt,
        "changed_at": update.changed_at,
        "not_before": update.not_before if update.phase is Phase.DEFERRED else None,
        **_why(update),
        "error": update.error,
    }


def _why(update: Update) -> dict[str, Any]:
    """Why it waits, with the reading or the last line of the hook, and until when at the latest."""
    waiting = update.waiting if update.phase is Phase.DEFERRED else None
    if waiting is None:
        until = update.not_before if update.phase is Phase.DEFERRED else None
        return {"reason": update.request.reason, "because": "", "until": until, "staged": False}
    return {"reason": waiting.reason, "because": waiting.line, "until": waiting.until, "staged": update.staged}


def _lines(facts: dict[str, Any]) -> list[str]:
    running = "running" if facts["running"] else "not running"
    lines = [f"device {facts['device']}, channel {facts['channel']}, agent {running}, root {facts['root']}"]
    if facts["read_only"]:
        lines.append(f"{facts['root']} cannot be written to: installed services run on, nothing can be updated")
    if facts["hold"]:
        lines.append(f"on hold: no update is started ({_HELD_HERE if facts['held_here'] else _HELD_THERE})")
    lines += [f"pinned: {package} stays at {pin}" for package, pin in sorted(facts["pins"].items())]
    if not facts["packages"]:
        lines.append("nothing is installed")
    for name, package in facts["packages"].items():
        before = f", before it {package.previous}" if package.previous else ""
        lines.append(f"{name} {package.version} ({package.phase}) since {package.installed_at:%Y-%m-%d %H:%M}Z{before}")
    lines += [f"under way: {_sentence(update)}" for update in facts["under_way"]]
    lines += [f"ended: {_sentence(update)}" for update in facts["recent"]]
    lines.append(f"{facts['last_seq']} events so far, {facts['unsent_events']} not yet sent")
    return lines


def _sentence(update: dict[str, Any]) -> str:
    due = f" until {update['until']:%Y-%m-%d %H:%M:%S}Z" if update["until"] else ""
    if update["phase"] is Phase.DEFERRED and update["reason"]:
        line = f" ({one_line(update['because'], 120)})" if update["because"] else ""
        due = f", {update['reason']}{line},{due}" if due else f", {update['reason']}{line},"
    why = f" ({update['error'].code}: {one_line(update['error'].message, 120)})" if update["error"] else ""
    when = f"{update['changed_at']:%Y-%m-%d %H:%M:%S}Z"
    return f"{update['package']} {update['version']} {update['phase'] or 'unknown phase'}{due} at {when}{why}"


def print_json(facts: dict[str, Any]) -> None:
    text = msgspec.json.format(msgspec.json.encode(facts, order="sorted"), indent=2)
    sys.stdout.write(text.decode() + "\n")
