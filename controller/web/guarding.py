"""Keeps other sites' pages away from the page's forms; who may do what is `controller/http/rules.py`'s.

A form of another site can be sent here by the browser of whoever may act here, without being asked first. So a
POST counts only where the browser itself says that it comes from a page of this server: the Origin, which no page
can leave out or change, must name this server.
"""

from typing import Any, Final

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.exceptions import HTTPException
from litestar.handlers.base import BaseRouteHandler

from controller.http.guard import is_own_origin
from schemas.errors import OperatorError, one_line

FORM: Final = "application/x-www-form-urlencoded"
MAX_FORM_BYTES: Final = 64 * 1024
MAX_FIELD: Final = 4096


def refuse_other_sites(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """A Litestar guard for all that a form may ask for."""
    if connection.scope.get("method") != "POST":
        return
    origin = connection.headers.get("origin", "")
    host = connection.headers.get("host", "")
    if not is_own_origin(origin, host):
        raise HTTPException(
            "this form was not sent by a page of this controller; open the page and try again", status_code=403
        )
    if connection.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        raise HTTPException("requests from other sites' pages are refused", status_code=403)
    given = connection.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != FORM:
        raise HTTPException(f"send the form as {FORM}, and not as {one_line(given, 60) or 'nothing'}", status_code=415)


async def fields_of(request: Request[Any, Any, Any]) -> dict[str, str]:
    """A form's fields, without spaces around them; of several with one name the last.

    Raises `OperatorError` (`input.bad`) for one that is too long.
    """
    form = await request.form()
    fields = {str(name): str(value).strip() for name, value in form.multi_items()}
    for name, value in fields.items():
        if len(value) > MAX_FIELD:
            raise OperatorError("input.bad", f"{one_line(name, 40)} is longer than {MAX_FIELD} characters")
    return fields
