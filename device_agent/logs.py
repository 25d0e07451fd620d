"""The agent's log: one line an entry on stderr, `key=value` after the action, which is a phase's word where it can be.

Under systemd the time is left out, because the system journal adds its own. As JSON it is always there.
"""

import logging
import os
import sys
import time
from enum import StrEnum
from typing import Final

from schemas.log_lines import Line, as_json, line

__all__ = ["LogFormat", "line", "logger", "set_up_logging"]

LOGGER: Final = "flotilla"


class LogFormat(StrEnum):
    """How lines are written."""

    TEXT = "text"
    JSON = "json"


def logger() -> logging.Logger:
    """The one logger of the agent's application code. Libraries do not use it."""
    return logging.getLogger(LOGGER)


def set_up_logging(*, verbose: bool = False, log_format: LogFormat = LogFormat.TEXT, device: str | None = None) -> None:
    """Send the agent's entries to stderr. Called once, by the program.

    Args:
        verbose: debug entries too.
        log_format: as text for people or as JSON lines for machines.
        device: the agent's id, which every JSON line names.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter(device) if log_format is LogFormat.JSON else _text_formatter())
    own = logger()
    own.addHandler(handler)
    own.setLevel(logging.DEBUG if verbose else logging.INFO)
    own.propagate = False


def _text_formatter() -> logging.Formatter:
    stamp = "" if "JOURNAL_STREAM" in os.environ else "%(asctime)sZ "
    formatter = logging.Formatter(f"{stamp}%(levelname)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    return formatter


class _JsonFormatter(logging.Formatter):
    def __init__(self, device: str | None) -> None:
        super().__init__()
        self._device = device

    def format(self, record: logging.LogRecord) -> str:
        """The fields of a line; another record's text is its message."""
        fields = dict(record.msg.fields) if isinstance(record.msg, Line) else {"message": record.getMessage()}
        trace = self.formatException(record.exc_info) if record.exc_info else None
        return as_json(
            record.created, record.levelname, {"action": "agent", "device": self._device, **fields, "trace": trace}
        )
