"""What names may look like. Each pattern is the whole rule: nothing else is checked anywhere."""

import re
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Final

import msgspec

PACKAGE_PATTERN: Final = r"^[a-z0-9][a-z0-9-]{0,62}(?!\n)$"
CHANNEL_PATTERN: Final = r"^[a-z0-9][a-z0-9-]{0,31}(?!\n)$"
DEVICE_PATTERN: Final = r"^[a-z0-9][a-z0-9-]{0,62}(?!\n)$"
PLATFORM_PATTERN: Final = r"^[a-z0-9][a-z0-9_-]{0,31}(?!\n)$"
SHA256_PATTERN: Final = r"^[0-9a-f]{64}(?!\n)$"
UUID7_PATTERN: Final = r"^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}(?!\n)$"
KEY_PATTERN: Final = r"^[A-Za-z][A-Za-z0-9_.-]{0,62}(?!\n)$"
SERVICE_PATTERN: Final = r"^[a-z0-9][a-z0-9-]{0,31}(?!\n)$"

# `(?!\n)$` rather than `$`: Python's `$` also matches before a last newline, and `\Z` is not known to
# the regular expressions of JSON Schema, into which these patterns are exported.
PackageName = Annotated[str, msgspec.Meta(pattern=PACKAGE_PATTERN, max_length=63)]
ChannelName = Annotated[str, msgspec.Meta(pattern=CHANNEL_PATTERN, max_length=32)]
DeviceId = Annotated[str, msgspec.Meta(pattern=DEVICE_PATTERN, max_length=63)]
Platform = Annotated[str, msgspec.Meta(pattern=PLATFORM_PATTERN, max_length=32)]
Sha256 = Annotated[str, msgspec.Meta(pattern=SHA256_PATTERN, max_length=64)]
Uuid7 = Annotated[str, msgspec.Meta(pattern=UUID7_PATTERN, max_length=36)]
Key = Annotated[str, msgspec.Meta(pattern=KEY_PATTERN, max_length=63)]
ServiceName = Annotated[str, msgspec.Meta(pattern=SERVICE_PATTERN, max_length=32)]
VersionText = Annotated[str, msgspec.Meta(min_length=5, max_length=256)]

RESERVED_DEVICES: Final = frozenset({"controller", "homeassistant", "watcher"})
"""Users of the broker that are no devices (`broker_config/acl`), and so no device may have their names as its id."""

ANY_PLATFORM: Final = "any"
"""The platform of packages that run everywhere."""


def matches(pattern: str, text: str) -> bool:
    """Whether the whole of `text` has the form of `pattern`."""
    return _compiled(pattern).search(text) is not None


_compiled: Final = cache(re.compile)  # what `re` keeps by itself takes three times as long to find


def platform_fits(package_platform: str, device_platform: str) -> bool:
    """Whether a package for `package_platform` may run on `device_platform` (e.g. `linux-aarch64`)."""
    return package_platform in (ANY_PLATFORM, device_platform)


_OTHER_NAMES: Final = {
    "linux-arm64": "linux-aarch64",
    "linux-armv8": "linux-aarch64",
    "linux-arm": "linux-armv7l, or linux-armv6l for a Pi 1 or Zero",
    "linux-armhf": "linux-armv7l",
    "linux-armv7": "linux-armv7l",
    "linux-armv6": "linux-armv6l",
    "linux-amd64": "linux-x86_64",
    "linux-x64": "linux-x86_64",
    "linux-x86-64": "linux-x86_64",
}
"""What other systems call a platform: devices go by the machine's name, as `uname -m` says it."""


def wrong_platform(platform: str) -> str | None:
    """What to write in place of a platform's name that other systems use; None for any other text."""
    name = _OTHER_NAMES.get(platform)
    return None if name is None else f"no device calls itself {platform}; it is {name} here"


_FORMS: Final = {
    PACKAGE_PATTERN: "a name: a-z, 0-9 and '-', first a letter or digit, at most 63",
    CHANNEL_PATTERN: "a short name: a-z, 0-9 and '-', first a letter or digit, at most 32",
    PLATFORM_PATTERN: "a platform such as linux-aarch64",
    SHA256_PATTERN: "64 hexadecimal digits",
    UUID7_PATTERN: "a UUID of version 7",
    KEY_PATTERN: "a key: letters, digits, '_', '.' and '-', first a letter, at most 63",
}
_TYPES: Final = {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false"} | {
    "array": "a list",
    "object": "a table",
    "null": "nothing",
}


_SHORTEST_VERSION: Final = "Expected `str` of length >= 5"
"""What is said of a `VersionText` that is none; nothing else has to be as long."""


def in_words(message: str, more: Mapping[str, str] = {}) -> str:
    """What msgspec says about a value, without regular expressions and names of types: `must be text, not a list`.

    Args:
        message: of a validation error.
        more: patterns beside those of this module, with what has their form.
    """
    text = message.replace(_SHORTEST_VERSION, "must be a full version such as 1.2.0")
    for pattern, form in (*_FORMS.items(), *more.items()):
        text = text.replace(f"Expected `str` matching regex {pattern!r}", f"must be {form}")
    expected = re.fullmatch(r"Expected `([a-z |]+)`(.*)", text)
    if expected:
        kinds = [_TYPES.get(kind, kind) for kind in expected[1].split(" | ") if kind != "null"]
        rest = expected[2].replace("matching regex", "of the form").replace(r"(?!\\n)", "")
        parts = "character" if kinds == ["text"] else "entry"
        rest = re.sub("of length ([<>]=) ([0-9]+)", lambda found: _length(found[1], int(found[2]), parts), rest)
        text = f"must be {' or '.join(kinds)}{rest}"
    return re.sub(r", got `([a-z]+)`", lambda got: f", not {_TYPES.get(got[1], got[1])}", text)


def place_in_words(path: str) -> str:
    """Where a value stands, by msgspec's path below `$.`: `a value of pins` for `pins[...]`."""
    return f"a value of {path.removesuffix('[...]')}" if path.endswith("[...]") else path


def wrong(error: msgspec.ValidationError) -> str:
    """What is wrong with a value, and where: `a value of pins: must be a full version such as 1.2.0`."""
    what, _, place = str(error).partition(" - at ")
    where = place_in_words(place.replace("`key` in ", "").strip("`").removeprefix("$").removeprefix("."))
    return f"{where}: {in_words(what)}" if where else in_words(what)


def _length(bound: str, number: int, part: str) -> str:
    """`of at most 256 characters`."""
    parts = part if number == 1 else {"entry": "entries"}.get(part, f"{part}s")
    return f"of at {'most' if bound == '<=' else 'least'} {number} {parts}"
