"""What keeps a device apart from its channel's releases, out of what it was told last."""

from typing import Final

import msgspec


class Apart(msgspec.Struct, frozen=True):
    """Pins, by package the version that the device stays at, whether it is to start nothing, and what it is to have
    instead of its configured channel and tags."""

    pins: dict[str, str] | None = None
    hold: bool | None = None
    channel: str | None = None
    tags: dict[str, str] | None = None

    def pinned(self, package: str) -> str | None:
        """The version that the device stays at."""
        return (self.pins or {}).get(package)


_NOTHING: Final = Apart()
_apart: Final = msgspec.json.Decoder(Apart)


def apart_of(told: str | None) -> Apart:
    """Out of `desired.payload`; None for a device that was never told anything."""
    return _apart.decode(told) if told else _NOTHING
