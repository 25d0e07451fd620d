"""What there is to tell, and how it is put into words. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from controller.rollouts.plan import FAILURES, RolloutState
from schemas.errors import one_line

Kind = Literal["rollout.stopped", "rollout.waiting", "rollout.finished", "device.silent"]

KINDS: Final[tuple[Kind, ...]] = ("rollout.stopped", "rollout.waiting", "rollout.finished", "device.silent")
NAMED: Final = 20
"""Devices that a notification names; of more it tells how many there are."""

_BY_FAILURE: Final = frozenset({RolloutState.PAUSED, RolloutState.REVERTED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """Something to tell.

    Attributes:
        kind: one of `KINDS`, or `test`.
        key: the same for the same thing, so that it is told once.
        title: one line.
        text: a few lines for people.
        data: the facts, for machines.
    """

    kind: str
    key: str
    title: str
    text: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutMoment:
    """A rollout in the state that it came to at `changed_at` (microseconds).

    Attributes:
        stopped: why the engine stopped it; empty where it did not.
        verdicts: how many devices have which verdict.
        failures: error code to how many devices said it last.
    """

    rollout: str
    package: str
    version: str
    channel: str
    state: RolloutState
    stopped: str
    changed_at: int
    verdicts: Mapping[str, int]
    failures: Mapping[str, int]


def of_rollout(moment: RolloutMoment) -> Notification | None:
    """What is to be told of a rollout, if anything: a pause or a going back that a person asked for is no news."""
    name = f"{moment.package} {moment.version} on {moment.channel}"
    finished = moment.state is RolloutState.COMPLETE
    if (
        not finished
        and moment.state is not RolloutState.HALTED
        and not (moment.state in _BY_FAILURE and moment.stopped)
    ):
        return None
    because = "" if finished else moment.stopped or f"{moment.state.value} by an operator"
    counts = ", ".join(f"{count} {verdict.replace('_', ' ')}" for verdict, count in sorted(moment.verdicts.items()))
    codes = ", ".join(f"{code} on {count}" for code, count in sorted(moment.failures.items()))
    lines = [because and f"Why: {one_line(because)}", counts and f"Devices: {counts}", codes and f"Errors: {codes}"]
    lines.append(f"Rollout {moment.rollout}")
    failed = sum(moment.verdicts.get(verdict, 0) for verdict in FAILURES)
    # a plan that stops at nothing comes to its end whatever happens
    but = f", and failed on {failed} of {sum(moment.verdicts.values())}" if finished and failed else ""
    return Notification(
        kind="rollout.finished" if finished else "rollout.stopped",
        # a rollout that a device joins later finishes again, which is no news either
        key=f"rollout:{moment.rollout}:{moment.state.value}" + ("" if finished else f":{moment.changed_at}"),
        title=f"{name} is {'finished' if finished else moment.state.value}{but}",
        text="\n".join(line for line in lines if line),
        data={
            "rollout": moment.rollout,
            "package": moment.package,
            "version": moment.version,
            "channel": moment.channel,
            "state": moment.state.value,
            "because": because,
            "verdicts": dict(moment.verdicts),
            "failures": dict(moment.failures),
        },
    )


def of_waiting(moment: RolloutMoment, wave: int, waves: int) -> Notification:
    """A rollout waits for a person to say go.

    Args:
        moment: the rollout.
        wave: the one that is to begin, from 1; `waves` are all there are.
    """
    name = f"{moment.package} {moment.version} on {moment.channel}"
    return Notification(
        kind="rollout.waiting",
        key=f"waiting:{moment.rollout}:{wave}",
        title=f"{name} waits for approval",
        text=f"Wave {wave} of {waves} begins when somebody says go: flotilla approve {moment.rollout}",
        data={
            "rollout": moment.rollout,
            "package": moment.package,
            "version": moment.version,
            "channel": moment.channel,
            "wave": wave,
            "waves": waves,
            "verdicts": dict(moment.verdicts),
        },
    )


def of_silence(devices: Sequence[str], count: int, until: int, silent_after_s: float) -> Notification:
    """Devices that fell silent.

    Args:
        devices: the first `NAMED` of them.
        count: how many they are in all.
        until: the latest of their last signs of life, microseconds.
        silent_after_s: how long they have been silent at least.
    """
    more = f" and {count - len(devices)} more" if count > len(devices) else ""
    hours = f"{silent_after_s / 3600:g} h"
    return Notification(
        kind="device.silent",
        key=f"silent:{until}",
        title=f"{devices[0]} is silent" if count == 1 else f"{count} devices are silent",
        text=f"Not heard of for {hours}: {', '.join(devices)}{more}",
        data={"devices": list(devices), "count": count, "silent_after_s": silent_after_s},
    )
