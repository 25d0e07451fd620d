"""What people and machines may do: four roles, each with all that those before it may. Pure."""

from enum import StrEnum
from typing import Final

import msgspec


class Role(StrEnum):
    """In growing order; docs/guides/operators.md says what each may do."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    PUBLISHER = "publisher"
    ADMIN = "admin"

    def includes(self, needed: "Role") -> bool:
        """Whether whoever has this role may do what `needed` may."""
        return _ORDER.index(self) >= _ORDER.index(needed)


_ORDER: Final = tuple(Role)


class Who(msgspec.Struct, frozen=True, kw_only=True):
    """Whoever makes a request.

    Attributes:
        kind: `user`, `token`, `local` for whoever is on this machine where nobody is asked, or `nobody`.
        session: digest of the session that the request came with, for a user who has logged in.
    """

    kind: str
    name: str
    role: Role | None
    session: str | None = None

    @property
    def actor(self) -> str:
        """As the audit log names them, e.g. `user:anna`."""
        return self.kind if self.kind == "nobody" else f"{self.kind}:{self.name}"

    def may(self, needed: Role) -> bool:
        """Whether their role is enough."""
        return self.role is not None and self.role.includes(needed)


NOBODY: Final = Who(kind="nobody", name="", role=None)
