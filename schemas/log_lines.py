"""What a line in a log is made of, on both sides: one vocabulary of fields, and a line as text or as JSON.

Pure: where lines go is each program's own affair. The vocabulary is written to `docs/contract/log-fields.md`.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from schemas.errors import one_line

MAX_TEXT: Final = 4096
"""Characters of one field; more is cut off, since some of it comes from outside."""

FIELDS: Final[dict[str, str]] = {
    "at": "when, RFC 3339 in UTC with milliseconds",
    "level": "`debug`, `info`, `warning`, `error` or `critical`",
    "action": "the step: a phase's word where it is one, else the part of the program that speaks",
    "message": "one line for a person",
    "code": "error code, see errors.md",
    "device": "device id",
    "package": "name of a package",
    "version": "version that it is about",
    "from_version": "version that an update began from",
    "channel": "channel",
    "rollout": "id of a rollout",
    "revision": "revision of an announcement",
    "update": "id of an update on a device",
    "attempt": "which attempt of an update, from 2 on",
    "phase": "phase of an update",
    "state": "state of a rollout or an announcement",
    "seq": "number of a device's event",
    "after_seq": "number of the event after which something begins or is asked for",
    "bytes": "bytes done and in all, as `done/all`",
    "kept": "how many were kept",
    "refused": "how many were refused",
    "given_up": "how many are not tried again",
    "count": "how many, of what the message says",
    "command": "id of a command",
    "verb": "verb of a command or of a request on the device",
    "subject": "what a request on the device is about",
    "topic": "topic of a message",
    "broker": "address of the broker, without credentials",
    "session": "number of a connection to the broker",
    "url": "address that is listened on or fetched from, without credentials",
    "client": "address of whoever sends HTTP requests",
    "method": "method of an HTTP request",
    "path": "path of an HTTP request",
    "role": "TUF role whose signature it is about",
    "life": "which life of a device's journal, from 2 on",
    "rev": "revision of a desired state",
    "pins": "packages that are held at a version, as `package:version,…`",
    "hold": "whether a device is held",
    "root": "the agent's folder",
    "services": "what becomes of services",
    "check": "name of a check",
    "ok": "whether a check passed",
    "actor": "who acted: `user:NAME`, `token:NAME`, `local:NAME` or `nobody`",
    "target": "name of a target of notifications",
    "notification": "id of a notification",
    "retry_s": "seconds until it is tried again",
    "logger": "part of the program, for lines of the controller and its libraries",
    "trace": "traceback of a defect",
}
"""Every field that a line may have, and what it says. A field may be added, never given another meaning."""

_PLAIN: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-+:/@,*")


class Line:
    """A line that is not made up before somebody writes it: as text by `str`, `key=value` after the action.

    Attributes:
        fields: by name, without those that are None or empty.
    """

    __slots__ = ("_given",)

    def __init__(self, given: Mapping[str, object]) -> None:
        self._given = given

    @property
    def fields(self) -> dict[str, object]:
        """See the class."""
        return {key: value for key, value in self._given.items() if value not in (None, "")}

    def __str__(self) -> str:
        return " ".join(f"{key}={_quoted(value)}" for key, value in self.fields.items())


def line(action: str, message: object = "", **fields: Any) -> Line:
    """One entry, e.g. `action=staged package=tacho version=1.1.0 message="all there"`.

    Fields that are None or empty are left out; text with spaces is quoted, so that the line can be split again.
    """
    return Line({"action": action, **fields, "message": message})


def as_json(at: float, level: str, fields: Mapping[str, object]) -> str:
    """A line as a JSON object without a line break.

    Args:
        at: seconds since 1970.
        level: the level's name, in any case.
        fields: by name; what the vocabulary does not have is left out, None and empty texts likewise.
    """
    moment = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    told: dict[str, object] = {"at": moment, "level": level.lower()}
    for name in FIELDS:
        value = fields.get(name)
        if name not in told and value not in (None, ""):
            told[name] = value if isinstance(value, (bool, int, float)) else _clipped(name, value)
    return msgspec.json.encode(told).decode()


def _clipped(name: str, value: object) -> str:
    # a traceback is worth its line breaks, which JSON escapes
    return str(value)[-4 * MAX_TEXT :] if name == "trace" else one_line(value, MAX_TEXT)


def _quoted(value: object) -> str:
    text = one_line(value, 1000)
    return text if text and set(text) <= _PLAIN else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
