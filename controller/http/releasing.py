"""Announcing a version: repository and fleet change together, one announcement after the other."""

import threading

import msgspec

from controller.fleet.service import FleetService
from controller.http.views import Announced, ReleaseWish
from controller.repository.package_repository import PackageRepository
from controller.rollouts.views import Rollout
from controller.settings import ControllerSettings
from schemas.errors import FlotillaError


class Releasing:
    """Safe from any thread. Two at once could leave the channel at one version and announce the other."""

    def __init__(self, repository: PackageRepository, fleet: FleetService, settings: ControllerSettings) -> None:
        self._repository = repository
        self._fleet = fleet
        self._settings = settings
        self._lock = threading.Lock()

    def announce(self, wish: ReleaseWish) -> Announced:
        """As `start`, with what an operator should know about it."""
        rollout = self.start(wish)
        warnings = []
        if not wish.targets.devices and not self._fleet.registry.devices(after="", limit=1, channel=wish.channel):
            warnings.append(f"no device that was heard of follows channel {wish.channel}")
        return Announced(**msgspec.structs.asdict(rollout), warnings=warnings)

    def withdraw(self, package: str, channel: str) -> Rollout:
        """Announce a package on a channel no more, and point the channel nowhere.

        Raises:
            OperatorError: `rollout.unknown` where the channel announces no such package.
        """
        with self._lock:
            rollout = self._fleet.withdraw(channel, package)
            self._repository.unset_channel(package, channel)
            return rollout

    def start(self, wish: ReleaseWish) -> Rollout:
        """Point the channel at the version and start the rollout, or neither.

        Raises:
            PublisherError: `release.unknown` or `release.yanked`.
            OperatorError: the announcement breaks a rule of the contract.
        """
        with self._lock:
            before = self._repository.channel_of(wish.package, wish.channel)
            # the channel is set first: it refuses a version that does not exist, and keeps this one from deletion
            self._repository.set_channel(wish.package, wish.version, wish.channel)
            try:
                return self._fleet.create_release(
                    package=wish.package,
                    version=wish.version,
                    channel=wish.channel,
                    repository=list(self._settings.repository_urls),
                    targets=wish.targets,
                    policy=wish.policy,
                )
            except FlotillaError:
                if before is None:
                    self._repository.unset_channel(wish.package, wish.channel)
                else:
                    self._repository.set_channel(wish.package, before, wish.channel, yanked=True)
                raise
