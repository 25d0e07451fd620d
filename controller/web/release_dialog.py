"""Releasing on the page: what it would do is shown first, and only what was shown is released."""

from collections.abc import Mapping
from typing import Final

import msgspec

from controller.http.views import ReleaseWish
from controller.rollouts.plan_files import CANARY_FROM, READY
from controller.web.actions import Field
from controller.web.fleet_reading import Numbers
from controller.web.rendering import plural
from schemas.errors import OperatorError
from schemas.names import in_words

BY_NUMBER: Final = "by number of devices"
DEVICES_SHOWN: Final = 50
SEEN: Final = "seen"
CONFIRM: Final = "confirm"


def wish_of(name: str, version: str, fields: Mapping[str, str]) -> ReleaseWish:
    """What the form asks for; raises `OperatorError` (`input.bad`) for a channel that can be none."""
    plan = fields.get("plan") or BY_NUMBER
    wish = {"package": name, "version": version, "channel": fields.get("channel", "")}
    wish |= {} if plan == BY_NUMBER else {"plan": plan}
    try:
        return msgspec.convert(wish, ReleaseWish)
    except msgspec.ValidationError as error:
        what = str(error).partition(" - at ")[0]
        raise OperatorError("input.bad", f"the channel {in_words(what)}, such as stable") from error


def seen(fields: Mapping[str, str]) -> str:
    """Names what is looked at, so that a form in which something was changed since then is looked at anew."""
    return f"{fields.get('channel', '')} {fields.get('plan') or BY_NUMBER}"


def is_confirmed(fields: Mapping[str, str]) -> bool:
    """Whether somebody has pressed the button below what they were shown."""
    return fields.get(CONFIRM) == "yes" and fields.get(SEEN) == seen(fields)


def fields_and_facts(
    given: Mapping[str, str], numbers: Numbers, pointed: set[str]
) -> tuple[list[Field], list[str], dict[str, str]]:
    """What is to be filled in, lines that help with it, and what the fields hold.

    Args:
        given: what was filled in already.
        numbers: of the fleet.
        pointed: channels that point at the version.
    """
    followed = [channel for channel in numbers.channels if channel]
    held = {
        "channel": given.get("channel", followed[0] if len(followed) == 1 else ""),
        "plan": given.get("plan") or BY_NUMBER,
    }
    fields = [
        Field(
            name="channel",
            label="Channel",
            value=held["channel"],
            suggested=sorted({*followed, *pointed}),
            hint="Whose devices take it.",
        ),
        Field(
            name="plan",
            label="Plan",
            value=held["plan"],
            choices=[BY_NUMBER, *READY],
            hint=f"By the number of devices: canary from {CANARY_FROM} up, else all at once.",
        ),
    ]
    facts = [
        f"{plural(number, 'device')} {'follows' if number == 1 else 'follow'} {channel}."
        for channel, number in numbers.channels.items()
        if channel
    ][:6]
    return fields, facts, held
