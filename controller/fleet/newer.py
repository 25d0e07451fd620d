"""Devices that run something newer than what is to be released: they refuse it, one by one, and far away."""

from collections.abc import Mapping
from typing import Final

import msgspec
from sqlalchemy import Connection, func, select

from controller.fleet.sql import chunks, map_of
from controller.fleet.tables import device_packages, devices
from controller.rollouts.plan import RolloutState
from controller.rollouts.tables import announcements, rollouts
from schemas.errors import PublisherError
from schemas.messages import FactValue, Phase, RolloutPolicy, Targets
from schemas.requirements import unmet_by_age
from schemas.targeting import where_holds

_OFFERS_NOTHING: Final = [RolloutState.HALTED.value, RolloutState.REVERTED.value]


def may_be_meant(targets: Targets, device: str, *, tags: Mapping[str, str], facts: Mapping[str, FactValue]) -> bool:
    """Whether the targets may mean the device; a share of the devices is only drawn with the rollout's id."""
    if device in targets.exclude or not where_holds(targets.where, tags=tags, facts=facts):
        return False
    return targets.upto > 0 or device in targets.devices


def refused_as_older(
    connection: Connection, *, package: str, version: str, channel: str, targets: Targets
) -> str | None:
    """One line where devices of a channel would refuse a release without `allow_downgrade`; None where none would.

    Few versions of a package are there at a time, so devices are only read where one of those is newer.
    """
    there = device_packages.c
    known = list(connection.scalars(select(there.version).where(there.package == package).distinct()))
    newer = [one for one in known if _is_older(package, version, than=one)]
    number = sum(_number(connection, package, some, channel, targets) for some in chunks(newer))
    if not number:
        return None
    who, refuse = (f"{number} devices run", "refuse it") if number > 1 else ("1 device runs", "refuses it")
    return f"{who} something newer than {package} {version} and {refuse} (requires.downgrade) without --allow-downgrade"


def newer_than_its_channel(connection: Connection, device: str, *, package: str, channel: str) -> str | None:
    """One line where a device runs something newer than its channel offers it, and so refuses that; else None."""
    there, known = device_packages.c, devices.c
    installed = (
        select(there.version, known.tags, known.facts)
        .join(devices, known.id == there.device)
        .where(there.device == device, there.package == package, there.phase == Phase.SUCCEEDED.value)
    )
    said = announcements.c
    announced = (
        select(rollouts.c.version, rollouts.c.policy, func.coalesce(rollouts.c.base, rollouts.c.targets).label("base"))
        .join(announcements, said.rollout == rollouts.c.id)
        .where(said.channel == channel, said.package == package, said.payload.is_not(None))
        .where(rollouts.c.state.not_in(_OFFERS_NOTHING))
    )
    runs, offer = connection.execute(installed).first(), connection.execute(announced).first()
    if runs is None or offer is None or msgspec.json.decode(offer.policy, type=RolloutPolicy).allow_downgrade:
        return None
    targets = msgspec.json.decode(offer.base, type=Targets)
    if not may_be_meant(targets, device, tags=map_of(runs.tags), facts=map_of(runs.facts)):
        return None
    if not _is_older(package, offer.version, than=runs.version):
        return None
    return (
        f"{device} runs {package} {runs.version} and refuses the older {offer.version} of channel {channel} "
        f"(requires.downgrade); told --pin {package}={offer.version} beside all else that it is told, it goes there"
    )


def _is_older(package: str, version: str, *, than: str) -> bool:
    try:
        return unmet_by_age(package, version, installed=than, allow_downgrade=False) is not None
    except PublisherError:  # a device may report any text as a version
        return False


def _number(connection: Connection, package: str, versions: list[str], channel: str, targets: Targets) -> int:
    there = device_packages.c
    found = (
        select(devices.c.id, devices.c.tags, devices.c.facts)
        .join(device_packages, there.device == devices.c.id)
        .where(devices.c.channel == channel, there.package == package, there.version.in_(versions))
    )
    if not targets.where and not targets.exclude and targets.upto:
        return connection.scalar(select(func.count()).select_from(found.subquery())) or 0
    return sum(
        may_be_meant(targets, device, tags=map_of(tags), facts=map_of(facts))
        for device, tags, facts in connection.execute(found)
    )
