"""What the device has been told, kept in agent.db: announcements, desired, commands.

Retained messages come again with every connection, but decisions must not depend on the broker: after a
restart without one the device still knows what it follows. All methods block (use `threads.in_thread`).
"""

from datetime import datetime
from typing import Final, Protocol

import msgspec

from device_agent.policy import Known
from device_agent.updates import fetchable
from schemas.messages import Announcement, Desired, ReleaseState

_ANNOUNCEMENT: Final = "announcement/"
_COMMAND: Final = "command/"
_PIN: Final = "pin/"
DESIRED: Final = "desired"
_HOLD: Final = "hold"
_SUBSCRIPTIONS: Final = "subscriptions"

_OPEN: Final = (ReleaseState.ACTIVE, ReleaseState.COMPLETE)


class Notes(Protocol):
    """The part of the journal that this needs."""

    def get_note(self, key: str) -> str | None:
        """A note, or None."""
        ...

    def set_note(self, key: str, value: str | None) -> None:
        """Keep, replace or drop a note, durably."""
        ...

    def notes(self, prefix: str) -> dict[str, str]:
        """All notes whose key begins with `prefix`."""
        ...


class HeardAnnouncement(msgspec.Struct, frozen=True, kw_only=True):
    """The last announcement of one topic. `announcement` is None once it was withdrawn (a tombstone)."""

    rollout: str
    revision: int
    heard_at: datetime
    announcement: Announcement | None

    def known(self) -> Known:
        """The part of it that policy asks for."""
        return Known(rollout=self.rollout, revision=self.revision, heard_at=self.heard_at)


class Heard:
    """See the module."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes

    def announcement(self, channel: str, package: str) -> HeardAnnouncement | None:
        """What was heard last on a topic."""
        text = self._notes.get_note(f"{_ANNOUNCEMENT}{channel}/{package}")
        return msgspec.json.decode(text, type=HeardAnnouncement) if text else None

    def announcements(self) -> list[HeardAnnouncement]:
        """What was heard last on each topic, channels that are not followed any more included."""
        found = self._notes.notes(_ANNOUNCEMENT)
        return [msgspec.json.decode(found[key], type=HeardAnnouncement) for key in sorted(found)]

    def repositories(self) -> list[str]:
        """The repositories that announcements have named."""
        said = (one.announcement for one in self.announcements())
        return [url for one in said if one is not None for url in fetchable(one.repository)]

    def keep_announcement(
        self, announcement: Announcement, now: datetime, *, before: HeardAnnouncement | None
    ) -> HeardAnnouncement:
        """Take the place of what was heard before; the time at which its rollout was first heard of stays.

        Args:
            before: what `announcement` gives for its topic.
        """
        same = before is not None and before.rollout == announcement.rollout
        heard = HeardAnnouncement(
            rollout=announcement.rollout,
            revision=announcement.revision,
            heard_at=before.heard_at if before and same else now,
            announcement=announcement,
        )
        if heard != before:
            self._keep(announcement.channel, announcement.package, heard)
        return heard

    def may_start(self, rollout: str) -> bool:
        """Whether a rollout's announcement, as it was heard last, lets devices start."""
        said = (one.announcement for one in self.announcements() if one.rollout == rollout)
        return any(one is not None and one.state in _OPEN for one in said)

    def withdraw_announcement(self, channel: str, package: str) -> HeardAnnouncement | None:
        """The topic was cleared. What was known stays known, so that an older announcement is still told as such."""
        before = self.announcement(channel, package)
        if before is None or before.announcement is None:
            return None
        self._keep(channel, package, msgspec.structs.replace(before, announcement=None))
        return before

    def desired(self) -> Desired | None:
        """What this one device was told last."""
        text = self._notes.get_note(DESIRED)
        return msgspec.json.decode(text, type=Desired) if text else None

    def keep_desired(self, desired: Desired | None) -> None:
        """Take the place of what was told before; None for nothing."""
        self._notes.set_note(DESIRED, msgspec.json.encode(desired).decode() if desired else None)

    def is_held_here(self) -> bool:
        """Whether somebody at the device wants nothing to start."""
        return self._notes.get_note(_HOLD) is not None

    def keep_hold(self, on: bool) -> None:
        """Somebody at the device wants nothing to start, or does not any more."""
        self._notes.set_note(_HOLD, "on" if on else None)

    def on_hold(self) -> bool:
        """Whether nothing is to be started, whoever wants that."""
        desired = self.desired()
        return self.is_held_here() or bool(desired and desired.hold)

    def take_command(self, command: str, expires_at: datetime, now: datetime) -> bool:
        """Note a command's id; False where it was noted before. Ids are kept until the command would have expired."""
        for key, until in self._notes.notes(_COMMAND).items():
            if datetime.fromisoformat(until) < now:
                self._notes.set_note(key, None)
        key = _COMMAND + command
        if self._notes.get_note(key) is not None:
            return False
        self._notes.set_note(key, expires_at.isoformat())
        return True

    def pins_begun(self) -> dict[str, str]:
        """Package to the pinned version that was begun."""
        return {key.removeprefix(_PIN): version for key, version in self._notes.notes(_PIN).items()}

    def note_pin(self, package: str, version: str | None) -> None:
        """A pin was begun, or (None) there is none any more."""
        self._notes.set_note(_PIN + package, version)

    def subscriptions(self) -> frozenset[str]:
        """Topic filters that the broker's session may still hold."""
        text = self._notes.get_note(_SUBSCRIPTIONS)
        return frozenset(msgspec.json.decode(text, type=list[str])) if text else frozenset()

    def keep_subscriptions(self, filters: frozenset[str]) -> None:
        """What was subscribed to."""
        self._notes.set_note(_SUBSCRIPTIONS, msgspec.json.encode(sorted(filters)).decode())

    def _keep(self, channel: str, package: str, heard: HeardAnnouncement) -> None:
        self._notes.set_note(f"{_ANNOUNCEMENT}{channel}/{package}", msgspec.json.encode(heard).decode())
