"""What there is to install on one device, and so whether pressing 'Install' may do anything. Pure.

The button never widens a rollout and passes no hold, pin or window: what is shown as available is what the device's
channel announces to this very device already. Pressing it asks the device to try at once what has failed or waits.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from controller.fleet.views import Device
from schemas.errors import PublisherError
from schemas.messages import Announcement, Desired, Phase, ReleaseState
from schemas.targeting import is_meant
from schemas.versions import parse

_OPEN: Final = frozenset({ReleaseState.ACTIVE, ReleaseState.COMPLETE})
_WORKING: Final = frozenset({Phase.FETCHING, Phase.STAGED, Phase.SWITCHED, Phase.PROBATION, Phase.ROLLING_BACK})

Announced = Mapping[tuple[str, str], Announcement]
"""What topics announce, by channel and package."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageState:
    """One package on one device.

    Attributes:
        installed: the version that the device reports; None where it has none.
        latest: the version that it is to have; the installed one where nothing is offered.
        in_progress: whether an update of it is under way.
        percent: how much of it is fetched, while it fetches.
    """

    package: str
    installed: str | None
    latest: str | None
    in_progress: bool
    percent: int | None

    @property
    def offered(self) -> bool:
        """Whether there is something to install."""
        return self.latest is not None and self.latest != self.installed


def packages_of(device: Device, announced: Announced, desired: Desired | None) -> list[PackageState]:
    """Every package that the device has or is offered, by name."""
    offers = {
        package: announcement
        for (channel, package), announcement in announced.items()
        if channel == device.channel and _is_offered(device, announcement, desired)
    }
    return [_state(device, package, offers.get(package)) for package in sorted({*device.packages, *offers})]


def _state(device: Device, package: str, offer: Announcement | None) -> PackageState:
    there, update = device.packages.get(package), device.update
    installed = there.version if there is not None else None
    working = update is not None and update.package == package and update.phase in _WORKING
    progress = update.progress if update is not None and working and update.phase is Phase.FETCHING else None
    return PackageState(
        package=package,
        installed=installed,
        latest=offer.version if offer is not None else installed,
        in_progress=working,
        percent=None if progress is None else _percent(progress.bytes_done, progress.bytes_total),
    )


def _is_offered(device: Device, announcement: Announcement, desired: Desired | None) -> bool:
    if announcement.state not in _OPEN:
        return False
    if desired is not None and (desired.hold or announcement.package in (desired.pins or {})):
        return False
    meant = is_meant(
        announcement.targets,
        rollout=announcement.rollout,
        device=device.id,
        tags=device.tags,
        facts=device.facts,
    )
    there = device.packages.get(announcement.package)
    return meant and (there is None or announcement.policy.allow_downgrade or _is_newer(announcement, there.version))


def _is_newer(announcement: Announcement, installed: str) -> bool:
    try:
        return parse(announcement.version) >= parse(installed)
    except PublisherError:
        return True  # a device may report any text; what it does not understand it will refuse itself


def _percent(done: int, total: int) -> int:
    return min(100, 100 * done // total) if total > 0 else 0
