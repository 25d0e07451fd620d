"""Who looks at the page, and what they may do there."""

import msgspec

from controller.accounts.roles import Role, Who


class Visitor(msgspec.Struct, frozen=True, kw_only=True):
    """A person, or whoever sits at this machine.

    Attributes:
        name: of their account; None where there are no accounts, as on loopback.
        may_act: steer rollouts, tell devices and ask them for something.
        may_release: announce versions and yank them.
        may_administer: see accounts and tokens.
    """

    name: str | None = None
    may_act: bool = True
    may_release: bool = True
    may_administer: bool = True


def visitor_of(who: Who) -> Visitor:
    """Whoever asks, as pages see them."""
    return Visitor(
        name=who.name if who.kind == "user" else None,
        may_act=who.may(Role.OPERATOR),
        may_release=who.may(Role.PUBLISHER),
        may_administer=who.may(Role.ADMIN),
    )
