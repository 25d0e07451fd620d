"""The agent's log: one line an entry on stderr, `key=value` after the action, which is a phase's word where it can be.

Under systemd the time is left out, because the system journal adds its own.
"""

import logging
import os
import sys
import time
from typing import Any, Final

from schemas.errors import one_line

LOGGER: Final = "flotilla"
_PLAIN: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-+:/@,*")


def logger() -> logging.Logger:
    """The one logger of the agent's application code. Libraries do not use it."""
    return logging.getLogger(LOGGER)


def line(action: str, message: object = "", **fields: Any) -> str:
    """One entry, e.g. `action=staged package=tacho version=1.1.0 message="all there"`.

    Fields that are None or empty are left out; text with spaces is quoted, so that the line can be split again.
    """
    given = {"action": action, **fields, "message": message}
    return " ".join(f"{key}={_quoted(value)}" for key, value in given.items() if value not in (None, ""))


def set_up_logging(*, verbose: bool = False) -> None:
    """Send the agent's entries to stderr. Called once, by the program."""
    handler = logging.StreamHandler(sys.stderr)
    stamp = "" if "JOURNAL_STREAM" in os.environ else "%(asctime)sZ "
    formatter = logging.Formatter(f"{stamp}%(levelname)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    own = logger()
    own.addHandler(handler)
    own.setLevel(logging.DEBUG if verbose else logging.INFO)
    own.propagate = False


def _quoted(value: object) -> str:
    text = one_line(value, 1000)
    return text if text and set(text) <= _PLAIN else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
