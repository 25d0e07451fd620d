"""The cheapest way to what a device lacks, by sizes that are known before anything is fetched. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

REQUEST_BYTES: Final = 400
"""What one more request costs besides its content: both heads, over a connection that is kept alive."""


class Kind(StrEnum):
    """The ways there are, as events call them."""

    BUNDLE = "bundle"
    """One file that leads from a release that is here."""
    OBJECTS = "objects"
    """Each missing content by itself."""
    FULL = "full"
    """One file with everything, from nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A bundle that may be taken: what it starts from, if anything, is here and whole.

    Attributes:
        path: below a repository's base URL.
        size: its bytes.
        start: sha256 of the plain manifest of the release that it starts from; None for a full one.
        version: that release's version.
    """

    path: str
    size: int
    start: str | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The way to go.

    Attributes:
        cost: bytes that it is expected to take, requests included.
        offer: the bundle; None where the way is single objects.
    """

    kind: Kind
    cost: int
    offer: Offer | None = None


def objects_cost(sizes: Iterable[int], *, ratio: float | None = None, exact: int | None = None) -> int:
    """What fetching contents one by one takes.

    Args:
        sizes: plain bytes of each that is missing.
        ratio: packed to plain bytes of the release as a whole; without it nothing is counted on.
        exact: what the repository measured for just these contents, if it did: packed bytes and requests.
    """
    if exact is not None:
        return exact
    each = list(sizes)
    return round(sum(each) * min(1.0, 1.0 if ratio is None else ratio)) + REQUEST_BYTES * len(each)


def choose(objects: int, offers: Iterable[Offer]) -> Route:
    """The cheapest way; single objects where a bundle is no cheaper, because they take the least work.

    Args:
        objects: see `objects_cost`; 0 where nothing is missing.
        offers: bundles of which each yields everything that is missing.
    """
    best = Route(kind=Kind.OBJECTS, cost=objects)
    for offer in offers:
        cost = offer.size + REQUEST_BYTES
        if cost < best.cost:
            kind = Kind.FULL if offer.start is None else Kind.BUNDLE
            best = Route(kind=kind, cost=cost, offer=offer)
    return best
