"""`/login` and `/logout`, for browsers."""

from typing import Any, Final

from anyio import to_thread
from litestar import Request, get, post
from litestar.exceptions import HTTPException
from litestar.params import FromQuery
from litestar.response import Redirect, Template

from controller.accounts.passwords import MAX_LENGTH
from controller.http.given import TheAccounts
from controller.http.login import Accounts, local_path, no_cookie
from controller.http.noting import who_of
from controller.web.rendering import HEADERS
from controller.web.visitor import Visitor
from schemas.errors import OperatorError

Asked = Request[Any, Any, Any]

_FORM: Final = "application/x-www-form-urlencoded"


@get("/login", include_in_schema=False)
async def login_page(accounts: TheAccounts, next: FromQuery[str | None] = None) -> Template:  # noqa: A002 - as in the address
    """The form."""
    return await _form(accounts, wanted=local_path(next))


@post("/login", include_in_schema=False)
async def login(request: Asked, accounts: TheAccounts) -> Template | Redirect:
    """Begin a session and go on to where the browser wanted to, or show the form again with what is wrong."""
    fields = await _fields(request)
    name, wanted = fields.get("name", "").strip(), local_path(fields.get("next"))
    try:
        cookie, _ = await accounts.log_in(request, name, fields.get("password", ""))
    except OperatorError as error:
        limited = error.code == "auth.limit"
        return await _form(accounts, wanted=wanted, name=name[:63], wrong=error.message, status=429 if limited else 401)
    return Redirect(wanted, status_code=303, cookies=[cookie], headers={"Cache-Control": "no-store"})


@post("/logout", include_in_schema=False)
async def logout(request: Asked, accounts: TheAccounts) -> Redirect:
    """End the session."""
    await accounts.log_out(who_of(request))
    return Redirect("/login", status_code=303, cookies=[no_cookie(request)], headers={"Cache-Control": "no-store"})


async def _fields(request: Asked) -> dict[str, str]:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        raise HTTPException(f"send the form as {_FORM}", status_code=415)
    form = await request.form()
    return {str(key): str(value)[: MAX_LENGTH + 1] for key, value in form.multi_items()}


async def _form(accounts: Accounts, *, wanted: str, name: str = "", wrong: str = "", status: int = 200) -> Template:
    anybody = await to_thread.run_sync(accounts.people.any)
    context = {
        "wanted": wanted,
        "name": name,
        "wrong": wrong,
        "anybody": anybody,
        "longest": MAX_LENGTH,
        "path": "/login",
        "visitor": Visitor(may_act=False, may_release=False),
    }
    return Template(template_name="login.html", context=context, status_code=status, headers=HEADERS)
