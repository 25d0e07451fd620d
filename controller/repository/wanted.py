"""What can be asked of the index, and what there is to compare with whatever the values are."""

from collections.abc import Collection
from datetime import datetime
from typing import Any, Final, NamedTuple

import msgspec

from controller.database import to_db
from controller.repository.ordering import newest_first, spans_of, version_key
from controller.repository.tag_bits import tag_bits, tag_line
from schemas.errors import OperatorError, PublisherError, one_line
from schemas.ranges import Range

MAX_LIMIT: Final = 1000
"""Most records of one answer."""
MAX_TAGS: Final = 64
"""Most tags of one question; no release has more."""
BEHIND: Final = ("package", "newest_first", "version", "platform_behind")
"""Names of the values that a page begins behind, by the columns of the order."""
_AFTER_ANY_NAME: Final = "\x7f"


class Shape(NamedTuple):
    """What a statement is made for: statements of the same shape differ in values alone."""

    name: str = "none"  # none, one, pattern, prefix
    spans: tuple[int, int] | None = None  # how many of releases and of pre-releases
    platform: bool = False
    tags: int = 0
    channel: bool = False
    since: bool = False
    until: bool = False
    yanked: bool = False
    after: bool = False


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What is searched for; see `PackageRepository.search`."""

    name: str | None = None
    version_range: Range | None = None
    platform: str | None = None
    tags: Collection[str] = ()
    channel: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    yanked: bool = False
    limit: int = 100
    after: str | None = None

    def check(self) -> None:
        """Raises `OperatorError`, `input.bad`."""
        if not 1 <= self.limit <= MAX_LIMIT:
            raise OperatorError("input.bad", f"limit {self.limit} is not between 1 and {MAX_LIMIT}")
        if len(self.tags) > MAX_TAGS:
            raise OperatorError("input.bad", f"{len(self.tags)} tags are asked for, at most {MAX_TAGS} can be")
        for word, moment in (("since", self.since), ("until", self.until)):
            if moment is not None and moment.tzinfo is None:
                raise OperatorError("input.bad", f"{word}: {moment.isoformat()} names no time zone; add Z for UTC")

    def read(self) -> tuple[Shape, dict[str, Any]]:
        """The shape, and the values by the names that statements have for them; those of tags are `tag_values`.

        Raises:
            OperatorError: `input.bad`.
        """
        name = _one_or_pattern(self.name)
        spans = spans_of(self.version_range) if self.version_range is not None else None
        shape = Shape(
            name=name,
            spans=(len(spans.releases), len(spans.prereleases)) if spans is not None else None,
            platform=self.platform is not None,
            tags=len(set(self.tags)),
            channel=self.channel is not None,
            since=self.since is not None,
            until=self.until is not None,
            yanked=self.yanked,
            after=self.after is not None,
        )
        behind = _position(self.after) if self.after is not None else ("", b"", "", "")
        values: dict[str, Any] = {
            "name": self.name,
            "platform": self.platform,
            "channel": self.channel,
            "since": to_db(self.since) if self.since is not None else None,
            "until": to_db(self.until) if self.until is not None else None,
            "limit": self.limit,
            **dict(zip(BEHIND, behind, strict=True)),
        }
        if name in ("pattern", "prefix"):
            values |= _pattern(self.name or "")
        for kind, some in zip(("release", "prerelease"), spans or (), strict=False):
            for number, (least, past) in enumerate(some):
                values |= {f"{kind}_{number}_from": least, f"{kind}_{number}_to": past}
        if spans is not None and (every := [*spans.releases, *spans.prereleases]):
            values |= {"least": min(least for least, _ in every), "past": max(past for _, past in every)}
        return shape, values


def tag_values(tags: Collection[str]) -> dict[str, Any]:
    """The values of the tags, the one that a search goes along first."""
    values: dict[str, Any] = {"bits": tag_bits(tags)}
    for number, tag in enumerate(tags):
        values |= {f"tag_{number}": tag, f"line_{number}": tag_line(tag)}
    return values


def _one_or_pattern(name: str | None) -> str:
    if name is None:
        return "none"
    first = min((name.index(c) for c in "*?" if c in name), default=None)
    return "one" if first is None else ("prefix" if first else "pattern")


def _pattern(name: str) -> dict[str, str]:
    """A pattern with `*` for any characters and `?` for one; names hold nothing else that LIKE knows."""
    escaped = name.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    prefix = name[: min(name.index(c) for c in "*?" if c in name)]
    return {
        "pattern": escaped.replace("*", "%").replace("?", "_"),
        "prefix": prefix,
        "behind_prefix": prefix + _AFTER_ANY_NAME,
    }


def _position(after: str) -> tuple[str, bytes, str, str]:
    """What a page begins behind, by the order's columns; the record itself may be gone meanwhile."""
    parts = after.split("@")
    if len(parts) != 3:
        raise OperatorError("input.bad", f"{one_line(after, 80)!r} is not NAME@VERSION@PLATFORM, the last record's key")
    package, version, platform = parts
    try:
        return package, newest_first(version_key(version)), version, platform
    except PublisherError as error:
        raise OperatorError("input.bad", f"after: {error}") from error
