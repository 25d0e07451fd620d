"""Reads what the preflight needs: devices from the database, manifests and bundles from the repository."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, tzinfo
from functools import cache, partial
from typing import Final, TypeVar

import msgspec
from sqlalchemy import Connection, Engine, select

from controller.database import from_db, reading, utc_now
from controller.fleet.following import nobody_follows
from controller.fleet.newer import may_be_meant, refused_as_older
from controller.fleet.sql import map_of
from controller.fleet.tables import desired, device_packages, devices
from controller.preflight.failed import failed_on
from controller.preflight.openings import Openings, own_zone
from controller.preflight.pace import estimate, pace_of
from controller.preflight.rules import Candidate, Foresight, KnownDevice, Runs, Wanted
from controller.preflight.views import ForeseenDevice, ForeseenWave, Preflight
from controller.preflight.waves import drawn_when, foreseen_waves, starting, waves_s
from controller.repository.package_repository import PackageRepository
from controller.repository.records import ReleaseRecord
from controller.rollouts.beginning import meant
from controller.rollouts.drawing import certain_wave
from controller.rollouts.leaving_out import left_out
from controller.rollouts.naming import SHOWN, never_heard_of, nobody_is_meant, place_taken, strangers, under_way
from controller.rollouts.plan_files import default_plan
from controller.rollouts.waves import RolloutPlan, check_plan, empty_waves
from schemas.errors import FlotillaError, PublisherError, one_line
from schemas.manifest import Manifest
from schemas.messages import BUCKETS, Desired, RolloutPolicy, Targets
from schemas.names import platform_fits
from schemas.versions import parse

MAX_PAGE: Final = 500

T = TypeVar("T", bound=str)


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
        records = self._repository.records(package, version)
        if not records:
            raise self._repository.unknown(package, version)
        yanked = next((record for record in records if record.yanked_at is not None), None)
        if yanked is not None:
            why = f": {one_line(yanked.yank_reason, 200)}" if yanked.yank_reason else ""
            raise PublisherError("release.yanked", f"{package} {version} was yanked{why}; release another version")
        wanted = Wanted(
            package=package,
            version=version,
            allow_downgrade=policy.allow_downgrade,
            beside=policy.set.packages if policy.set else {},
        )
        candidates = [self._candidate(record) for record in records]
        foresight = Foresight(wanted, candidates, old=self._reader(), older=self._finder())
        with reading(self._engine) as connection:
            known = [one for one in _devices(connection, channel, package, version) if _is_meant(targets, one)]
            unknown = strangers(connection, targets, plan)
            number = meant(connection, channel, targets)
            pace = pace_of(connection, channel, package)
            nobody = nobody_follows(connection, channel)
            ended = place_taken(connection, under_way(connection, package, channel), version=version)
            fewer = left_out(connection, package=package, channel=channel, targets=targets)
            refused = (
                None
                if policy.allow_downgrade
                else refused_as_older(connection, package=package, version=version, channel=channel, targets=targets)
            )
        plan = plan or default_plan(number)
        sure = [certain_wave(plan, one.id, tags=one.tags, facts=one.facts) for one in known]
        foreseen = [
            msgspec.structs.replace(foresight.look(device), wave=wave) for device, wave in zip(known, sure, strict=True)
        ]
        waves = foreseen_waves(plan, sure, number, of_share=targets.upto not in {0, BUCKETS})
        ready = [one for one in foreseen if not one.obstacles]
        begin, later = starting(plan, waves, sure, [not one.obstacles for one in foreseen])
        openings = Openings(
            policy.window or plan.window, policy.not_before or plan.not_before, now=now, zone=zone or own_zone()
        )
        ends = estimate(
            pace,
            ready=len(ready),
            channel=channel,
            now=now,
            openings=openings,
            whole=partial(_whole_s, plan, waves, policy, openings),
            approvals=sum(wave.approval for wave in waves),
        )
        page = [one for one in foreseen if one.device > after][: limit + 1]
        return Preflight(
            package=package,
            version=version,
            channel=channel,
            meant=len(foreseen),
            ready=len(ready),
            starting=begin,
            later=later,
            starts_at=openings.later,
            starts_when=openings.told(),
            bytes=sum(one.bytes for one in ready),
            routes=_counts(one.route for one in ready if one.route is not None),
            obstacles=_counts(obstacle.code for one in foreseen for obstacle in one.obstacles),
            plan=plan.name,
            waves=waves,
            drawn_when=drawn_when(plan, sure),
            estimate=ends,
            warnings=list(
                _warnings(
                    targets,
                    channel,
                    foreseen,
                    unknown,
                    nobody=nobody,
                    refused=refused,
                    ended=ended,
                    fewer=fewer,
                    empty=empty_waves(plan, [wave.devices for wave in waves]),
                )
            ),
            devices=page[:limit],
            next=page[limit - 1].device if len(page) > limit else None,
        )

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


def _whole_s(
    plan: RolloutPlan, waves: list[ForeseenWave], policy: RolloutPolicy, openings: Openings, device_s: float
) -> float:
    jitter_s = policy.jitter_s or plan.jitter_s
    return openings.lead_s + waves_s(
        plan, waves, device_s, jitter_s, opens_s=lambda from_s: openings.next_s(from_s, device_s)
    )


def _warnings(
    targets: Targets,
    channel: str,
    foreseen: list[ForeseenDevice],
    unknown: list[str],
    *,
    nobody: str | None,
    refused: str | None,
    ended: str | None,
    fewer: str | None,
    empty: list[str],
) -> Iterator[str]:
    if ended is not None:
        yield ended
    if nobody is not None:
        yield nobody
    elif not foreseen:
        yield nobody_is_meant(channel)
    else:
        yield from empty
    if refused is not None:
        yield refused
    if fewer is not None:
        yield fewer
    if unknown:
        yield never_heard_of(unknown)
    known = {one.device for one in foreseen} | {*unknown, *targets.exclude}
    elsewhere = [device for device in targets.devices if device not in known]
    if elsewhere:
        shown = ", ".join(elsewhere[:SHOWN]) + (" …" if len(elsewhere) > SHOWN else "")
        yield f"named, but not on channel {channel} or left out by a condition: {shown}"
    if 0 < targets.upto < BUCKETS:
        yield f"a share of {targets.upto / 100:g} % of these is drawn when it is announced"


def _counts(items: Iterable[T]) -> dict[T, int]:
    return dict(Counter(items).most_common())
