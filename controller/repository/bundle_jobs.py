"""What the controller and the process that makes bundles say to each other: one JSON object a line."""

from typing import Final

import msgspec

MAX_LINE: Final = 1024 * 1024


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A stored release: where its signed manifest is, and its identity.

    Attributes:
        target, name: sha256 of the packed manifest and the name that it was signed as.
        manifest: sha256 of the plain one.
    """

    version: str
    target: str
    name: str
    manifest: str


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """Bundles that are missing.

    Attributes:
        folder: the repository.
        to: the release that they lead to.
        sources: what they start from; None stands for nothing.
        workers: processes to work with.
    """

    folder: str
    package: str
    platform: str
    to: Stored
    sources: list[Stored | None]
    workers: int = 1


class Said(msgspec.Struct, frozen=True, kw_only=True, tag_field="said"):
    """Base of what the process says."""


class Begun(Said, frozen=True, kw_only=True, tag="begun"):
    """Work on the bundle of this position in `Job.sources` begins."""

    number: int


class Progressed(Said, frozen=True, kw_only=True, tag="progress"):
    """How far it is, of so many bytes of content."""

    done: int
    total: int


class Made(Said, frozen=True, kw_only=True, tag="made"):
    """The bundle is there, or was not worth keeping.

    Attributes:
        size: its bytes.
        objects: what the objects cost instead, requests included.
        patch: bytes of the manifest's difference; 0 for none.
    """

    number: int
    size: int
    objects: int
    patch: int = 0
    kept: bool


class Failed(Said, frozen=True, kw_only=True, tag="failed"):
    """The bundle could not be made; `number` is None where none can."""

    number: int | None
    code: str
    message: str


Line = Begun | Progressed | Made | Failed

jobs: Final = msgspec.json.Decoder(Job)
lines: Final = msgspec.json.Decoder(Line)
encode: Final = msgspec.json.Encoder().encode
