"""What is wrong with a plan in a wish is said before the framework says it, in the words that plan files get."""

from typing import Any

from litestar import Request
from litestar.exceptions import SerializationException

from controller.rollouts.plan_files import check_wish


async def check_plan_of(request: Request[Any, Any, Any]) -> None:
    """To run before a handler whose wish may have a `plan`; raises `OperatorError` (`input.bad`).

    All else that may be wrong with the body is left to whoever reads it next.
    """
    try:
        wish = await request.json()
    except SerializationException:
        return
    if isinstance(wish, dict):
        check_wish(wish.get("plan"))
