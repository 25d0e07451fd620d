"""What is asked of a release, before the framework reads it: what the audit log names, and whether the plan is one."""

from collections.abc import Mapping
from typing import Any

from litestar import Request
from litestar.exceptions import SerializationException

from controller.http.noting import about
from controller.rollouts.plan_files import check_wish


async def look_at_wish(request: Request[Any, Any, Any]) -> None:
    """To run before a handler of a wish for a release; whatever refuses it, the audit log says what was to be released.

    What is wrong with a plan is said in the words that plan files get. All else that may be wrong with the body is left
    to whoever reads it next.

    Raises:
        OperatorError: `input.bad`, where the wish has a `plan` that is none.
    """
    try:
        wish = await request.json()
    except SerializationException:
        return
    if isinstance(wish, dict):
        about(request, target_of(wish))
        check_wish(wish.get("plan"))


def target_of(wish: Mapping[str, Any]) -> str:
    """`tacho 1.0.0 stable`, or `tacho@1.0.0 needle@1.0.0 stable` of a set; without what is no text in it."""
    packages = wish.get("packages")
    named = (
        [f"{name}@{version}" for name, version in packages.items()]
        if isinstance(packages, dict)
        else [wish.get("package"), wish.get("version")]
    )
    return " ".join(part for part in [*named, wish.get("channel")] if isinstance(part, str))
