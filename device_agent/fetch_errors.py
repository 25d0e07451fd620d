"""What goes wrong while fetching over HTTP, in our own words, and what may be different the next time."""

import ssl
import time
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

import urllib3

from schemas.errors import DeviceError, FlotillaError, NetworkError, PublisherError, TrustError, one_line

_FINAL_CODES: Final = frozenset({"fetch.not_found", "fetch.limit"})


class StoppedError(Exception):
    """`HttpFetcher.stop` was called."""


class FinalRefusalError(NetworkError):
    """An answer that asking again will not change."""


class BusyError(NetworkError):
    """The repository cannot answer now.

    Attributes:
        retry_after_s: when it says to ask again, counted from now; None where it does not say.
    """

    def __init__(self, message: str, retry_after_s: float | None) -> None:
        super().__init__("fetch.refused", message)
        self.retry_after_s = retry_after_s


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """What `Retry-After` asks for, as seconds from now; None where it is missing or means nothing.

    A date is taken relative to the answer's own `Date` where there is one: the device's clock may be wrong.
    """
    text = headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text[:9])
    due = _moment(text)
    if due is None:
        return None
    sent = _moment(headers.get("Date", ""))
    return max(0.0, due - (time.time() if sent is None else sent))


def may_pass(error: FlotillaError) -> bool:
    """Whether asking the same repository again may help."""
    return (
        isinstance(error, NetworkError) and not isinstance(error, FinalRefusalError) and error.code not in _FINAL_CODES
    )


def weight(error: FlotillaError) -> int:
    """Lowest for the failure that says most: a lie before an outage, an outage before a gap."""
    kinds: tuple[type[FlotillaError], ...] = (TrustError, PublisherError, DeviceError)
    for number, kind in enumerate(kinds):
        if isinstance(error, kind):
            return number
    return 5 if error.code == "fetch.not_found" else 3 if may_pass(error) else 4


def translated(error: Exception, url: str) -> NetworkError:
    """An error of the HTTP library or the system."""
    code, reason = "fetch.unreachable", one_line(error, 160)
    match error:
        case urllib3.exceptions.NameResolutionError():
            reason = "the host's name cannot be resolved"
        case urllib3.exceptions.NewConnectionError():  # counted among the timeouts by urllib3
            reason = "no connection"
        case urllib3.exceptions.TimeoutError():
            code, reason = "fetch.timeout", "no answer in time"
        case urllib3.exceptions.SSLError(args=(ssl.SSLCertVerificationError() as cause, *_)):
            reason = one_line(cause.verify_message or cause, 120)
            return FinalRefusalError(code, f"{url}: the certificate is not trusted: {reason}")
        case urllib3.exceptions.SSLError():
            reason = f"no secure connection: {reason}"
        case urllib3.exceptions.ProtocolError():
            reason = "the connection broke off, or the answer is no HTTP"
    return NetworkError(code, f"{url}: {reason}")


def _moment(text: str) -> float | None:
    """Seconds since 1970 of an HTTP date."""
    try:
        parsed = parsedate_to_datetime(text)
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
