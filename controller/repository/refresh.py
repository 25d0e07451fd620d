"""Signs again, in time, what would expire."""

from datetime import datetime

from controller.repository.keys import KeyStore
from controller.repository.metadata import TrustedMetadata
from controller.repository.records import Expiry, Refreshed
from controller.repository.signing import Edition, Lifetimes, renew_root
from controller.repository.tuf_api import Root, Snapshot, Targets, Timestamp
from schemas.layout import package_role


def refresh(trusted: TrustedMetadata, keys: KeyStore, lifetimes: Lifetimes, now: datetime) -> Refreshed:
    """Sign again every role that has no more than a third of its lifetime left; under the repository's lock.

    Roles whose key is elsewhere are named in the answer, for their owner to be told while there is still time.

    Raises:
        TrustError: `trust.keys`, when the key of snapshot or timestamp is missing.
        OperatorError: `disk.full` or `disk.io`.
    """
    due = [(role, expires) for role, expires in expiries(trusted) if lifetimes.is_due(role, expires, now)]
    overdue = [
        Expiry(role=role, expires=expires, key=str(keys.path(role)))
        for role, expires in due
        if not keys.has(role) and role not in (Snapshot.type, Timestamp.type)
    ]
    missing = {expiry.role for expiry in overdue}
    to_sign = [role for role, _ in due if role not in missing]
    signed: list[str] = []
    if Root.type in to_sign:
        renew_root(trusted, keys, lifetimes, now)
        to_sign.remove(Root.type)
        signed.append(Root.type)
    if to_sign:
        edition = Edition(trusted, keys, lifetimes, now)
        for role in to_sign:
            edition.renew(role)
        signed.extend(edition.publish())
    return Refreshed(signed=signed, overdue=overdue)


def expiries(trusted: TrustedMetadata) -> list[tuple[str, datetime]]:
    """When each role expires. Raises `TrustError`, `trust.metadata`."""
    found = [
        (Root.type, trusted.root.signed.expires),
        (Targets.type, trusted.targets.signed.expires),
        (Snapshot.type, trusted.snapshot.signed.expires),
        (Timestamp.type, trusted.timestamp.signed.expires),
    ]
    for name in trusted.packages():
        role = trusted.package(name)
        if role is not None:
            found.append((package_role(name), role.signed.expires))
    return found
