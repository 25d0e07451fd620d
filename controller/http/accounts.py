"""`/api/v1/session`, `users`, `tokens` and `audit`: who may do what, and who did."""

from datetime import timedelta
from typing import Annotated, Any

from anyio import to_thread
from litestar import Controller, Request, Response, delete, get, post, put
from litestar.params import FromPath, JSONBody, QueryParameter

from controller.accounts.audit import AuditLog
from controller.accounts.roles import Role
from controller.accounts.views import NAME_PATTERN, ApiToken, AuditEntry, NewToken, User
from controller.http.account_views import (
    LoginWish,
    OwnPasswordWish,
    PasswordWish,
    RoleWish,
    SessionView,
    TokenWish,
    UserWish,
)
from controller.http.given import AfterName, Limit, TheAccounts, check_after
from controller.http.login import no_cookie
from controller.http.noting import about, who_of
from controller.http.views import Page
from schemas.errors import OperatorError

Asked = Request[Any, Any, Any]


class Session(Controller):
    """Logging in and out; `/login` is the page's way to the same."""

    path = "/session"
    tags = ("accounts",)

    @get("", summary="Who am I")
    async def session(self, request: Asked) -> SessionView:
        """Kind, name and role of whoever asks."""
        who = who_of(request)
        return SessionView(kind=who.kind, name=who.name, role=who.role or Role.VIEWER)

    @post("", summary="Log in", status_code=200)
    async def log_in(self, request: Asked, accounts: TheAccounts, data: JSONBody[LoginWish]) -> Response[SessionView]:
        """Sets the session's cookie; 401 for a wrong name or password, 429 with Retry-After after too many."""
        cookie, who = await accounts.log_in(request, data.name, data.password)
        view = SessionView(kind=who.kind, name=who.name, role=who.role or Role.VIEWER)
        return Response(view, cookies=[cookie], headers={"Cache-Control": "no-store"})

    @delete("", summary="Log out", status_code=204)
    async def log_out(self, request: Asked, accounts: TheAccounts) -> Response[None]:
        """Ends the session that the request came with."""
        await accounts.log_out(who_of(request))
        return Response(None, status_code=204, cookies=[no_cookie(request)])

    @put("/password", summary="Change one's own password", status_code=204)
    async def password(self, request: Asked, accounts: TheAccounts, data: JSONBody[OwnPasswordWish]) -> Response[None]:
        """Asks for the old one, and ends every session of the account."""
        who = who_of(request)
        if who.kind != "user":
            raise OperatorError("input.bad", "only a person who has logged in has a password")
        about(request, who.name)
        await accounts.change_password(request, who.name, data.password, data.new_password)
        return Response(None, status_code=204, cookies=[no_cookie(request)])


class Users(Controller):
    """Accounts of people."""

    path = "/users"
    tags = ("accounts",)

    @get("", summary="List accounts")
    async def users(self, accounts: TheAccounts, after: AfterName = "", limit: Limit = 100) -> Page[User]:
        """By name."""
        check_after(after, NAME_PATTERN)
        found = await to_thread.run_sync(lambda: accounts.people.page(after=after, limit=limit + 1))
        return Page(items=found[:limit], next=found[limit - 1].name if len(found) > limit else None)

    @post("", summary="Add an account")
    async def add(self, request: Asked, accounts: TheAccounts, data: JSONBody[UserWish]) -> User:
        """409 where there is one of this name."""
        about(request, data.name)
        return await to_thread.run_sync(accounts.people.add, data.name, data.role, data.password)

    @put("/{name:str}/password", summary="Give an account another password")
    async def set_password(self, accounts: TheAccounts, name: FromPath[str], data: JSONBody[PasswordWish]) -> User:
        """Ends every session of the account."""
        return await to_thread.run_sync(accounts.people.set_password, name, data.password)

    @put("/{name:str}/role", summary="Give an account another role")
    async def set_role(self, accounts: TheAccounts, name: FromPath[str], data: JSONBody[RoleWish]) -> User:
        """Ends every session of the account."""
        return await to_thread.run_sync(accounts.people.set_role, name, data.role)

    @delete("/{name:str}", summary="Remove an account", status_code=204)
    async def remove(self, accounts: TheAccounts, name: FromPath[str]) -> None:
        """And its sessions."""
        await to_thread.run_sync(accounts.people.remove, name)


class TokensOfMachines(Controller):
    """Tokens of machines."""

    path = "/tokens"
    tags = ("accounts",)

    @get("", summary="List tokens")
    async def tokens(self, accounts: TheAccounts, after: AfterName = "", limit: Limit = 100) -> Page[ApiToken]:
        """By name, without the secrets; the one in the data folder is not among them."""
        check_after(after, NAME_PATTERN)
        found = await to_thread.run_sync(lambda: accounts.tokens.page(after=after, limit=limit + 1))
        return Page(items=found[:limit], next=found[limit - 1].name if len(found) > limit else None)

    @post("", summary="Make a token")
    async def add(self, request: Asked, accounts: TheAccounts, data: JSONBody[TokenWish]) -> Response[NewToken]:
        """The answer holds the secret, this once; 409 where there is one of this name."""
        about(request, data.name)
        lasts = None if data.expires_days is None else timedelta(days=data.expires_days)
        made = await to_thread.run_sync(lambda: accounts.tokens.add(data.name, data.role, lasts=lasts))
        return Response(made, status_code=201, headers={"Cache-Control": "no-store"})

    @delete("/{name:str}", summary="Revoke a token", status_code=204)
    async def revoke(self, accounts: TheAccounts, name: FromPath[str]) -> None:
        """Good for nothing from the next request on."""
        await to_thread.run_sync(accounts.tokens.revoke, name)


@get("/audit", tags=["accounts"], summary="Who changed what")
async def audit_log(
    accounts: TheAccounts,
    actor: Annotated[str | None, QueryParameter(description="e.g. user:anna or token:ci")] = None,
    action: Annotated[str | None, QueryParameter(description="e.g. rollout.halt or device.pin")] = None,
    target: Annotated[str | None, QueryParameter(description="exactly as it is shown")] = None,
    after: Annotated[int | None, QueryParameter(ge=1, le=2**63 - 1, description="`next` of the page before")] = None,
    limit: Limit = 100,
) -> Page[AuditEntry]:
    """Every change and every try that was refused, the newest first."""
    log: AuditLog = accounts.audit
    found = await to_thread.run_sync(
        lambda: log.entries(before=after, limit=limit + 1, actor=actor, action=action, target=target)
    )
    return Page(items=found[:limit], next=str(found[limit - 1].id) if len(found) > limit else None)
