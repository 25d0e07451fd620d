"""What is wrong with a `notify.toml`, in words for whoever wrote it: where, and what to write. Quotes no secret."""

import re
import tomllib
from typing import Any, Final

import msgspec

from controller.notify.kinds import KINDS
from controller.packaging import toml_words
from schemas.errors import one_line
from schemas.names import in_words

WIKI: Final = "https://github.com/caronc/apprise/wiki"
_NAME: Final = "a short name: a-z, 0-9 and '-', first a letter or digit, at most 32, e.g. ops"
_FORMS: Final = {
    "silent_after_hours": "a number of hours from 0.01 to 8784, e.g. 24",
    "apprise": "targets, each under a line [[apprise]]",
    "webhook": "targets, each under a line [[webhook]]",
    "name": _NAME,
    "url": "an address in double quotes",
    "url_file": "the name of a file in double quotes, of which the address is the only line",
    "secret": "text in double quotes",
    "secret_file": "the name of a file in double quotes, of which the secret is the only line",
    "events": f'a list of some of {", ".join(KINDS)}, e.g. ["{KINDS[0]}"]; left out it is all of them',
}
"""By key, what can be written there."""

_SHOWN: Final = frozenset({"silent_after_hours", "name", "events"})
"""Keys whose value is no secret, whatever it is."""

_TABLES: Final = ("[[apprise]]", "[[webhook]]")


def no_toml(error: tomllib.TOMLDecodeError) -> str:
    """Why the file is no TOML, and where; what stands there may be a secret."""
    return toml_words.no_toml(error, noun="target", tables=_TABLES, quotes=False)


def unknown(problem: str) -> str:
    """What `unknown_key` says, with targets counted from 1."""
    return _counted(problem)


def why(error: msgspec.ValidationError, data: dict[str, Any]) -> str:
    """What is wrong, e.g. `target apprise 1: name = 'Ops'; it must be a short name: …`.

    Args:
        error: of the conversion.
        data: what was converted.
    """
    said = one_line(error)
    what, _, place = said.rpartition(" - at ")
    path = re.findall(r"[^.\[\]]+", place.partition("$")[2].strip("`"))
    target = path[:2] if len(path) > 1 and path[1].isdecimal() else []
    keys = path[len(target) :]
    where = f"target {target[0]} {int(target[1]) + 1}: " if target else ""
    if "missing required field `name`" in said:
        return f'{where}it has no name; write e.g. name = "ops"'
    key = keys[0] if keys else (path[0] if path else "")
    form = _FORMS.get(key)
    if form is None or (target and not keys):
        return f"{where}{in_words(what or said)}"
    table = data[target[0]][int(target[1])] if target else data
    given = one_line(repr(table.get(key)), 80) if key in _SHOWN else ""
    if "://" in given:
        given = ""  # an address that stands in the wrong place
    return f"{where}{key} = {given}; it must be {form}" if given else f"{where}{key} must be {form}"


def _counted(text: str) -> str:
    return re.sub(r"\b(apprise|webhook)\[(\d+)\]", lambda found: f"target {found[1]} {int(found[2]) + 1}", text)
