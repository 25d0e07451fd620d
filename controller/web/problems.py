"""Errors as pages: the same one line that the API tells, and a way back."""

import logging
from http import HTTPStatus
from typing import Any, Final

from jinja2 import Environment
from litestar import MediaType, Response
from litestar.exceptions import HTTPException
from litestar.types import ExceptionHandlersMap

from controller.http.noting import refused, who_of
from controller.http.problems import HANDLERS, allowed, status_of
from controller.web.rendering import HEADERS, Asked, is_part
from controller.web.visitor import visitor_of
from schemas.errors import FlotillaError, one_line

log = logging.getLogger("flotilla.web")

_DEFECT: Final = "a defect in the controller; its log has the details"


def problem_pages(environment: Environment) -> ExceptionHandlersMap:
    """Handlers for what goes wrong on the page."""

    def shown(request: Asked, status: int, line: str, code: str) -> Response[str]:
        refused(request, code)
        template = environment.get_template("problem_part.html" if is_part(request) else "problem.html")
        text = template.render(
            status=status,
            title=HTTPStatus(status).phrase,
            line=one_line(line, 1000),
            code=code,
            path=request.url.path,
            # whoever may not do this may do something else, or log out and come back as somebody who may
            visitor=visitor_of(who_of(request)),
        )
        return Response(text, status_code=status, media_type=MediaType.HTML, headers=HEADERS)

    def foreseen(request: Asked, error: FlotillaError) -> Response[str]:
        status = status_of(error)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            log.error("%s %s: %s", request.method, one_line(request.url.path), error)
        return shown(request, status, error.message, error.code)

    def http(request: Asked, error: HTTPException) -> Response[str]:
        line = {
            HTTPStatus.NOT_FOUND: f"there is no page {request.url.path}",
            HTTPStatus.METHOD_NOT_ALLOWED: f"{request.method} is not for {request.url.path}{allowed(error)}",
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "the form is larger than any that is meant here",
        }.get(HTTPStatus(error.status_code), error.detail)
        answer = shown(request, error.status_code, line, "input.bad")
        answer.headers.update(error.headers or {})
        return answer

    def unforeseen(request: Asked, error: Exception) -> Response[str]:
        log.exception("%s %s failed", request.method, one_line(request.url.path), exc_info=error)
        return shown(request, 500, _DEFECT, "internal.error")

    return {FlotillaError: foreseen, HTTPException: http, Exception: unforeseen}


def for_browsers(pages: ExceptionHandlersMap) -> ExceptionHandlersMap:
    """The API's handlers, but pages where a browser asks for something that is none of the API's.

    For addresses that lead nowhere, and for what is refused before a page's own handler is asked.
    """

    def both(kind: type[Exception]) -> Any:
        api, page = HANDLERS[kind], pages[kind]

        def handle(request: Asked, error: Any) -> Response[Any]:
            reads_pages = "text/html" in request.headers.get("accept", "") or is_part(request)
            is_page = not request.url.path.startswith(("/api/", "/repo/"))
            return page(request, error) if reads_pages and is_page else api(request, error)

        return handle

    return {**HANDLERS, HTTPException: both(HTTPException), FlotillaError: both(FlotillaError)}
