"""What the preflight of a release says: values for the API and the command line."""

from datetime import datetime

import msgspec

from schemas.routes import Kind


class Obstacle(msgspec.Struct, frozen=True, kw_only=True):
    """Why a device would not take the release now.

    Attributes:
        code: `installed`, `offline`, `pinned`, `held`, or what it would refuse it with: `requires.*`, `disk.full`.
        message: one line for people.
    """

    code: str
    message: str


class ForeseenDevice(msgspec.Struct, frozen=True, kw_only=True):
    """One device that is meant, by what it last reported.

    Attributes:
        wave: in which it would start, from 1; None where that is drawn when the release is announced, or chosen later.
        installed: the version of the package that it runs.
        route: how it would get there; None where it lacks nothing, or refuses the release in any case.
        from_version: where a bundle starts from.
        bytes: of contents and manifest on the wire, requests included; the signatures, some kilobytes, come besides.
        obstacles: why it would not take it now; empty where it would.
    """

    device: str
    online: bool
    last_seen: datetime
    wave: int | None = None
    installed: str | None = None
    route: Kind | None = None
    from_version: str | None = None
    bytes: int = 0
    obstacles: list[Obstacle] = []


class ForeseenWave(msgspec.Struct, frozen=True, kw_only=True):
    """One wave of the plan.

    Attributes:
        number: from 1.
        share: whom it means, for people.
        devices: how many it brings, of those that are meant now: it begins with no more.
        about: whether it is only about so many, as chance decides when it is released; in a small fleet it is exact.
        at_a_time: with how many of them it begins at most; None for all at once, or as a tag has it.
        soak_s: seconds that they have to stay well before the next one.
        approval: a person must say go before it begins.
    """

    number: int
    share: str
    devices: int
    about: bool = False
    at_a_time: int | None = None
    soak_s: float
    approval: bool

    @property
    def number_text(self) -> str:
        """How many it brings, for people: `2`, `about 20`, `about 20, 4 at a time`."""
        number = f"about {self.devices}" if self.about else f"{self.devices}"
        few = self.at_a_time is not None and self.at_a_time < self.devices
        return f"{number}, {self.at_a_time} at a time" if few else number


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """When the devices that would start now would be done.

    Attributes:
        ends_at: by the controller's clock; None where there is nothing to go by.
        seconds: from now until then.
        basis: how it was estimated, or why it was not, in one line.
    """

    ends_at: datetime | None = None
    seconds: float | None = None
    basis: str


class Preflight(msgspec.Struct, frozen=True, kw_only=True):
    """What a release would do.

    Attributes:
        meant: devices that the targets mean.
        ready: those of them that could take it now, by themselves.
        starting: those of `ready` that would start at once, or at `starts_at`; of a share about so many.
        later: those of `ready` that a later wave, or a turn in this one, brings; the plan means none of the others.
        starts_at: when devices may start first, by `not_before` and the window of the release or its plan; None: now.
        starts_when: what they wait for until then, or that the window is open now, in one line; empty without either.
        bytes: that these would fetch, all together.
        routes: how many of these would go which way; those that lack nothing are in none.
        obstacles: code to the number of devices that have it; a device may have several.
        plan: name of the plan; `waves` are its.
        drawn_when: when it is known who is in which wave, in one line; empty where it is of all devices now.
        warnings: what an operator should know besides.
        devices: by id, from the one after `after` on.
        next: the `after` of the next page; None at the end.
    """

    package: str
    version: str
    channel: str
    meant: int
    ready: int
    starting: int
    later: int
    starts_at: datetime | None = None
    starts_when: str = ""
    bytes: int
    routes: dict[Kind, int]
    obstacles: dict[str, int]
    plan: str
    waves: list[ForeseenWave]
    drawn_when: str = ""
    estimate: Estimate
    warnings: list[str]
    devices: list[ForeseenDevice]
    next: str | None = None

    @property
    def would_not(self) -> int:
        """How many devices have an obstacle; fewer than `obstacles` adds up to where one has several."""
        return self.meant - self.ready

    @property
    def for_several(self) -> str:
        """To be said where `obstacles` adds up to more devices than there are: empty where it does not."""
        if sum(self.obstacles.values()) == self.would_not:
            return ""
        return "for several reasons" if self.would_not == 1 else "some for several reasons"
