"""What the agent and its fetching process say to each other: msgpack behind a length, on the child's pipes."""

import struct
from pathlib import Path
from typing import Final

import msgspec

from device_agent.seams import WantedBundle, Way
from schemas import errors
from schemas.errors import DeviceError, FlotillaError
from schemas.layout import MAX_MANIFEST_BYTES
from schemas.manifest import MAX_ENTRIES

HEAD: Final = struct.Struct(">I")
MAX_FRAME: Final = MAX_MANIFEST_BYTES + 1024 * 1024
"""A manifest is the largest answer."""
MAX_WISH: Final = MAX_ENTRIES * 512
"""The largest wish names every file of such a manifest, with where it is to go."""


class Frame(msgspec.Struct, frozen=True, kw_only=True, tag_field="what"):
    """Base of all frames."""


class Open(Frame, frozen=True, kw_only=True, tag="open"):
    """First frame to the child: the exported file to read, or what to fetch from."""

    root: str
    trusted_root: bytes
    file: str | None = None
    addresses: list[str] = []
    max_bytes_per_s: int | None = None


class Resolve(Frame, frozen=True, kw_only=True, tag="resolve"):
    """See `ReleaseSource.resolve`. `now` is the agent's clock, seconds since 1970."""

    package: str
    version: str
    platform: str
    now: float
    manifests: list[str] = []
    max_bytes: int | None = None


class Fetch(Frame, frozen=True, kw_only=True, tag="fetch"):
    """See `ReleaseSource.fetch`: (sha256, size, destination) of each object, (path, size, old, new) of the bundle."""

    wanted: list[tuple[str, int, str]]
    now: float
    bundle: tuple[str, int, str | None, str] | None = None
    max_bytes: int | None = None


class Signed(Frame, frozen=True, kw_only=True, tag="signed"):
    """The answer to `Resolve`."""

    plain: bytes
    sha256: str
    wire_bytes: int
    index: bytes = b""


class Received(Frame, frozen=True, kw_only=True, tag="received"):
    """While fetching: bytes since the last one."""

    plain: int
    wire: int


class Done(Frame, frozen=True, kw_only=True, tag="done"):
    """The answer to `Fetch`: why the bundle did not yield everything, if so."""

    fell_back: str = ""


class Refused(Frame, frozen=True, kw_only=True, tag="refused"):
    """The answer where an error was raised; `group` is its class in `schemas.errors`."""

    group: str
    code: str
    message: str
    log_tail: str = ""

    @classmethod
    def of(cls, error: FlotillaError) -> "Refused":
        """The frame for an error."""
        return cls(group=type(error).__name__, code=error.code, message=error.message, log_tail=error.log_tail)

    def error(self) -> FlotillaError:
        """The error that it stands for."""
        group = getattr(errors, self.group, DeviceError)
        if not (isinstance(group, type) and issubclass(group, FlotillaError)):
            group = DeviceError
        return group(self.code, self.message, log_tail=self.log_tail)


Wish = Open | Resolve | Fetch
Answer = Signed | Received | Done | Refused

_encoder: Final = msgspec.msgpack.Encoder()
wishes: Final = msgspec.msgpack.Decoder(Wish)
answers: Final = msgspec.msgpack.Decoder(Answer)


def bundle_frame(bundle: WantedBundle | None) -> tuple[str, int, str | None, str] | None:
    """A bundle as `Fetch` has it."""
    if bundle is None:
        return None
    return bundle.path, bundle.size, None if bundle.old is None else str(bundle.old), bundle.new


def way_of(wish: Fetch) -> Way:
    """How a `Fetch` wants it done."""
    bundle = None
    if wish.bundle is not None:
        path, size, old, new = wish.bundle
        bundle = WantedBundle(path=path, size=size, old=None if old is None else Path(old), new=new)
    return Way(bundle=bundle, max_bytes=wish.max_bytes)


def framed(frame: Frame) -> bytes:
    """A frame as it goes through the pipe."""
    body = _encoder.encode(frame)
    return HEAD.pack(len(body)) + body
