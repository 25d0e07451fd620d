"""A controller that answers every command with ready facts, where only what is printed of them matters.

Answers(monkeypatch, here(connected=True), a_rollout(advice="…"))
flotilla("rollout", ROLLOUT).text
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest

from controller.client import ControllerClient
from controller.database import utc_now
from controller.fleet.views import Device
from controller.http.views import (
    Announced,
    Asked,
    ControllerView,
    FoundReleases,
    Page,
    RolloutDetail,
    RolloutPace,
    Told,
)
from controller.rollouts.plan import RolloutState
from controller.rollouts.views import Rollout, RolloutDevice, Takers
from controller.rollouts.waves import RolloutPlan, Wave
from schemas.errors import NetworkError
from schemas.messages import Desired, RolloutPolicy, Targets, Verb

ROLLOUT = "0198a1b2-c3d4-7e5f-8a6b-0123456789ab"


def a_rollout(**more: Any) -> Rollout:
    now = utc_now()
    facts = {
        "id": ROLLOUT,
        "package": "tacho",
        "version": "1.0.0",
        "channel": "stable",
        "state": RolloutState.ACTIVE,
        "revision": 1,
        "targets": Targets(),
        "policy": RolloutPolicy(),
        "repository": [],
        "created_at": now,
        "changed_at": now,
        "because": "it waits",
        "plan": RolloutPlan(waves=[Wave(upto=100)]),
        "wave": 1,
        "waves": [],
        "verdicts": {},
        "phases": {},
    }
    return Rollout(**{**facts, **more})


def a_device() -> Device:
    now = utc_now()
    return Device(
        id="pi-1",
        online=True,
        session=1,
        first_seen=now,
        last_seen=now,
        agent_version=None,
        boot_id=None,
        reported_at=None,
        channel=None,
        tags={},
        facts={},
        packages={},
        life=1,
        seq=0,
        missing=0,
        update=None,
    )


class Answers:
    """A controller that answers everything, and says this of its broker; `before` is how the rollout was at first."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        view: ControllerView | Exception,
        rollout: Rollout | None = None,
        devices: Sequence[RolloutDevice] = (),
        *,
        unanswered: int = 0,
        takers: Sequence[Takers] = (),
        took: int = 0,
        at_it: int = 0,
        pace: RolloutPace | None = None,
        before: Rollout | None = None,
        changes: Iterable[tuple[str, dict[str, Any]]] = (),
    ) -> None:
        self._view = view
        self._rollout = rollout or a_rollout()
        self._devices = list(devices)
        self._unanswered = unanswered
        self._takers, self._took, self._at_it = list(takers), took, at_it
        self._pace = pace or RolloutPace()
        self._before = before
        self.sent = 0
        monkeypatch.setattr(ControllerClient, "get", lambda _self, type_, *path, **_more: self.get(type_, *path))
        monkeypatch.setattr(ControllerClient, "send", lambda _self, _method, type_, *_path, **_more: self.send(type_))
        self._views = [iter(changes)]
        monkeypatch.setattr(ControllerClient, "follow", lambda _self, *_path, **_more: self.follow())
        # whoever follows a view that ends gives up at once
        monkeypatch.setattr("controller.cli.following.PATIENCE_S", 0.0)

    def follow(self) -> Iterator[tuple[str, dict[str, Any]]]:
        if not self._views:
            raise NetworkError("api.unreachable", "no controller answers")
        return self._views.pop(0)

    def get(self, type_: Any, *path: str) -> Any:
        if type_ is ControllerView:
            assert path == ("controller",)
            if isinstance(self._view, Exception):
                raise self._view
            return self._view
        return self.made(type_)

    def send(self, type_: Any) -> Any:
        self.sent += 1
        return self.made(type_)

    def made(self, type_: Any) -> Any:
        now = utc_now()
        known = {
            Rollout: lambda: self._rollout,
            list[Announced]: lambda: [self.made(Announced)],
            Announced: lambda: Announced(**{name: getattr(self._rollout, name) for name in Rollout.__struct_fields__}),
            Asked: lambda: Asked(
                id=ROLLOUT, device="pi-1", verb=Verb.CHECK, args={}, created_at=now, expires_at=now, sent_at=None
            ),
            Told: lambda: Told(rev=1),
            FoundReleases: lambda: FoundReleases(items=[]),
            Desired: lambda: Desired(rev=0),
            Device: a_device,
            RolloutDetail: lambda: RolloutDetail(
                rollout=self._rollout if self.sent or self._before is None else self._before,
                devices=Page(items=self._devices, next=None),
                failures=[],
                unanswered=self._unanswered,
                takers=self._takers,
                took=self._took,
                at_it=self._at_it,
                pace=self._pace,
            ),
        }
        if type_ == Page[Rollout]:
            return Page(items=[self._rollout], next=None)
        return known[type_]() if type_ in known else Page(items=[], next=None)


def here(*, connected: bool) -> ControllerView:
    error = None if connected else "no answer"
    return ControllerView(
        version="1.0.0", broker="mqtt://b", connected=connected, error=error, topic_root="flotilla/v1", repository=[]
    )
