"""Why a webhook did not answer, in words for people. No word of its address, which may be a secret."""

import os
import socket
import ssl
from http.client import HTTPException, RemoteDisconnected
from typing import Final

from urllib3.exceptions import NameResolutionError, NewConnectionError
from urllib3.exceptions import TimeoutError as TooLongError

_OTHER_NAME: Final = frozenset({62, 64})
"""OpenSSL's codes for a certificate of another host or address: its own words name the host."""
_DEEPEST: Final = 8


def why_no_answer(error: BaseException, within_s: float) -> str:
    """What kept a request from its answer.

    Args:
        error: as urllib3 raised it.
        within_s: how long was waited.
    """
    found = _all_of(error)
    if any(isinstance(one, NameResolutionError | socket.gaierror) for one in found):
        return "no such host, or no name server answers"
    for one in found:
        if why := _of_one(one, within_s):
            return why
    if any(isinstance(one, TimeoutError | TooLongError) and not isinstance(one, NewConnectionError) for one in found):
        return f"timed out after {within_s:g} s"
    return type(error).__name__


def _of_one(error: BaseException, within_s: float) -> str | None:
    """What one of them says for itself."""
    if isinstance(error, ssl.SSLError):
        return _of_tls(error, within_s)
    if isinstance(error, RemoteDisconnected):
        return "the connection was closed"
    if isinstance(error, HTTPException):
        return "what is there does not speak HTTP"
    if isinstance(error, OSError) and not isinstance(error, TimeoutError) and error.errno:
        return os.strerror(error.errno).lower()
    return None


def _of_tls(error: ssl.SSLError, within_s: float) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _OTHER_NAME:
            return "its certificate is for another host"
        return f"its certificate is not trusted: {error.verify_message}"
    if "timed out" in str(error):
        return f"timed out after {within_s:g} s"
    return f"TLS failed: {error.reason.replace('_', ' ').lower()}" if error.reason else "TLS failed"


def _all_of(error: BaseException) -> list[BaseException]:
    """An error and those that led to it: as its cause, or as what it was made of."""
    found: list[BaseException] = []
    left: list[BaseException | None] = [error]
    while left and len(found) < _DEEPEST:
        one = left.pop(0)
        if one is None or one in found:
            continue
        found.append(one)
        left += [one.__cause__, *(part for part in one.args if isinstance(part, BaseException)), one.__context__]
    return found
