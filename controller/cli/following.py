"""Live views that go on by themselves when the controller was away, as while it is restarted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from controller.cli.common import plural
from controller.client import ControllerClient
from schemas.errors import FlotillaError, NetworkError

if TYPE_CHECKING:
    from transport.keeping import Backoff

PATIENCE_S: Final = 600.0
"""So long a controller that went away is asked again."""
LONGEST_WAIT_S: Final = 15.0
LASTED_S: Final = 60.0
"""A view that ends sooner counts as part of the same outage: something in between may answer for the controller."""
GONE: Final = "controller"
"""The kind of change that tells that the controller went, or is there again: `answers`, and the `error` if not."""

_MAY_PASS: Final = frozenset({"api.refused", "watch.limit"})
"""Refusals that a restart brings with it: of a proxy whose controller is away, and where everybody comes at once."""

Change = tuple[str, dict[str, Any]]


def keep_following(client: ControllerClient, *path: str) -> Iterator[Change]:
    """Connect, and give changes as `ControllerClient.follow` does, over and over; a change `GONE` tells of the gaps.

    After a gap the events of devices come first that were taken in meanwhile.

    Raises:
        NetworkError: at once where nobody answers the first time, and out of the iterator after `PATIENCE_S`.
        FlotillaError: the controller refuses it.
    """
    seen: list[str] = []
    return _go_on(client, path, client.follow(*path, seen=seen), seen)


def why_gone(data: dict[str, Any]) -> str | None:
    """Why the controller does not answer, out of a change `GONE`; None where it does again."""
    return None if data["answers"] else str(data["error"])


def gone_text(reason: str) -> str:
    """What there is to say as long as the controller does not answer."""
    return f"the controller does not answer ({reason}); it is asked again for {_patience()}"


def _patience() -> str:
    return plural(round(PATIENCE_S / 60), "minute")


def _go_on(
    client: ControllerClient, path: tuple[str, ...], changes: Iterator[Change], seen: list[str]
) -> Iterator[Change]:
    from transport.keeping import Backoff  # noqa: PLC0415 - it comes with the MQTT client, which help does not need

    waits = Backoff(limit_s=LONGEST_WAIT_S)
    since = time.monotonic()
    give_up = since + PATIENCE_S
    while True:
        why: FlotillaError = NetworkError("api.unreachable", f"{client.url} ended the live view")
        try:
            yield from changes
        except NetworkError as error:
            why = error
        now = time.monotonic()
        if now - since >= LASTED_S:
            waits.reset()
            give_up = now + PATIENCE_S
        yield GONE, {"answers": False, "error": str(why)}
        changes = _again(client, path, seen, waits, give_up, why)
        since = time.monotonic()
        yield GONE, {"answers": True, "error": None}


def _again(
    client: ControllerClient,
    path: tuple[str, ...],
    seen: list[str],
    waits: Backoff,
    give_up: float,
    why: FlotillaError,
) -> Iterator[Change]:
    while time.monotonic() < give_up:
        time.sleep(waits.next_s())
        try:
            return client.follow(*path, seen=seen)
        except FlotillaError as error:
            if not isinstance(error, NetworkError) and error.code not in _MAY_PASS:
                raise
            why = error
    raise NetworkError("api.unreachable", f"gave up after {_patience()}: {why}")
