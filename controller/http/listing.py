"""Releases as they are listed: what the repository and the rollouts of their channels say."""

from collections.abc import Collection

import msgspec

from controller.http.views import ListedRelease
from controller.repository.records import ReleaseRecord
from controller.rollouts.plan import RolloutState
from controller.rollouts.pointing import Pointer
from controller.rollouts.reader import RolloutReader


def listed(rollouts: RolloutReader, records: Collection[ReleaseRecord]) -> list[ListedRelease]:
    """These releases, with the channels where nobody new gets them though the channel points at them; blocks."""
    states = rollouts.stopped_pointers({one.package for one in records if one.channels})

    def stopped(one: ReleaseRecord) -> dict[str, RolloutState]:
        pointers = {channel: Pointer(one.package, one.version, channel) for channel in one.channels}
        return {channel: states[pointer] for channel, pointer in pointers.items() if pointer in states}

    return [ListedRelease(**msgspec.structs.asdict(one), stopped=stopped(one)) for one in records]
