"""Which paths of the repository are served, and what caches may make of them."""

import re
from typing import Final

from schemas.layout import BUNDLE_INDEX, BUNDLES, METADATA, OBJECTS, TARGETS

TIMESTAMP_PATH: Final = f"{METADATA}/timestamp.json"

_SERVED: Final = re.compile(
    rf"{METADATA}/(?:[1-9][0-9]{{0,9}}\.[a-z0-9-]{{1,80}}|timestamp)\.json"
    rf"|{TARGETS}/[0-9a-f]{{64}}\.[a-z0-9-]{{1,63}}@[0-9A-Za-z.+-]{{1,256}}@[a-z0-9_-]{{1,32}}\.json\.zst"
    rf"|{OBJECTS}/(?P<start>[0-9a-f]{{2}})/(?P=start)[0-9a-f]{{62}}\.zst"
    rf"|{BUNDLES}/[0-9a-f]{{64}}/(?:index\.json|(?:from-[0-9a-f]{{64}}|full)\.[0-9a-f]{{16}}\.bundle"
    r"|from-[0-9a-f]{64}\.[0-9a-f]{16}\.manifest)"
)
"""Every path that is served. Nothing in it can name a folder above, a hidden file or a link."""


def is_served(url_path: str) -> bool:
    """Whether this is a path of the repository's format."""
    return _SERVED.fullmatch(url_path) is not None


def is_immutable(url_path: str) -> bool:
    """Whether what is served at this path never changes, so that it may be cached for ever."""
    return url_path != TIMESTAMP_PATH and not url_path.endswith(f"/{BUNDLE_INDEX}")


def caching(url_path: str) -> str:
    """The `Cache-Control` for a path."""
    return "public, max-age=31536000, immutable" if is_immutable(url_path) else "no-cache"
