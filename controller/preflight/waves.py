"""In which wave each device would start, and how long the waves take. Pure: values in, values out.

What a share of the devices is, is drawn when the rollout is announced, and the engine chooses single ones when their
wave begins; so only whom a wave names, or means in any case, is certain before.
"""

import math
from collections.abc import Callable, Sequence

from controller.preflight.views import ForeseenWave
from controller.rollouts.drawing import EVERYBODY, brought, is_exact
from controller.rollouts.waves import RolloutPlan, seconds


def foreseen_waves(
    plan: RolloutPlan, sure: Sequence[int | None], meant: int, *, of_share: bool = False
) -> list[ForeseenWave]:
    """How many devices each wave brings.

    Args:
        plan: the waves.
        sure: `certain_wave` of each device that may be meant.
        meant: how many of these are, where only a share is.
        of_share: whether only a share is.
    """
    exact = is_exact(plan, meant, of_share=of_share)
    return [
        ForeseenWave(
            number=number,
            share=wave.share,
            devices=brings,
            about=not exact and (wave.upto is not None or wave.picks > 1),
            at_a_time=wave.concurrency if wave.concurrency_per is None else None,
            soak_s=seconds(wave.soak),
            approval=wave.approval,
        )
        for number, (wave, brings) in enumerate(zip(plan.waves, brought(plan, sure, meant), strict=True), start=1)
    ]


def drawn_when(plan: RolloutPlan, sure: Sequence[int | None]) -> str:
    """When those are known of which it is not certain now in which wave they start; empty where it is of all."""
    if all(one is not None for one in sure):
        return ""
    drawn = any(wave.upto is not None and wave.upto < EVERYBODY for wave in plan.waves)
    picks = any(wave.picks for wave in plan.waves)
    told = ["which devices a share has is drawn when it is released"] if drawn else []
    told += ["a wave of so many devices picks them when it begins, of those that are there then"] if picks else []
    return "; ".join(told)


def starting(
    plan: RolloutPlan, waves: Sequence[ForeseenWave], sure: Sequence[int | None], ready: Sequence[bool]
) -> tuple[int, int]:
    """How many devices that could take it now would start at once, and how many would have their turn later.

    Args:
        plan: the waves; `waves` as they are foreseen.
        sure: `certain_wave` of each device that may be meant.
        ready: whether each of them could take it now.
    """
    first, able = plan.waves[0], sum(ready)
    covered = _part(able, sum(wave.devices for wave in waves), len(sure))
    if first.approval:
        return 0, covered
    if first.picks:
        now = min(first.picks, able)
    elif first.upto is not None:
        now = _part(able, waves[0].devices, len(sure))
    else:
        now = sum(one == 1 and could for one, could in zip(sure, ready, strict=True))
    if first.concurrency is not None and first.concurrency_per is None:
        now = min(now, first.concurrency)
    return now, max(covered - now, 0)


def _part(number: int, some: int, of: int) -> int:
    """As large a part of a number as `some` is of `of`, rounded up."""
    return -(-number * some // of) if some < of else number


def waves_s(
    plan: RolloutPlan,
    waves: Sequence[ForeseenWave],
    device_s: float,
    jitter_s: float,
    opens_s: Callable[[float], float] = lambda from_s: from_s,
) -> float:
    """Seconds that all waves take where a device takes `device_s`, nothing fails, and nobody is waited for.

    A wave that has devices start a few at a time takes as often as long; by tag values it is counted as if all had one.

    Args:
        plan: the waves; `waves` as they are foreseen.
        device_s: how long a device takes.
        jitter_s: how long it waits before that, at most.
        opens_s: gives the second, from one on, at which devices may start.
    """
    total = 0.0
    for wave, seen in zip(plan.waves, waves, strict=True):
        if seen.devices:
            for _ in range(math.ceil(seen.devices / wave.concurrency) if wave.concurrency else 1):
                total = opens_s(total + jitter_s) + device_s
            total += seen.soak_s
    return total
