"""Who looks at the page, and what they may do there."""

import msgspec


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
