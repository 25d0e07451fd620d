"""`flotilla user`, `token` and `audit`: who may do what, and who did."""

import difflib
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from controller.accounts.passwords import MAX_LENGTH
from controller.accounts.roles import Role
from controller.accounts.views import FILE_TOKEN, AuditEntry, User
from controller.cli.account_desk import Desk
from controller.cli.common import (
    Group,
    controller_options,
    json_option,
    print_json,
    print_table,
    somebody_there,
    tell_warnings,
    time_text,
)
from controller.client import ControllerClient
from controller.http.account_views import MAX_DAYS
from controller.http.views import MAX_PAGE, Page
from schemas.errors import OperatorError, one_line

F = TypeVar("F", bound=Callable[..., Any])

_ROLES: Final = click.Choice([role.value for role in Role])
_NAMES: Final = "NAME"
DETAIL: Final = 120
"""Most characters of what was asked for in a row, as it may be a whole plan; --json has all of it."""


def desk_options(command: F) -> F:
    """Add --url and --token, and --data and --database to work without a controller; the command gets a `desk`."""

    @click.option(
        "--data",
        type=click.Path(path_type=Path, file_okay=False),
        metavar="DIR",
        help="Work on this data folder itself instead of asking a controller.",
    )
    @click.option("--database", metavar="URL", help="With --data: as for serve.")
    @controller_options
    @functools.wraps(command)
    def with_desk(*args: Any, client: ControllerClient, data: Path | None, database: str | None, **kwargs: Any) -> Any:
        if database and data is None:
            raise OperatorError("input.bad", "--database goes with --data")
        return command(*args, desk=Desk(client, data, database), **kwargs)

    return with_desk  # type: ignore[return-value]  # click's options keep the type, functools hides it


_yes = click.option("--yes", is_flag=True, help="Do not ask, on a terminal either.")


@click.group(cls=Group)
def user() -> None:
    """Accounts of people who log in on the page.

    A viewer reads, an operator steers rollouts and devices, a publisher also pushes, releases and yanks, an admin also
    looks after accounts and tokens.
    """


@user.command("add")
@click.argument("name", metavar=_NAMES)
@click.option("--role", type=_ROLES, required=True, help="What they may do.")
@desk_options
@json_option
def user_add(name: str, role: str, desk: Desk, *, as_json: bool) -> None:
    """Add an account. The password is asked for, or read from standard input."""
    made = desk.add_user(name, Role(role), _password(name))
    _tell(made, f"{made.name} can log in as {made.role}", as_json=as_json)


@user.command("list")
@desk_options
@json_option
def user_list(desk: Desk, *, as_json: bool) -> None:
    """List the accounts."""
    found = desk.users()
    if as_json:
        print_json(found)
        return
    rows = [(one.name, one.role.value, str(one.sessions), time_text(one.created_at)) for one in found]
    print_table(("NAME", "ROLE", "SESSIONS", "SINCE"), rows, empty="no accounts; add one with: flotilla user add")


@user.command("passwd")
@click.argument("name", metavar=_NAMES)
@desk_options
def user_passwd(name: str, desk: Desk) -> None:
    """Give an account another password, and end its sessions. It is asked for, or read from standard input."""
    desk.set_password(name, _password(name))
    click.echo(f"{name} has another password and is logged out everywhere")


@user.command("role")
@click.argument("name", metavar=_NAMES)
@click.argument("role", type=_ROLES)
@_yes
@desk_options
def user_role(name: str, role: str, desk: Desk, *, yes: bool) -> None:
    """Give an account another role, and end its sessions.

    Where it is the last one of an admin, you are warned, and asked on a terminal.
    """
    if role != Role.ADMIN:
        _sure(desk, name, "Give it the other role?", yes=yes)
    desk.set_role(name, Role(role))
    click.echo(f"{name} is {role} now and is logged out everywhere")


@user.command("remove")
@click.argument("name", metavar=_NAMES)
@_yes
@desk_options
def user_remove(name: str, desk: Desk, *, yes: bool) -> None:
    """Remove an account, and end its sessions.

    Where it is the last one of an admin, you are warned, and asked on a terminal.
    """
    _sure(desk, name, "Remove it?", yes=yes)
    desk.remove_user(name)
    click.echo(f"removed {name}")


@click.group(cls=Group)
def token() -> None:
    """Tokens for machines, as for FLOTILLA_TOKEN."""


@token.command("add")
@click.argument("name", metavar=_NAMES)
@click.option("--role", type=_ROLES, required=True, help="What it may do.")
@click.option(
    "--expires", type=click.FloatRange(0, MAX_DAYS, min_open=True), metavar="DAYS", help="When it ends; never without."
)
@desk_options
@json_option
def token_add(name: str, role: str, expires: float | None, desk: Desk, *, as_json: bool) -> None:
    """Make a token and print it, this once."""
    made = desk.add_token(name, Role(role), expires)
    if as_json:
        print_json(made)
        return
    click.echo(made.token)
    until = f"until {time_text(made.expires_at)}" if made.expires_at else "until it is revoked"
    click.echo(
        f"flotilla: token {made.name} may do what the role {made.role} may, {until}; it is not shown again", err=True
    )


@token.command("list")
@desk_options
@json_option
def token_list(desk: Desk, *, as_json: bool) -> None:
    """List the tokens, without the secrets."""
    found = desk.tokens()
    if as_json:
        print_json(found)
        return
    rows = [
        (one.name, one.role.value, time_text(one.created_at), time_text(one.expires_at), time_text(one.used_at))
        for one in found
    ]
    empty = "no tokens but the one in the data folder; make one with: flotilla token add"
    print_table(("NAME", "ROLE", "SINCE", "ENDS", "LAST USED"), rows, empty=empty)


@token.command("revoke")
@click.argument("name", metavar=_NAMES)
@desk_options
def token_revoke(name: str, desk: Desk) -> None:
    """Let a token be good for nothing, from the next request on."""
    desk.revoke_token(name)
    click.echo(f"revoked {name}")


@click.command()
@click.option("--actor", metavar="WHO", help="Only changes by them, e.g. user:anna or token:ci.")
@click.option("--action", metavar="WORD", help="Only such changes, e.g. rollout.halt or device.pin.")
@click.option("--limit", type=click.IntRange(1, MAX_PAGE), default=50, show_default=True, metavar="N", help="How many.")
@controller_options
@json_option
def audit(actor: str | None, action: str | None, limit: int, client: ControllerClient, *, as_json: bool) -> None:
    """Show who changed what, the newest first; --json has long details whole."""
    query = {"actor": actor, "action": action, "limit": limit}
    page = client.get(Page[AuditEntry], "audit", query=query)
    if as_json:
        print_json(page.items)
        return
    rows = [
        (time_text(one.at), one.actor, one.address or "-", one.via, one.action, one.target, one.result, _detail(one))
        for one in page.items
    ]
    empty = "nothing was changed yet" if not (actor or action) else f"no change fits{_no_such(action)}"
    print_table(("WHEN", "WHO", "FROM", "VIA", "WHAT", "ON", "RESULT", "DETAIL"), rows, empty=empty)


def _no_such(action: str | None) -> str:
    """Where the log has no word like this one: what was probably meant, or which words it has."""
    from controller.http.rules import actions  # noqa: PLC0415 - only for a search that finds nothing

    known = actions()
    if action is None or action in known:
        return ""
    near = difflib.get_close_matches(action, known, n=2)
    said = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
    return f"; no change is called {one_line(action, 60)!r}: {said}"


def _detail(one: AuditEntry) -> str:
    return one_line(one.detail, DETAIL)


def _sure(desk: Desk, name: str, question: str, *, yes: bool) -> None:
    """Warn of what takes the last account of an admin away, and ask a person; raises `OperatorError` for a no."""
    if [one.name for one in desk.users() if one.role is Role.ADMIN] != [name]:
        return
    warning = (
        f"{name} is the last account of an admin; after that only a token of an admin looks after accounts, as the one"
        f" in the data folder's {FILE_TOKEN} where there is one, or on the controller's machine: flotilla user add NAME"
        " --role admin --data DIR"
    )
    tell_warnings([warning])
    if not yes and somebody_there() and not click.confirm(question, err=True):
        raise OperatorError("input.bad", "nothing was changed")


def _password(name: str) -> str:
    if sys.stdin.isatty():
        asked: str = click.prompt(f"Password of {name}", hide_input=True, confirmation_prompt=True, err=True)
        return asked
    return sys.stdin.readline(MAX_LENGTH + 2).rstrip("\r\n")


def _tell(made: User, line: str, *, as_json: bool) -> None:
    if as_json:
        print_json(made)
    else:
        click.echo(line)
