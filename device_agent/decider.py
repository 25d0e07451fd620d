"""Turns what the device has been told into wishes for the update manager; policy says which.

Asked again at every start, at every connection and whenever something it depends on has changed; the
same answer twice changes nothing, because the journal knows what was done already.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Protocol

from device_agent.heard import Heard, HeardAnnouncement
from device_agent.logs import line, logger
from device_agent.policy import (
    Accept,
    Decision,
    Defer,
    DeviceView,
    Halt,
    Ignore,
    Pause,
    Revert,
    decide,
    is_older,
    version_problem,
)
from device_agent.reports import defect
from device_agent.threads import in_thread
from device_agent.updates import Submitted, UpdateRequest, fetchable
from schemas.messages import Announcement, Desired


class Updates(Protocol):
    """The part of the update manager that this needs."""

    async def submit(self, request: UpdateRequest) -> Submitted:
        """Take a wish, durably."""
        ...

    async def supersede(self, package: str, version: str, rollout: str) -> None:
        """What other rollouts wanted of the package, and has not switched, stops."""
        ...

    async def unpin(self, package: str) -> None:
        """What only the package's pin wanted, and has not switched, stops."""
        ...

    async def pause(self, rollout: str) -> None:
        """Nothing of the rollout starts."""
        ...

    async def halt(self, rollout: str, reason: str) -> None:
        """And what has not switched stops, for this reason."""
        ...

    async def revert(self, rollout: str) -> list[str]:
        """Whoever took its release goes back."""
        ...

    def hold(self, on: bool) -> None:
        """Start nothing at all."""
        ...


class Decider:
    """See the module. One at a time: the inbox and the start are its only callers."""

    def __init__(
        self,
        *,
        updates: Updates,
        heard: Heard,
        device: Callable[[], DeviceView],
        now: Callable[[], datetime],
        changed: Callable[[], None],
        reopen: Callable[[str | None], None],
    ) -> None:
        """
        Args:
            device: the device as its configuration and its journal have it; called in a thread.
            reopen: forget how rollouts of a package (None: of any) ended here; called in a thread.
            changed: told when channel, tags or pins may have changed (subscriptions and the report follow from them).
        """
        self._updates = updates
        self._heard = heard
        self._device = device
        self._now = now
        self._changed = changed
        self._reopen = reopen

    def view(self) -> DeviceView:
        """The device after what `desired` says; blocks."""
        return self._device().told(self._heard.desired())

    async def reconsider(self) -> None:
        """Decide anew about everything that is known."""
        self._updates.hold(await in_thread(self._heard.on_hold))
        device = await in_thread(self.view)
        heard = await in_thread(self._heard.announcements)
        announced = [(one.announcement, one) for one in heard if one.announcement is not None]
        await self._pin(device, {a.package: a for a, _ in announced if a.channel == device.channel})
        for announcement, one in announced:
            try:
                await self._supersede(announcement, device)
                await self._act(announcement, self._decision(announcement, device, one), news=False)
            except Exception as error:  # noqa: BLE001  # it is kept: it would end the agent at every start, for ever
                why = defect(error)
                logger().error(line("undecided", why, **_names(announcement), code=why.code))

    async def take_announcement(self, announcement: Announcement) -> None:
        """Keep an announcement, unless it is an older one, and act on it."""
        device = await in_thread(self.view)
        before = await in_thread(self._heard.announcement, announcement.channel, announcement.package)
        if is_older(announcement, before.known() if before else None):
            logger().info(line("ignored", "older than what is known", **_names(announcement)))
            return
        heard = await in_thread(self._heard.keep_announcement, announcement, self._now(), before=before)
        strange = len(announcement.repository) - len(fetchable(announcement.repository))
        if strange and heard != before:
            why = f"{strange} of its repositories are no http:// or https:// addresses and not used"
            logger().warning(line("heard", why, **_names(announcement)))
        await self._supersede(announcement, device)
        await self._act(announcement, self._decision(announcement, device, heard), news=heard != before)

    async def take_withdrawal(self, channel: str, package: str) -> None:
        """The announcement was cleared: nobody new starts."""
        heard = await in_thread(self._heard.withdraw_announcement, channel, package)
        if heard is not None:
            logger().info(line("withdrawn", package=package, channel=channel, rollout=heard.rollout))
            await self._updates.pause(heard.rollout)

    async def take_desired(self, desired: Desired | None) -> None:
        """Keep what this one device is told, unless it is older, and decide anew."""
        before = await in_thread(self._heard.desired)
        if desired is not None and before is not None and desired.rev < before.rev:
            logger().warning(line("desired", f"rev {desired.rev} is older than {before.rev} and is ignored"))
            return
        if desired != before:
            await in_thread(self._reopen_changed, before, desired)
            await in_thread(self._heard.keep_desired, desired)
            logger().info(line("desired", **_fields(desired)))
            self._changed()
        await self.reconsider()

    def _reopen_changed(self, before: Desired | None, after: Desired | None) -> None:
        """Whoever changes a channel or a pin wants what follows from it, whatever the device had before."""
        channel_before, pins_before = (before.channel, before.pins or {}) if before else (None, {})
        channel, pins = (after.channel, after.pins or {}) if after else (None, {})
        if channel != channel_before:
            self._reopen(None)
            return
        for package in pins_before.keys() | pins.keys():
            if pins_before.get(package) != pins.get(package):
                self._reopen(package)

    async def _pin(self, device: DeviceView, announced: Mapping[str, Announcement]) -> None:
        """Begin each pin once: what became of it is in the journal, and `retry` is how to try it again."""
        begun = await in_thread(self._heard.pins_begun)
        for package in begun.keys() - device.pins.keys():
            await self._updates.unpin(package)
            await in_thread(self._heard.note_pin, package, None)
        for package, version in device.pins.items():
            problem = version_problem(version)
            if problem:
                logger().warning(line("desired", f"the pin of {package}: {problem}"))
            elif begun.get(package) != version:
                request = UpdateRequest(
                    package=package,
                    version=version,
                    repository=fetchable(announced[package].repository) if package in announced else [],
                    allow_downgrade=True,
                    reason="pin",
                )
                await self._submit(request)
                await in_thread(self._heard.note_pin, package, version)

    def _decision(self, announcement: Announcement, device: DeviceView, heard: HeardAnnouncement | None) -> Decision:
        return decide(announcement, device=device, known=heard.known() if heard else None, now=self._now())

    async def _supersede(self, announcement: Announcement, device: DeviceView) -> None:
        """Whoever this release is for, and whatever its state: nobody starts what its channel announced before."""
        if announcement.channel == device.channel:
            await self._updates.supersede(announcement.package, announcement.version, announcement.rollout)

    async def _act(self, announcement: Announcement, decision: Decision, *, news: bool) -> None:
        match decision:
            case Ignore(reason):
                tell = logger().info if news else logger().debug
                tell(line("ignored", reason, **_names(announcement)))
                # it may have been meant before, and wait for its time
                await self._updates.pause(announcement.rollout)
            case Pause():
                await self._updates.pause(announcement.rollout)
            case Halt(reason):
                await self._updates.halt(announcement.rollout, reason)
            case Revert():
                await self._updates.revert(announcement.rollout)
            case Accept():
                await self._submit(_request(announcement))
            case Defer(until, reason):
                await self._submit(_request(announcement, not_before=until, reason=reason))
        if news and not isinstance(decision, Ignore):
            logger().info(line("heard", state=announcement.state.value, **_names(announcement)))

    async def _submit(self, request: UpdateRequest) -> None:
        made = await self._updates.submit(request)
        logger().debug(
            line("submitted", made.answer.value, package=request.package, version=request.version, update=made.update)
        )


def _request(announcement: Announcement, *, not_before: datetime | None = None, reason: str = "") -> UpdateRequest:
    policy = announcement.policy
    return UpdateRequest(
        package=announcement.package,
        version=announcement.version,
        rollout=announcement.rollout,
        repository=fetchable(announcement.repository),
        allow_downgrade=policy.allow_downgrade,
        retries=policy.retries,
        not_before=not_before,
        deadline=policy.deadline,
        window=policy.window,
        group=policy.set,
        reason=reason,
    )


def _names(announcement: Announcement) -> dict[str, object]:
    return {
        "package": announcement.package,
        "version": announcement.version,
        "channel": announcement.channel,
        "rollout": announcement.rollout,
        "revision": announcement.revision,
    }


def _fields(desired: Desired | None) -> dict[str, object]:
    if desired is None:
        return {"message": "cleared"}
    pins = ",".join(f"{package}:{version}" for package, version in sorted((desired.pins or {}).items()))
    return {"rev": desired.rev, "channel": desired.channel, "pins": pins, "hold": desired.hold}
