"""Errors as RFC 9457 problem details: one line for a person, one code for a program, never a traceback."""

import logging
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, SerializationException, ValidationException
from litestar.response import Redirect
from litestar.types import ExceptionHandlersMap

from controller.accounts.views import NAME_FORM, NAME_PATTERN
from controller.http.guard import LoginNeededError
from controller.http.login import TooManyLoginsError
from controller.logs import told
from schemas.errors import FlotillaError, NetworkError, PublisherError, TrustError, one_line
from schemas.names import in_words, place_in_words

log = logging.getLogger("flotilla.http")

MEDIA_TYPE: Final = "application/problem+json"

_NO_BODY: Final = ("data", "'data'")
"""How the framework says that a body is missing."""
_FORMS: Final = {NAME_PATTERN: NAME_FORM}

_STATUS: Final[dict[str, int]] = {
    "auth.refused": 401,
    "auth.denied": 403,
    "auth.limit": 429,
    "account.unknown": 404,
    "account.exists": 409,
    "request.key": 422,
    "request.running": 409,
    "release.unknown": 404,
    "rollout.unknown": 404,
    "device.unknown": 404,
    "release.exists": 409,
    "release.in_use": 409,
    "release.yanked": 409,
    "rollout.ambiguous": 409,
    "rollout.state": 409,
    "device.online": 409,
    "watch.limit": 503,
    "export.limit": 503,
    "package.limit": 413,
    "trust.keys": 409,
    "disk.full": 507,
    "disk.io": 507,
    "data.bad": 500,
    "internal.error": 500,
}


def status_of(error: FlotillaError) -> int:
    """The HTTP status that fits an error best."""
    if error.code in _STATUS:
        return _STATUS[error.code]
    if isinstance(error, NetworkError):
        return 503
    if isinstance(error, TrustError):
        # the controller's own metadata is not as it signed it
        return 500
    return 422 if isinstance(error, PublisherError) else 400


def problem(
    status: int, *, detail: str, code: str, headers: Mapping[str, str] | None = None
) -> Response[dict[str, Any]]:
    """A problem details answer; `type` is left to its default because `code` says which kind it is.

    With that type, the title is the status' phrase.
    """
    title = HTTPStatus(status).phrase
    body = {"type": "about:blank", "title": title, "status": status, "detail": one_line(detail, 1000), "code": code}
    more = {"WWW-Authenticate": "Bearer"} if status == HTTPStatus.UNAUTHORIZED else {}
    return Response(body, status_code=status, media_type=MEDIA_TYPE, headers={**(headers or {}), **more})


def _foreseen(request: Request[Any, Any, Any], error: FlotillaError) -> Response[dict[str, Any]]:
    status = status_of(error)
    if status >= 500:
        log.error("%s %s: %s", request.method, one_line(request.url.path), error, extra=_request(request, error))
    headers = {"Retry-After": str(error.retry_after_s)} if isinstance(error, TooManyLoginsError) else {}
    return problem(status, detail=error.message, code=error.code, headers=headers)


def _to_login(request: Request[Any, Any, Any], error: LoginNeededError) -> Response[Any]:
    if request.headers.get("hx-request") == "true":
        # a part of a page: the script that asked for it goes there as a whole
        return Response(None, status_code=401, headers={"HX-Redirect": "/login", "Cache-Control": "no-store"})
    return Redirect(error.location, status_code=303, headers={"Cache-Control": "no-store"})


def _request(request: Request[Any, Any, Any], error: FlotillaError | None = None) -> dict[str, Any]:
    return told("http", error, method=request.method, path=request.url.path)


def _bad_request(_: Request[Any, Any, Any], error: ValidationException) -> Response[dict[str, Any]]:
    parts: Any = error.extra or []
    found = [_wrong(part.get("key", ""), part.get("message", "")) for part in parts if isinstance(part, dict)]
    return problem(400, detail="; ".join(found) or error.detail, code="input.bad")


def _wrong(key: str, message: str) -> str:
    """One value that is wrong: `a value of pins: must be a full version such as 1.2.0`."""
    if (key, message) == _NO_BODY:
        return "the body is empty; it has to be JSON"
    where = "" if key == "data" else place_in_words(key)
    text = in_words(message, _FORMS).replace("a table", "an object")
    text = re.sub("^Object missing required field `(.*)`$", r"lacks the field \1", text)
    text = re.sub("^Object contains unknown field `(.*)`$", r"there is no field \1 here", text)
    text = re.sub("^Invalid enum value (.*)$", r"\1 is none of its values; GET /api/docs shows them", text)
    return f"{where}: {text}" if where else text


def _http(request: Request[Any, Any, Any], error: HTTPException) -> Response[dict[str, Any]]:
    status = HTTPStatus(error.status_code)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("%s %s: %s", request.method, one_line(request.url.path), one_line(error), extra=_request(request))
    if (no_json := _no_json(error)) is not None:
        return problem(status, detail=no_json, code="input.bad", headers=error.headers)
    detail = {
        HTTPStatus.NOT_FOUND: f"there is nothing at {request.url.path}; GET /api/docs shows what there is",
        HTTPStatus.METHOD_NOT_ALLOWED: f"{request.method} is not for {request.url.path}{allowed(error)}",
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "the request is larger than any that is meant here",
    }.get(status, error.detail)
    return problem(status, detail=detail, code="input.bad", headers=error.headers)


def allowed(error: HTTPException) -> str:
    """What a refusal of a method adds: `, which takes GET and DELETE`; empty where that is not known."""
    methods = (error.headers or {}).get("allow", "").split(", ")
    shown = sorted(set(methods) - {"", "OPTIONS"})
    return f", which takes {' and '.join(shown)}" if shown else ""


def _no_json(error: HTTPException) -> str | None:
    """What is wrong with a body that cannot be read as JSON; None where something else is wrong."""
    read = error.__cause__.__cause__ if isinstance(error.__cause__, SerializationException) else None
    if not isinstance(read, msgspec.DecodeError) or isinstance(read, msgspec.ValidationError):
        return None
    said = str(read).removeprefix("JSON is malformed: ")
    return f"the body is no JSON: {said[:1].lower()}{said[1:]}"


def _unforeseen(request: Request[Any, Any, Any], error: Exception) -> Response[dict[str, Any]]:
    extra = _request(request)
    log.exception("%s %s failed", request.method, one_line(request.url.path), exc_info=error, extra=extra)
    return problem(
        500,
        detail="a defect in the controller; its log has the details",
        code="internal.error",
    )


def _too_deep(_: Request[Any, Any, Any], __: RecursionError) -> Response[dict[str, Any]]:
    return problem(400, detail="the request's JSON is nested too deeply", code="input.bad")


def _no_text(_: Request[Any, Any, Any], __: UnicodeDecodeError) -> Response[dict[str, Any]]:
    return problem(400, detail="the request's JSON has text that is not UTF-8", code="input.bad")


HANDLERS: Final[ExceptionHandlersMap] = {
    LoginNeededError: _to_login,
    FlotillaError: _foreseen,
    ValidationException: _bad_request,
    HTTPException: _http,
    RecursionError: _too_deep,
    UnicodeDecodeError: _no_text,
    Exception: _unforeseen,
}
