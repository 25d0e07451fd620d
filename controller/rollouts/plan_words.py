"""What is wrong with a plan, in words for whoever wrote it: the wave counted from 1, its key, and what to write."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from controller.rollouts.waves import MAX_IDS, MAX_WAVES, OnFailure
from schemas.errors import one_line
from schemas.names import in_words

_LENGTH: Final = "a length of time such as 90s, 10m, 2h or 1h30m"
_PERCENT: Final = "a percentage from 0 to 100, e.g. 5"
_IDS: Final = "ids of a-z, 0-9 and '-', first a letter or digit, at most 63"
_FORMS: Final = {
    "upto": "a percentage over 0 and up to 100, e.g. 10",
    "devices": f'how many, 1 to {MAX_IDS}, or a list of {_IDS}, e.g. ["pi-1", "pi-2"]',
    "where": 'a table of tags and facts, e.g. { site = "bern" }, where a list means any of its values',
    "soak": _LENGTH,
    "deadline": _LENGTH,
    "jitter": _LENGTH,
    "success": _PERCENT,
    "max_failures_percent": _PERCENT,
    "max_failures": "a whole number from 0 on",
    "min_results": "a whole number from 1 on",
    "concurrency": "a whole number from 1 on",
    "concurrency_per": "the name of a tag or fact, e.g. site",
    "approval": "true or false",
    "on_failure": f"one of {', '.join(OnFailure)}",
    "window": 'a daily time such as { start = "22:00", end = "04:30" }, maybe with days, where 0 is Monday',
    "not_before": "a time with its offset, e.g. 2026-05-01T22:00:00Z",
    "name": "text of at most 64 characters",
    "wave": f"1 to {MAX_WAVES} waves, each under a line [[wave]]",
}
"""By key, what can be written there."""

_FLAG_FORMS: Final = _FORMS | {
    "devices": f"how many, 1 to {MAX_IDS}, or {_IDS}, each with its own key: devices=pi-1,devices=pi-2",
    "where": "written where.TAG=VALUE, e.g. where.site=bern; several values are where.site=bern,where.site=thun",
    "wave": f"given 1 to {MAX_WAVES} times",
}
"""The same for waves that are options."""

_JSON_FORMS: Final = _FORMS | {
    "where": 'an object of tags and facts, e.g. {"site": "bern"}, where a list means any of its values',
    "window": 'a daily time such as {"start": "22:00", "end": "04:30"}, maybe with days, where 0 is Monday',
    "wave": f'a list of 1 to {MAX_WAVES} waves, each an object such as {{"upto": 10}}',
}
"""The same for a plan in JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """How a plan is written.

    Attributes:
        forms: by key, what can be written there.
        pair: of a key and its value.
        text: of a value.
        no_wave: what to write where there is no wave.
    """

    forms: Mapping[str, str]
    pair: Callable[[str, str], str]
    text: Callable[[Any], str]
    no_wave: str


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


FILE: Final = Written(
    forms=_FORMS,
    pair="{} = {}".format,
    text=_text,
    no_wave="it has no wave; begin each with a line [[wave]] and say below it for whom it is, e.g. upto = 10",
)
OPTIONS: Final = Written(forms=_FLAG_FORMS, pair="{}={}".format, text=_text, no_wave="it has no wave")
JSON: Final = Written(
    forms=_JSON_FORMS,
    pair='"{}": {}'.format,
    text=lambda value: msgspec.json.encode(value).decode(),
    no_wave=f'it has no wave; "wave" must be {_JSON_FORMS["wave"]}',
)


def why(error: msgspec.ValidationError, data: dict[str, Any], written: Written = FILE) -> str:
    """What is wrong, e.g. `wave 2: upto = 150; it must be a percentage over 0 and up to 100, e.g. 10`.

    Args:
        error: of the conversion.
        data: what was converted.
        written: how.
    """
    said = one_line(error)
    what, _, place = said.rpartition(" - at ")
    path = re.findall(r"[^.\[\]]+|\.\.\.", place.partition("$")[2].strip("`"))
    if not path:
        return written.no_wave if "`wave`" in said else in_words(said)
    wave, keys = (int(path[1]) + 1, path[2:]) if path[0] == "wave" and len(path) > 1 else (0, path)
    key = keys[0] if keys else "wave"
    before = f"wave {wave}: " if wave else ""
    form = written.forms.get(key)
    if form is None:
        return f"{before}{'.'.join(keys)}: {in_words(what)}"
    given = _given(data["wave"][wave - 1] if wave else data, key, written)
    return f"{before}{written.pair(key, given)}; it must be {form}" if given else f"{before}{key} must be {form}"


def unknown(problem: str) -> str:
    """What `unknown_key` says, with waves counted from 1."""
    return re.sub(r"\bwave\[(\d+)\]", lambda found: f"wave {int(found[1]) + 1}", problem)


def _given(table: object, key: str, written: Written) -> str:
    """What was written there, where it is short enough to be said."""
    value = table.get(key) if isinstance(table, dict) else None
    if value is None or key == "wave":
        return ""
    return one_line(written.text(value), 80)
