"""`/audit`: who changed what, and who tried."""

from typing import Annotated, Final

from anyio import to_thread
from litestar import get
from litestar.params import QueryParameter
from litestar.response import Template

from controller.web.given import Text, TheDesk, TheVisitor
from controller.web.rendering import Asked, page

ENTRIES_A_PAGE: Final = 50
MAX_ID: Final = 2**63 - 1


@get("/audit")
async def audit(
    request: Asked,
    desk: TheDesk,
    visitor: TheVisitor,
    actor: Text = "",
    action: Text = "",
    target: Text = "",
    after: Annotated[int, QueryParameter(ge=0, le=MAX_ID)] = 0,
) -> Template:
    """The newest first; of one actor, action or target where they are given."""
    wanted = {"actor": actor.strip(), "action": action.strip(), "target": target.strip()}
    found = await to_thread.run_sync(
        lambda: desk.audit.entries(
            before=after or None,
            limit=ENTRIES_A_PAGE + 1,
            actor=wanted["actor"] or None,
            action=wanted["action"] or None,
            target=wanted["target"] or None,
        )
    )
    return page(
        request,
        visitor,
        "audit.html",
        entries=found[:ENTRIES_A_PAGE],
        query={name: value for name, value in wanted.items() if value},
        after=after,
        following=found[ENTRIES_A_PAGE - 1].id if len(found) > ENTRIES_A_PAGE else None,
    )
