"""In which waves a release goes out: the options that say so, and a rollout's waves and verdicts as text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from controller.cli.common import time_text
from controller.rollouts.plan import Verdict
from controller.rollouts.waves import DURATION_PATTERN, OnFailure, seconds
from schemas.errors import OperatorError, one_line
from schemas.names import matches

if TYPE_CHECKING:
    from controller.rollouts.views import Rollout
    from controller.rollouts.waves import RolloutPlan

F = TypeVar("F", bound=Callable[..., Any])

WAVE_COLUMNS: Final = ("WAVE", "WHO", "STATE", "DEVICES", "BEGUN", "PROVEN", "DEADLINE", "BECAUSE")


_NUMBER: Final = re.compile(r"[0-9]{1,12}(\.[0-9]{0,12})?")


def length_of_time(most: str) -> Callable[[str], float]:
    """The type of an option that takes seconds, or a length of time as a plan file has it; the command gets seconds.

    Args:
        most: the longest that is taken, as `24h`.
    """

    def length(given: str) -> float:
        if _NUMBER.fullmatch(given):
            found = float(given)
        elif matches(DURATION_PATTERN, given):
            found = seconds(given)
        else:
            shown = one_line(given, 60)
            raise click.BadParameter(
                f"{shown!r} is no length of time such as 90s, 10m or 1h30m, and no number of seconds"
            )
        if found > seconds(most):
            raise click.BadParameter(f"{one_line(given, 60)} is longer than {most}")
        return found

    return length


def plan_options(command: F) -> F:
    """Add --plan, --wave and --on-failure as `plan`, `waves` and `on_failure`; `chosen_plan` reads them."""
    for option in (
        click.option(
            "--on-failure",
            type=click.Choice([one.value for one in OnFailure]),
            help="With --wave: what a failing wave does to the rollout; halt unless given.",
        ),
        click.option(
            "--wave",
            "waves",
            multiple=True,
            metavar="KEY=VALUE,…",
            help="One wave, e.g. upto=10,soak=10m,max_failures=0; repeatable, in order, instead of --plan. Ids are "
            "devices=pi-1,devices=pi-2; a tag or fact is where.site=bern, more values where.site=bern,where.site=thun.",
        ),
        click.option(
            "--plan",
            metavar="FILE|NAME",
            help="The waves: a TOML file, or all-at-once, canary or careful. Without it canary from 20 devices on.",
        ),
    ):
        command = option(command)
    return command


def chosen_plan(plan: str | None, waves: tuple[str, ...], on_failure: str | None) -> RolloutPlan | None:
    """What the options say; None where they leave it to the controller. Raises `OperatorError` (`input.bad`)."""
    if plan is None and not waves:
        if on_failure is not None:
            raise OperatorError("input.bad", "--on-failure goes with --wave; a plan file says on_failure itself")
        return None
    from controller.rollouts.plan_files import load_plan, plan_of_flags  # noqa: PLC0415 - `release` is to start at once

    if plan is None:
        return plan_of_flags(waves, on_failure)
    if waves or on_failure is not None:
        raise OperatorError("input.bad", "--plan has all waves; it does not go with --wave or --on-failure")
    return load_plan(plan)


def wave_text(share: str, soak_s: float, *more: str) -> str:
    """Whom a wave means, and how long its devices have to stay well: `1 device (soak 10m)`, after `more`."""
    about = [*more, *([f"soak {length_text(soak_s)}"] if soak_s else [])]
    return f"{share} ({', '.join(about)})" if about else share


def length_text(length_s: float) -> str:
    """Seconds as a plan has them: `90s` is `1m30s`."""
    left, parts = int(length_s), []
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
        number, left = divmod(left, length)
        parts += [f"{number}{unit}"] if number else []
    return "".join(parts) or "0s"


def wave_rows(view: Rollout, waits: Mapping[int | None, str] | None = None) -> Iterator[tuple[str, ...]]:
    """The waves of a rollout as rows of `WAVE_COLUMNS`.

    Args:
        view: the rollout.
        waits: what all deferred devices of a wave wait for, by its number, where that is known.
    """
    for wave in view.waves:
        yield (
            str(wave.number),
            wave.share,
            wave.state.value.replace("_", " "),
            counts_text(wave.verdicts, "-", deferred=(waits or {}).get(wave.number)),
            time_text(wave.started_at),
            time_text(wave.proven_at),
            time_text(wave.deadline),
            wave.because,
        )


def counts_text(counts: Mapping[Verdict, int], nothing: str = "no device", *, deferred: str | None = None) -> str:
    """`succeeded 5, failed 1`; behind the deferred ones what all of them wait for, where that is given."""
    why = {Verdict.DEFERRED: f" ({deferred})"} if deferred else {}
    told = (f"{verdict_text(one)} {count}{why.get(one, '')}" for one, count in counts.items() if count)
    return ", ".join(told) or nothing


def verdict_text(verdict: Verdict) -> str:
    """A verdict for people: what ended before a device had begun is not to read as if the device had ended it."""
    return {Verdict.ENDED: "not begun", Verdict.NOT_MEANT: "left out"}.get(verdict, verdict.value)
