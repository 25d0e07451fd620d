"""Errors as RFC 9457 problem details: one line for a person, one code for a program, never a traceback."""

import logging
from typing import Any, Final

from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.types import ExceptionHandlersMap

from schemas.errors import FlotillaError, NetworkError, PublisherError, one_line

log = logging.getLogger("flotilla.http")

_STATUS: Final[dict[str, int]] = {
    "auth.refused": 401,
    "release.unknown": 404,
    "rollout.unknown": 404,
    "device.unknown": 404,
    "release.exists": 409,
    "release.in_use": 409,
    "rollout.state": 409,
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
    return 422 if isinstance(error, PublisherError) else 400


def problem(status: int, *, title: str, detail: str, code: str) -> Response[dict[str, Any]]:
    """A problem details answer; `type` is left to its default because `code` says which kind it is."""
    body = {"type": "about:blank", "title": title, "status": status, "detail": one_line(detail, 1000), "code": code}
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    return Response(body, status_code=status, media_type="application/problem+json", headers=headers)


def _foreseen(request: Request[Any, Any, Any], error: FlotillaError) -> Response[dict[str, Any]]:
    status = status_of(error)
    if status >= 500:
        log.error("%s %s: %s", request.method, one_line(request.url.path), error)
    return problem(status, title=error.code, detail=error.message, code=error.code)


def _bad_request(_: Request[Any, Any, Any], error: ValidationException) -> Response[dict[str, Any]]:
    parts: Any = error.extra or []
    found = [
        f"{part.get('key', '')}: {part.get('message', '')}".strip(": ") for part in parts if isinstance(part, dict)
    ]
    return problem(400, title="Bad Request", detail="; ".join(found) or error.detail, code="input.bad")


def _http(_: Request[Any, Any, Any], error: HTTPException) -> Response[dict[str, Any]]:
    return problem(error.status_code, title=type(error).__name__, detail=error.detail, code="input.bad")


def _unforeseen(request: Request[Any, Any, Any], error: Exception) -> Response[dict[str, Any]]:
    log.exception("%s %s failed", request.method, one_line(request.url.path), exc_info=error)
    return problem(
        500,
        title="Internal Server Error",
        detail="a defect in the controller; its log has the details",
        code="internal.error",
    )


HANDLERS: Final[ExceptionHandlersMap] = {
    FlotillaError: _foreseen,
    ValidationException: _bad_request,
    HTTPException: _http,
    Exception: _unforeseen,
}
