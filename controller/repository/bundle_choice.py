"""From which releases bundles are to lead to a new one. Pure."""

from collections.abc import Iterable, Mapping
from typing import Final

from controller.repository.index import Entry
from controller.repository.ordering import version_key
from schemas.routes import REQUEST_BYTES

DEFAULT_RELEASES: Final = 3
MAX_RELEASES: Final = 8
MAX_REPORTED: Final = 3
"""Further releases, that devices run in numbers. The list is fetched with every update, so it stays short."""
LEAST_DEVICES: Final = 2
LEAST_SHARE: Final = 20
"""A version that at least one in so many of the package's devices runs is one in numbers."""


def sources_of(
    release: Entry, others: Iterable[Entry], *, last: int, reported: Mapping[str, int] | None = None
) -> list[Entry]:
    """The releases to start from, those first that most devices are expected to have.

    Args:
        release: the new one.
        others: stored releases of the same package; of other platforms too.
        last: so many of the versions before it.
        reported: versions of the package to the number of devices that run them.
    """
    there = [one for one in others if one.platform == release.platform and one.manifest != release.manifest]
    newest = sorted(there, key=lambda one: version_key(one.version), reverse=True)
    before = [one for one in newest if version_key(one.version) < version_key(release.version)][:last]
    counts = reported or {}
    total = sum(counts.values())
    many = {v for v, count in counts.items() if count >= LEAST_DEVICES and count * LEAST_SHARE >= total}
    running = [one for one in newest if one.version in many and one not in before]
    running.sort(key=lambda one: counts[one.version], reverse=True)
    return [*before, *running[:MAX_REPORTED]]


def is_worth_it(bundle: int, *, packed: int, count: int) -> bool:
    """Whether a bundle of so many bytes is smaller than `count` objects of `packed` bytes in all."""
    return bundle + REQUEST_BYTES < packed + count * REQUEST_BYTES
