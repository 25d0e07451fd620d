"""Whether a device is meant by an announcement. Each agent works this out by itself."""

import hashlib
from collections.abc import Mapping

from schemas.messages import BUCKETS, FactValue, Targets


def bucket(rollout: str, device: str) -> int:
    """The device's place in a rollout, 0 to 9999.

    The rule is the wire contract's: the first four bytes of sha256(rollout + ":" + device), big-endian,
    modulo 10000. It is even over devices and independent from one rollout to the next.
    """
    digest = hashlib.sha256(f"{rollout}:{device}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % BUCKETS


def is_meant(
    targets: Targets,
    *,
    rollout: str,
    device: str,
    tags: Mapping[str, str],
    facts: Mapping[str, FactValue],
) -> bool:
    """Whether `targets` mean the device.

    A device that `devices` lists is in, whatever `upto` says. For all others the bucket must be below
    `upto`. `where` must hold for both: it says what a release is for at all. One that `exclude` lists is out.
    """
    if device in targets.exclude:
        return False
    return where_holds(targets.where, tags=tags, facts=facts) and (
        device in targets.devices or bucket(rollout, device) < targets.upto
    )


def where_holds(
    where: Mapping[str, str | list[str]], *, tags: Mapping[str, str], facts: Mapping[str, FactValue]
) -> bool:
    """Whether every condition holds; a tag goes before a fact of the same name."""
    return all(
        value_of(key, tags=tags, facts=facts) in (wanted if isinstance(wanted, list) else [wanted])
        for key, wanted in where.items()
    )


def value_of(key: str, *, tags: Mapping[str, str], facts: Mapping[str, FactValue]) -> str | None:
    """What a condition on `key` is compared with; None where the device has no such tag or fact."""
    if key in tags:
        return tags[key]
    fact = facts.get(key)
    if fact is None:
        return None
    # JSON's spelling, so that `where = {"raspberry": "true"}` fits a boolean fact
    return str(fact).lower() if isinstance(fact, bool) else str(fact)
