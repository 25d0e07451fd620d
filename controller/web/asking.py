"""The way of every action: asked for, confirmed, done, said; and where it cannot be done, said in one line."""

from collections.abc import Sequence
from urllib.parse import quote

from litestar import Response
from litestar.response import Redirect, Template

from controller.http.noting import refused
from controller.http.problems import status_of
from controller.preflight.views import Preflight
from controller.web.actions import Action, Field
from controller.web.rendering import HEADERS, Asked, is_part, page
from controller.web.visitor import Visitor
from schemas.errors import FlotillaError, OperatorError


def ask(
    request: Asked,
    visitor: Visitor,
    action: Action,
    *,
    back: str,
    subject: str,
    fields: Sequence[Field] = (),
    hidden: Sequence[tuple[str, str]] = (),
    facts: Sequence[str] = (),
    looks_first: bool = False,
    preflight: Preflight | None = None,
    error: FlotillaError | None = None,
) -> Template:
    """The question before an action, as a page or for the dialog; with `error` again, after it could not be done.

    Args:
        back: where the action is asked for, and where one is afterwards.
        subject: whom or what it concerns.
        fields: what is to be filled in.
        hidden: names and values that are sent along.
        facts: lines that help to decide.
        looks_first: what it would do is shown before it can be done, and anew when a field is changed.
        preflight: what it would do, by the fields as they are.
    """
    if error is not None:
        refused(request, error.code)
    return page(
        request,
        visitor,
        "ask.html",
        status=200 if error is None else status_of(error),
        action=action,
        back=back,
        subject=subject,
        fields=fields,
        hidden=hidden,
        facts=facts,
        looks_first=looks_first,
        preflight=preflight,
        problem=None if error is None else error.message,
    )


def done(request: Asked, where: str, action: Action | None = None) -> Response[None]:
    """Go to a page that shows what came of it."""
    target = where if action is None else f"{where}?did={quote(action.name)}"
    if is_part(request):
        return Response(None, status_code=200, headers={**HEADERS, "HX-Redirect": target})
    return Redirect(target, status_code=303, headers=HEADERS)


def may_act(visitor: Visitor) -> None:
    """Raise `OperatorError` (`auth.refused`) for whoever only looks."""
    if not visitor.may_act:
        raise OperatorError("auth.refused", "this is for operators and publishers; your account may only look")


def may_release(visitor: Visitor) -> None:
    """Raise `OperatorError` (`auth.refused`) for whoever is no publisher."""
    if not visitor.may_release:
        raise OperatorError("auth.refused", "this is for publishers; your account may not release")
