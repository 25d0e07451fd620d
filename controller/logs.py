"""The controller's log on stderr: lines for people, or with `--log-format json` one JSON object a line.

A call gives a sentence, and with `extra=told(…)` the facts in it as fields of `schemas.log_lines.FIELDS`.
"""

import logging
import sys
from collections.abc import Mapping
from typing import Any, Final, Literal

from schemas.errors import FlotillaError
from schemas.log_lines import as_json

LogFormat = Literal["text", "json"]

FORMATS: Final = ("text", "json")
_FIELDS: Final = "flotilla_fields"
_TEXT: Final = "%(asctime)s %(levelname)s %(name)s %(message)s"
_NOISY: Final = ("alembic", "litestar")
"""Libraries of which only warnings are wanted. Of some not even these are: see `controller.notify.sending` and
`controller.connections`."""


def told(action: str, error: object = None, **fields: object) -> dict[str, Any]:
    """The `extra` of a log call.

    Args:
        action: what it is about, as the same word everywhere.
        error: an error whose code is a field, if it has one.
        fields: by the names of `schemas.log_lines.FIELDS`, which a test holds all calls to.
    """
    code = {"code": error.code} if isinstance(error, FlotillaError) else {}
    return {_FIELDS: {"action": action, **code, **fields}}


def set_up_logging(log_format: LogFormat = "text") -> None:
    """Send all entries to stderr. Called once, by the program."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else logging.Formatter(_TEXT))
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)


class JsonFormatter(logging.Formatter):
    """One JSON object a record; a record that names no fields has its logger's last word as action."""

    def format(self, record: logging.LogRecord) -> str:
        """See the class."""
        fields: Mapping[str, object] = getattr(record, _FIELDS, {})
        trace = self.formatException(record.exc_info) if record.exc_info else None
        general = {"action": record.name.rpartition(".")[2], "message": record.getMessage(), "logger": record.name}
        return as_json(record.created, record.levelname, {**general, **fields, "trace": trace})
