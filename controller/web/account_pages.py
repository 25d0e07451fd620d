"""`/accounts`: who may log in, and which tokens there are; for those who look after them. What they do is the API's."""

from typing import Annotated, Final

from anyio import to_thread
from litestar import get
from litestar.params import QueryParameter
from litestar.response import Template

from controller.accounts.views import FILE_TOKEN
from controller.database import utc_now
from controller.web.given import TheDesk, TheVisitor
from controller.web.rendering import Asked, page

ROWS_A_PAGE: Final = 50
_After = Annotated[str, QueryParameter(max_length=63)]


@get("/accounts")
async def accounts(
    request: Asked, desk: TheDesk, visitor: TheVisitor, after_user: _After = "", after_token: _After = ""
) -> Template:
    """Both by name, without a secret."""
    users = await to_thread.run_sync(lambda: desk.people.page(after=after_user, limit=ROWS_A_PAGE + 1))
    tokens = await to_thread.run_sync(lambda: desk.tokens.page(after=after_token, limit=ROWS_A_PAGE + 1))
    return page(
        request,
        visitor,
        "accounts.html",
        users=users[:ROWS_A_PAGE],
        tokens=tokens[:ROWS_A_PAGE],
        next_user=users[ROWS_A_PAGE - 1].name if len(users) > ROWS_A_PAGE else None,
        next_token=tokens[ROWS_A_PAGE - 1].name if len(tokens) > ROWS_A_PAGE else None,
        after_user=after_user,
        after_token=after_token,
        file_token=FILE_TOKEN if desk.has_file_token else None,
        now=utc_now(),
    )
