"""`/login` and `/logout`, for browsers."""

from typing import Any, Final

from anyio import to_thread
from jinja2 import Environment
from litestar import MediaType, Request, Response, get, post
from litestar.exceptions import HTTPException
from litestar.response import Redirect

from controller.accounts.passwords import MAX_LENGTH
from controller.http.login import Accounts, local_path, no_cookie
from controller.http.noting import who_of
from schemas.errors import OperatorError

Asked = Request[Any, Any, Any]

HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}
_FORM: Final = "application/x-www-form-urlencoded"

_PAGE: Final = Environment(autoescape=True).from_string("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Log in: Flotilla</title>
<style>
  :root { color-scheme: light dark }
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 22rem; margin: 12vh auto; padding: 0 1rem; color: #1d2733 }
  form, label { display: grid; gap: .35rem } form { gap: 1rem }
  input, button { font: inherit; padding: .6rem .7rem; border: 1px solid #b8c3cd; border-radius: 8px }
  button { background: #0b6e99; border-color: #0b6e99; color: #fff; font-weight: 600; cursor: pointer }
  input:focus-visible, button:focus-visible { outline: 3px solid #5fb4d8; outline-offset: 1px }
  .wrong { background: #fdecea; color: #8a1c12; border-radius: 8px; padding: .5rem .7rem } .dim { color: #66727f }
  @media (prefers-color-scheme: dark) {
    body { background: #10151b; color: #e8edf2 } input { background: #19212a; color: inherit; border-color: #33404d }
    .wrong { background: #4a1d19; color: #ffd9d4 }
  }
</style>
<main>
<h1>Flotilla</h1>
{% if wrong %}<p class="wrong" role="alert">{{ wrong }}</p>{% endif %}
<form method="post" action="/login">
  <input type="hidden" name="next" value="{{ wanted }}">
  <label>Name <input name="name" value="{{ name }}" required maxlength="63" autocomplete="username"
    autocapitalize="none" spellcheck="false"{% if not name %} autofocus{% endif %}></label>
  <label>Password <input name="password" type="password" required maxlength="{{ longest }}"
    autocomplete="current-password"{% if name %} autofocus{% endif %}></label>
  <button>Log in</button>
</form>
{% if not anybody %}<p class="dim">There is no account yet. On the controller's machine:
<code>flotilla user add NAME --role admin --data DIR</code></p>{% endif %}
</main>
</html>
""")


@get("/login", include_in_schema=False)
async def login_page(accounts: Accounts, next: str | None = None) -> Response[str]:  # noqa: A002 - as in the address
    """The form."""
    return await _form(accounts, wanted=local_path(next))


@post("/login", include_in_schema=False)
async def login(request: Asked, accounts: Accounts) -> Response[str] | Redirect:
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
async def logout(request: Asked, accounts: Accounts) -> Redirect:
    """End the session."""
    await accounts.log_out(who_of(request))
    return Redirect("/login", status_code=303, cookies=[no_cookie(request)], headers={"Cache-Control": "no-store"})


async def _fields(request: Asked) -> dict[str, str]:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        raise HTTPException(f"send the form as {_FORM}", status_code=415)
    form = await request.form()
    return {str(key): str(value)[: MAX_LENGTH + 1] for key, value in form.multi_items()}


async def _form(
    accounts: Accounts, *, wanted: str, name: str = "", wrong: str = "", status: int = 200
) -> Response[str]:
    anybody = await to_thread.run_sync(accounts.people.any)
    text = _PAGE.render(wanted=wanted, name=name, wrong=wrong, anybody=anybody, longest=MAX_LENGTH)
    return Response(text, status_code=status, media_type=MediaType.HTML, headers=HEADERS)
