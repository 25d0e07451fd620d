"""Which releases devices run, may go back to, are held at, or are being sent."""

from sqlalchemy import Engine, select

from controller.database import reading
from controller.fleet.orders import pins_of
from controller.fleet.tables import desired, device_packages
from controller.rollouts.plan import RolloutState
from controller.rollouts.tables import announcements, rollout_devices, rollouts
from schemas.messages import LAST_WORDS

_ENDED = [phase.value for phase in LAST_WORDS]


def releases_in_use(engine: Engine) -> dict[str, set[str]]:
    """Versions by package: nothing of them may be removed.

    What devices reported to run and to have run before, what pins name, what is announced in whatever state, and
    what a device was at when last heard of and is still at, with what it came from.
    """
    c, d = rollouts.c, rollout_devices.c
    found: dict[str, set[str]] = {}
    with reading(engine) as connection:
        installed = select(device_packages.c.package, device_packages.c.version, device_packages.c.previous).distinct()
        for package, version, previous in connection.execute(installed):
            found.setdefault(package, set()).update(filter(None, (version, previous)))
        for payload in connection.scalars(select(desired.c.payload)):
            for package, version in pins_of(payload).items():
                found.setdefault(package, set()).add(version)
        announced = (
            select(c.package, c.version)
            .join(announcements, announcements.c.rollout == c.id)
            .where(announcements.c.payload.is_not(None))
        )
        not_over = select(c.package, c.version).where(
            c.state.in_([state.value for state in RolloutState if state.announced is not None])
        )
        for query in (announced, not_over):
            for package, version in connection.execute(query):
                found.setdefault(package, set()).add(version)
        moving = (
            select(c.package, c.version, d.from_version)
            .join(rollout_devices, d.rollout == c.id)
            .where(d.phase.is_not(None), d.phase.not_in(_ENDED))
            .distinct()
        )
        for package, version, origin in connection.execute(moving):
            found.setdefault(package, set()).update(filter(None, (version, origin)))
    return found
