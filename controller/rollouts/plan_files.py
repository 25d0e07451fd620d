"""Reads plans: TOML files, the ready ones that ship, waves given one by one as flags, and plans in JSON."""

import difflib
import tomllib
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

import msgspec

from controller.meant import did_you_mean
from controller.packaging.toml_keys import unknown_key
from controller.packaging.toml_words import no_text, no_toml
from controller.rollouts import plan_words
from controller.rollouts.waves import OnFailure, RolloutPlan, check_plan
from schemas.errors import OperatorError, one_line

READY: Final = ("all-at-once", "canary", "careful")
"""Plans that ship."""

CANARY_FROM: Final = 20
"""Devices from which on a release is tried on one of them first, where no plan is named."""

MAX_BYTES: Final = 1 << 20


@cache
def ready_plan(name: str) -> RolloutPlan:
    """One of `READY`; raises `OperatorError` (`input.bad`) for another name."""
    if name not in READY:
        raise OperatorError(
            "input.bad", f"there is no plan {one_line(name, 80)!r}; ready are {', '.join(READY)}{_near(name)}"
        )
    text = (resources.files("controller.rollouts") / "ready" / f"{name}.toml").read_text(encoding="utf-8")
    return parse_plan(text, name)


def default_plan(devices: int) -> RolloutPlan:
    """What a release gets that names no plan, by the number of devices it is for."""
    return ready_plan("canary" if devices >= CANARY_FROM else "all-at-once")


def load_plan(name_or_file: str) -> RolloutPlan:
    """A plan by its name, or out of a file.

    Raises:
        OperatorError: `input.bad`, in one line.
    """
    if name_or_file in READY:
        return ready_plan(name_or_file)
    path = Path(name_or_file)
    if not path.is_file():
        known = ", ".join(READY)
        raise OperatorError(
            "input.bad",
            f"no plan {one_line(name_or_file)!r}: neither a file nor one of {known}{_near(name_or_file)}",
        )
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise OperatorError("input.bad", f"plan {one_line(path)} is larger than {MAX_BYTES} bytes")
        text = content.decode()
    except OSError as error:
        raise OperatorError("input.bad", f"plan {one_line(path)} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise OperatorError("input.bad", f"plan {one_line(path)} {no_text(error)}") from error
    plan = parse_plan(text, str(path))
    return plan if plan.name != "own" else msgspec.structs.replace(plan, name=path.stem[:64])


def parse_plan(text: str, where: str) -> RolloutPlan:
    """A plan out of TOML; `where` is said in errors. Raises `OperatorError` (`input.bad`)."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        why = no_toml(error, noun="wave", tables=("[[wave]]",), quotes=True)
        raise OperatorError("input.bad", f"plan {one_line(where)} {why}") from error
    except RecursionError as error:
        raise OperatorError("input.bad", f"plan {one_line(where)}: lists within lists, too many of them") from error
    plan = _converted(data, f"plan {one_line(where)}")
    check_plan(plan, f"plan {one_line(where)}")
    return plan


def plan_of_flags(waves: tuple[str, ...], on_failure: str | None) -> RolloutPlan:
    """A plan out of texts like `upto=10,soak=10m,where.site=bern`; raises `OperatorError` (`input.bad`)."""
    data: dict[str, Any] = {"wave": [_wave_of(text) for text in waves]}
    if on_failure is not None:
        data["on_failure"] = OnFailure(on_failure)
    plan = _converted(data, "--wave", plan_words.OPTIONS)
    check_plan(plan, "--wave")
    return plan


def check_wish(plan: Any) -> None:
    """Refuse what a wish in JSON has for a plan and is none, in the words that plan files get.

    Args:
        plan: as it was decoded; None, the name of a ready one, or a plan.

    Raises:
        OperatorError: `input.bad`, in one line.
    """
    if isinstance(plan, dict):
        _converted(plan, "plan", plan_words.JSON)
    elif plan is not None and not isinstance(plan, str):
        names = ", ".join(READY)
        raise OperatorError(
            "input.bad", f"plan must be an object as in a plan file, or the name of a ready one: {names}"
        )


def _near(name: str) -> str:
    return did_you_mean(difflib.get_close_matches(name.lower(), READY, n=1))


def _converted(data: dict[str, Any], where: str, written: plan_words.Written = plan_words.FILE) -> RolloutPlan:
    if problem := unknown_key(data, RolloutPlan):
        raise OperatorError("input.bad", f"{where}: {plan_words.unknown(problem)}")
    try:
        return msgspec.convert(data, RolloutPlan, strict=written is plan_words.FILE)
    except msgspec.ValidationError as error:
        raise OperatorError("input.bad", f"{where}: {plan_words.why(error, data, written)}") from error


def _wave_of(text: str) -> dict[str, Any]:
    wave: dict[str, Any] = {}
    for part in text.split(","):
        key, equals, value = (word.strip() for word in part.partition("="))
        if not equals or not key or not value:
            raise OperatorError(
                "input.bad", f"--wave {one_line(text)!r}: {part.strip()!r} is not of the form KEY=VALUE"
            )
        if key == "devices" and not value.isdecimal():
            wave.setdefault(key, []).append(value)
        elif key.startswith("where."):
            values = wave.setdefault("where", {}).setdefault(key.removeprefix("where."), [])
            values.append(value)
        elif key in wave:
            raise OperatorError("input.bad", f"--wave {one_line(text)!r} says {key} twice")
        else:
            wave[key] = value
    return wave
