"""What the repository tells about bundles."""

from datetime import datetime
from typing import Literal

import msgspec

BundleState = Literal["waiting", "making", "made", "failed"]


class BundleView(msgspec.Struct, frozen=True, kw_only=True):
    """One way to a release in one file.

    Attributes:
        source: the version that it starts from; None for a full one.
        manifest: that version's plain manifest, its identity.
        size: bytes of the bundle.
        objects: bytes that the objects cost instead, requests included.
        saved: what the bundle spares, its own request counted; not above 0 where it is not kept.
        patch: bytes of the manifest's difference; 0 for none.
        kept: whether it is offered; one that is no smaller than the objects is not.
    """

    source: str | None = None
    manifest: str | None = None
    size: int
    objects: int
    saved: int
    patch: int = 0
    kept: bool = True


class FailedView(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle that could not be made, in this or an earlier run of the controller.

    Attributes:
        source: the version that it starts from; None for a full one.
        reason: of the last attempt.
        attempts: how many there were.
        again_at: not tried again by itself before.
    """

    source: str | None = None
    reason: str
    attempts: int
    again_at: datetime


class ReleaseBundles(msgspec.Struct, frozen=True, kw_only=True):
    """The bundles that lead to a release.

    Attributes:
        state: `waiting` and `making` will become `made` or `failed` (some of them could not be made).
        done, wanted: how many bundles are dealt with, and of how many.
        share: how much of the one that is being made is done, 0 to 1.
        failures: a line for each that could not be made since the controller started.
        failed: those that could not be made, as it is remembered.
    """

    package: str
    version: str
    platform: str
    state: BundleState
    done: int
    wanted: int
    share: float = 0.0
    failures: list[str] = []
    failed: list[FailedView] = []
    bundles: list[BundleView] = []
