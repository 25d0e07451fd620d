"""Announcing a version: repository and fleet change together, one announcement after the other."""

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import msgspec
from sqlalchemy.exc import SQLAlchemyError

from controller.fleet.patience import reason
from controller.fleet.service import FleetService
from controller.http.views import Announced, ReleaseWish, SetWish
from controller.meant import did_you_mean
from controller.repository.package_repository import PackageRepository
from controller.rollouts.naming import never_heard_of, nobody_is_meant
from controller.rollouts.views import Rollout
from controller.rollouts.waves import check_plan, empty_waves, never_text
from controller.settings import ControllerSettings
from schemas.errors import FlotillaError, OperatorError

log = logging.getLogger("flotilla.http")


class Releasing:
    """Safe from any thread. Two at once could leave the channel at one version and announce the other."""

    def __init__(self, repository: PackageRepository, fleet: FleetService, settings: ControllerSettings) -> None:
        self._repository = repository
        self._fleet = fleet
        self._settings = settings
        self._lock = threading.Lock()

    def announce(self, wish: ReleaseWish) -> Announced:
        """As `start`, with what an operator should know about it."""
        return self._told(self.start(wish), wish)

    def announce_set(self, wish: SetWish) -> list[Announced]:
        """As `start_set`, with what an operator should know about each of its rollouts."""
        return [self._told(rollout, wish) for rollout in self.start_set(wish)]

    def _told(self, rollout: Rollout, wish: ReleaseWish | SetWish) -> Announced:
        try:
            warnings = self._warnings(rollout, wish)
        except (FlotillaError, SQLAlchemyError) as error:
            # it is announced: nothing that goes wrong from here on may look as if it were not
            log.warning("rollout %s is announced, and not looked at for what to warn of: %s", rollout.id, reason(error))
            warnings = []
        return Announced(**msgspec.structs.asdict(rollout), warnings=warnings)

    def _warnings(self, rollout: Rollout, wish: ReleaseWish | SetWish) -> list[str]:
        registry, package, channel, targets = self._fleet.registry, rollout.package, wish.channel, wish.targets
        warnings = []
        if (ended := self._fleet.rollouts.place_taken(rollout)) is not None:
            warnings.append(ended)
        nobody = None if targets.devices else registry.nobody_follows(channel)
        if nobody is not None:
            warnings.append(f"{nobody}; to take it back: flotilla withdraw {package} --channel {channel}")
        if unknown := self._fleet.rollouts.strangers(targets, rollout.plan):
            warnings.append(never_heard_of(unknown))
        if not wish.policy.allow_downgrade:
            refused = registry.refused_as_older(
                package=package, version=rollout.version, channel=channel, targets=targets
            )
            warnings += [refused] if refused is not None else []
        if nobody is None and isinstance(wish, ReleaseWish):
            meant = sum(rollout.verdicts.values())
            numbers = [sum(wave.verdicts.values()) for wave in rollout.waves]
            warnings += empty_waves(rollout.plan, numbers) if meant else [nobody_is_meant(channel)]
        if (never := never_text(rollout.plan)) is not None:
            warnings.append(never)
        fewer = self._fleet.rollouts.left_out(rollout, targets, waves=isinstance(wish, ReleaseWish))
        warnings += [fewer] if fewer is not None else []
        return warnings

    def withdraw(self, package: str, channel: str, *, by: str | None = None) -> Rollout:
        """Announce a package on a channel no more, and point the channel nowhere. `by` is who wants it so.

        Raises:
            OperatorError: `rollout.unknown` where the channel announces no such package. It points nowhere then too, as
                a withdrawal that was cut short leaves it pointing.
        """
        with self._lock:
            try:
                rollout = self._fleet.steering.withdraw(channel, package, by=by)
            except OperatorError as error:
                if error.code != "rollout.unknown":
                    raise
                pointed = self._repository.unset_channel(package, channel)
                meant = did_you_mean(self._repository.near(package))
                told = "; it still pointed at one, and does no more" if pointed else meant
                raise OperatorError(error.code, f"{error}{told}") from error
            self._repository.unset_channel(package, channel)
            return rollout

    def start(self, wish: ReleaseWish) -> Rollout:
        """Point the channel at the version and start the rollout, or neither.

        Raises:
            PublisherError: `release.unknown` or `release.yanked`.
            OperatorError: the announcement breaks a rule of the contract.
        """
        plan = wish.chosen_plan()
        if plan is not None:
            check_plan(plan)
        with self._lock, self._pointed(wish.channel, {wish.package: wish.version}):
            return self._fleet.steering.create_release(
                package=wish.package,
                version=wish.version,
                channel=wish.channel,
                repository=list(self._settings.repository_urls),
                targets=wish.targets,
                policy=wish.policy,
                plan=plan,
            )

    def start_set(self, wish: SetWish) -> list[Rollout]:
        """As `start`, for several packages that devices switch together; all of it or nothing."""
        with self._lock, self._pointed(wish.channel, wish.packages):
            return self._fleet.steering.create_set(
                packages=wish.packages,
                channel=wish.channel,
                repository=list(self._settings.repository_urls),
                targets=wish.targets,
                policy=wish.policy,
            )

    @contextmanager
    def _pointed(self, channel: str, packages: Mapping[str, str]) -> Iterator[None]:
        """The channel points at these versions, and at what it did before where the block raises."""
        done: list[tuple[str, str | None]] = []
        try:
            # before anything else: it refuses a version that does not exist, and keeps this one from deletion
            for package, version in packages.items():
                before = self._repository.channel_of(package, channel)
                self._repository.set_channel(package, version, channel)
                done.append((package, before))
            yield
        except BaseException:
            for package, before in reversed(done):
                try:
                    if before is None:
                        self._repository.unset_channel(package, channel)
                    else:
                        self._repository.set_channel(package, before, channel, yanked=True)
                except (FlotillaError, SQLAlchemyError) as error:
                    # what is said is what went wrong first
                    log.error("channel %s of %s can't be put back: %s", channel, package, reason(error))  # noqa: TRY400 - one line
            raise
