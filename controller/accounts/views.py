"""What is told about accounts, tokens and changes: values for the API, the page and the command line."""

from datetime import datetime
from typing import Annotated, Final

import msgspec

from controller.accounts.roles import Role

NAME_PATTERN: Final = r"^[a-z0-9][a-z0-9._@-]{0,62}(?!\n)$"
NAME_FORM: Final = "a name: a-z, 0-9, '.', '_', '@' and '-', first a letter or digit, at most 63"
"""What has the form of `NAME_PATTERN`, for people."""
AccountName = Annotated[str, msgspec.Meta(pattern=NAME_PATTERN, max_length=63)]

FILE_TOKEN: Final = "api-token"  # noqa: S105 - a name
"""Name of the token that lies in the data folder: the first one, with all rights."""


class User(msgspec.Struct, frozen=True, kw_only=True):
    """A person's account. `sessions` counts where they are logged in."""

    name: str
    role: Role
    created_at: datetime
    changed_at: datetime
    sessions: int


class ApiToken(msgspec.Struct, frozen=True, kw_only=True):
    """A machine's token, without the secret. `used_at` is right to some minutes."""

    name: str
    role: Role
    created_at: datetime
    expires_at: datetime | None
    used_at: datetime | None


class NewToken(ApiToken, frozen=True, kw_only=True):
    """A token that was just made, with the secret: it is told this once."""

    token: str


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One change, or a try that was refused.

    Attributes:
        actor: `user:NAME`, `token:NAME`, `local:NAME` or `nobody`.
        role: what they were allowed at that time.
        address: where the request came from; None for a command on the data folder itself.
        via: `api`, `cli` or `page`.
        action: one word for a kind, e.g. `rollout.halt`, whichever way it was asked for.
        target: on what.
        detail: what was asked for, as JSON, without secrets; cut at 2000 characters.
        result: `done`, or the error's code.
        status: of the answer over HTTP.
    """

    id: int
    at: datetime
    actor: str
    role: Role | None
    address: str | None
    via: str
    action: str
    target: str
    detail: str
    result: str
    status: int | None
