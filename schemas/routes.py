"""The cheapest way to what a device lacks, by sizes that are known before anything is fetched.

The agent chooses by it, and the controller's preflight says beforehand what agents will choose.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from schemas.bundles import BundleIndex, needed
from schemas.layout import bundle_path
from schemas.manifest import Manifest

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A release that a bundle starts from.

    Attributes:
        sha256: of its plain manifest.
        whole: says whether all of its contents are here; asked only where a bundle could be used.
    """

    sha256: str
    manifest: Manifest
    whole: Callable[[], bool] = lambda: True


def route_to(
    manifest: Manifest,
    index: BundleIndex | None,
    missing: Collection[tuple[str, int]],
    starts: Iterable[Start],
    *,
    bundles: bool = True,
) -> Route:
    """The cheapest way to a release.

    Args:
        manifest: the release's.
        index: what the repository offers for it; None for nothing but objects.
        missing: sha256 and plain bytes of each content that has to come.
        starts: releases that are here; only those that bundles start from count.
        bundles: whether any may be taken.
    """
    sizes = [size for _, size in missing]
    if index is None or not missing:
        return choose(objects_cost(sizes), [])
    lacking = {sha256 for sha256, _ in missing}
    entries = {entry.source: entry for entry in index.bundles}
    exact, usable = None, list[Offer]()
    if bundles and (full := entries.get(None)) is not None:
        usable.append(Offer(path=bundle_path(index.manifest, full.name), size=full.size))
    for start in starts:
        entry = entries.get(start.sha256)
        if entry is None:
            continue
        yields = {sha256 for sha256, _ in needed(start.manifest, manifest)}
        if yields == lacking:
            exact = entry.objects.packed + entry.objects.count * REQUEST_BYTES
        if bundles and lacking <= yields and start.whole():
            path = bundle_path(index.manifest, entry.name)
            usable.append(Offer(path=path, size=entry.size, start=entry.source, version=start.manifest.version))
    return choose(objects_cost(sizes, ratio=packed_ratio(index), exact=exact), usable)


def packed_ratio(index: BundleIndex) -> float | None:
    """Packed to plain bytes of the release's objects; None where that says nothing."""
    return index.objects.packed / index.objects.plain if index.objects.plain else None


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
