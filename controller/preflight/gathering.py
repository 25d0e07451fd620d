"""Reads what the preflight needs: devices from the database, manifests and bundles from the repository."""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, tzinfo
from functools import cache
from typing import Final

import msgspec
from sqlalchemy import Connection, Engine, select

from controller.database import from_db, reading, utc_now
from controller.fleet.following import nobody_follows
from controller.fleet.newer import may_be_meant, refused_as_older
from controller.fleet.sql import map_of
from controller.fleet.tables import desired, device_packages, devices
from controller.preflight.course import Course, Fleet, Release
from controller.preflight.failed import failed_on
from controller.preflight.openings import Openings, own_zone
from controller.preflight.pace import pace_of
from controller.preflight.rules import Candidate, Foresight, KnownDevice, Runs, Wanted
from controller.preflight.views import ForeseenDevice, Preflight
from controller.preflight.waves import foreseen_waves
from controller.repository.package_repository import PackageRepository
from controller.repository.records import ReleaseRecord
from controller.rollouts.beginning import meant
from controller.rollouts.drawing import certain_wave
from controller.rollouts.leaving_out import left_out
from controller.rollouts.naming import place_taken, strangers, under_way
from controller.rollouts.plan_files import default_plan
from controller.rollouts.waves import RolloutPlan, check_plan
from schemas.errors import FlotillaError, PublisherError, one_line
from schemas.manifest import Manifest
from schemas.messages import BUCKETS, Desired, RolloutPolicy, Targets
from schemas.names import platform_fits
from schemas.versions import parse

MAX_PAGE: Final = 500


class Preflights:
    """Synchronous, safe from any thread. Nothing is ever written."""

    def __init__(self, engine: Engine, repository: PackageRepository) -> None:
        self._engine = engine
        self._repository = repository

    def look(
        self,
        *,
        package: str,
        version: str,
        channel: str,
        targets: Targets,
        policy: RolloutPolicy,
        plan: RolloutPlan | None = None,
        after: str = "",
        limit: int = MAX_PAGE,
        now: datetime | None = None,
        zone: tzinfo | None = None,
    ) -> Preflight:
        """What announcing the release would do.

        Args:
            package: its name; `version`, `channel`, `targets` and `policy` as the release would have them.
            plan: in which waves; unless given, by the number of devices that the release is for.
            after: only devices after this id are listed; everything counts all of them.
            limit: at most so many are.
            now: the controller's clock.
            zone: the one that windows are counted in; its own unless given.

        Raises:
            PublisherError: `version.bad`, `release.unknown` or `release.yanked`.
            OperatorError: `input.bad` for a plan that cannot be; `device.unknown` where the release would be refused,
                as it or a wave names only devices that were never heard of.
        """
        parse(version)
        if plan is not None:
            check_plan(plan)
        now = now or utc_now()
        release = Release(package=package, version=version, channel=channel, targets=targets, policy=policy)
        foresight = self._foresight(release)
        with reading(self._engine) as connection:
            fleet = _read(connection, release, plan)
        plan = plan or default_plan(fleet.number)
        foreseen = _foreseen(foresight, fleet.known, plan)
        course = Course(
            release=release,
            fleet=fleet,
            plan=plan,
            foreseen=foreseen,
            waves=foreseen_waves(
                plan, [one.wave for one in foreseen], fleet.number, of_share=targets.upto not in {0, BUCKETS}
            ),
            openings=Openings(
                policy.window or plan.window, policy.not_before or plan.not_before, now=now, zone=zone or own_zone()
            ),
        )
        return course.told(now, after=after, limit=limit)

    def _foresight(self, release: Release) -> Foresight:
        """What the release needs of a device, for each platform; raises `PublisherError`."""
        wanted = Wanted(
            package=release.package,
            version=release.version,
            allow_downgrade=release.policy.allow_downgrade,
            beside=release.policy.set.packages if release.policy.set else {},
        )
        candidates = [self._candidate(record) for record in self._to_announce(release.package, release.version)]
        return Foresight(wanted, candidates, old=self._reader(), older=self._finder())

    def _to_announce(self, package: str, version: str) -> list[ReleaseRecord]:
        records = self._repository.records(package, version)
        if not records:
            raise self._repository.unknown(package, version)
        yanked = next((record for record in records if record.yanked_at is not None), None)
        if yanked is not None:
            why = f": {one_line(yanked.yank_reason, 200)}" if yanked.yank_reason else ""
            raise PublisherError("release.yanked", f"{package} {version} was yanked{why}; release another version")
        return records

    def _candidate(self, record: ReleaseRecord) -> Candidate:
        plain, packed = self._repository.manifest_sizes(record)
        return Candidate(
            manifest=self._repository.manifest(record),
            sha256=record.manifest,
            plain=plain,
            packed=packed,
            index=self._repository.bundles.files.index(record.manifest),
        )

    def _reader(self) -> Callable[[str, str, str], Manifest | None]:
        @cache
        def old(package: str, version: str, sha256: str) -> Manifest | None:
            for record in self._repository.records(package, version):
                if record.manifest == sha256:
                    try:
                        return self._repository.manifest(record)
                    except FlotillaError:
                        return None  # damaged: what devices have of it is not counted on
            return None

        return old

    def _finder(self) -> Callable[[str, str, str], str | None]:
        @cache
        def older(package: str, version: str, platform: str) -> str | None:
            fitting = [r for r in self._repository.records(package, version) if platform_fits(r.platform, platform)]
            best = max(fitting, key=lambda record: record.platform == platform, default=None)
            return best.manifest if best else None

        return older


def _read(connection: Connection, release: Release, plan: RolloutPlan | None) -> Fleet:
    """Raises `OperatorError` where the release would be refused for whom it, or a wave, names."""
    package, version, channel, targets = release.package, release.version, release.channel, release.targets
    return Fleet(
        known=[one for one in _devices(connection, channel, package, version) if _is_meant(targets, one)],
        strangers=strangers(connection, targets, plan),
        number=meant(connection, channel, targets),
        pace=pace_of(connection, channel, package),
        nobody=nobody_follows(connection, channel),
        ended=place_taken(connection, under_way(connection, package, channel), version=version),
        fewer=left_out(connection, package=package, channel=channel, targets=targets),
        refused=None
        if release.policy.allow_downgrade
        else refused_as_older(connection, package=package, version=version, channel=channel, targets=targets),
    )


def _devices(connection: Connection, channel: str, package: str, version: str) -> Iterator[KnownDevice]:
    """Every device of the channel, by id, for a release of this version."""
    failed = failed_on(connection, package, version)
    there = device_packages.c
    on_channel = select(devices.c.id).where(devices.c.channel == channel)
    runs: dict[str, dict[str, Runs]] = {}
    installed = select(there.device, there.package, there.version, there.manifest, there.previous)
    for device, name, own, sha256, before in connection.execute(installed.where(there.device.in_(on_channel))):
        runs.setdefault(device, {})[name] = Runs(version=own, manifest=sha256, previous=before)
    found = (
        select(devices, desired.c.payload.label("told"))
        .select_from(devices.outerjoin(desired, desired.c.device == devices.c.id))
        .where(devices.c.channel == channel)
    )
    for row in connection.execute(found.order_by(devices.c.id)).mappings():
        told = msgspec.json.decode(row["told"], type=Desired) if row["told"] else None
        yield KnownDevice(
            id=row["id"],
            online=row["online"],
            last_seen=from_db(row["last_seen"]),
            agent_version=row["agent_version"],
            tags=map_of(row["tags"]),
            facts=map_of(row["facts"]),
            packages=runs.get(row["id"], {}),
            pin=(told.pins or {}).get(package) if told else None,
            hold=bool(told and told.hold),
            failed=failed.get(row["id"]),
        )


def _is_meant(targets: Targets, device: KnownDevice) -> bool:
    return may_be_meant(targets, device.id, tags=device.tags, facts=device.facts)


def _foreseen(foresight: Foresight, known: Sequence[KnownDevice], plan: RolloutPlan) -> list[ForeseenDevice]:
    """What each device would do, and in which wave as far as that is certain."""
    return [
        msgspec.structs.replace(foresight.look(one), wave=certain_wave(plan, one.id, tags=one.tags, facts=one.facts))
        for one in known
    ]
