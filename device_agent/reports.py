"""Errors and details in the form in which events carry them: clean text within the contract's limits."""

from itertools import groupby
from typing import Any, Final

from schemas.errors import DeviceError, FlotillaError, one_line
from schemas.messages import ErrorReport

MAX_MESSAGE: Final = 2048
MAX_LOG: Final = 16_384
"""Characters, the contract's limit; the last ones are kept."""
MAX_DETAIL_TEXT: Final = 4096


def report(error: FlotillaError) -> ErrorReport:
    """An error for an event."""
    return ErrorReport(code=error.code, message=one_line(error, MAX_MESSAGE), log_tail=log_tail(error.log_tail))


def defect(error: Exception) -> FlotillaError:
    """An exception that nobody foresaw, as the defect that it is."""
    return DeviceError("internal.error", f"{type(error).__name__}: {one_line(error)}")


def log_tail(text: str) -> str:
    """The last lines that fit an event. Output may hold bytes that are no text; they become question marks."""
    return _clean(text)[-MAX_LOG:]


def folded(text: str) -> str:
    """A log with lines that are the same as the one before told once, as `line (8 times)`."""
    counted = ((line, sum(1 for _ in same)) for line, same in groupby(text.splitlines()))
    told = "\n".join(f"{line} ({count} times)" if line and count > 1 else line for line, count in counted)
    return told + "\n" if told and text.endswith("\n") else told


def detail(values: dict[str, Any]) -> dict[str, Any] | None:
    """An event's detail without empty values, long texts cut at their start; None where nothing is left."""
    kept = {
        key: _clean(value)[-MAX_DETAIL_TEXT:] if isinstance(value, str) else value
        for key, value in values.items()
        if value not in (None, "", [], {})
    }
    return kept or None


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
