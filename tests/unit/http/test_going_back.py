"""Who has one device go back is told what that does to a rollout that is under way."""

from pathlib import Path
from typing import Any

from controller.fleet.intake_store import IntakeStore
from schemas.messages import Phase
from tests.support.in_process import FILE_TOKEN, application, bearer
from tests.support.repository import add_release
from tests.unit.fleet.builders import NOW, event_in, presence_in, reported_in, succeeded_in


def test_a_device_that_goes_back_by_hand_counts_as_failed_where_its_release_is_under_way(tmp_path: Path) -> None:
    with application(tmp_path) as app:

        def asked(path: str, wish: object) -> Any:
            answer = app.client.post(f"/api/v1/{path}", json=wish, headers=bearer(FILE_TOKEN))
            assert answer.is_success, answer.text
            return answer.json()

        def warned(verb: str = "rollback", device: str = "pi-1") -> list[str]:
            wish = {"verb": verb, "args": {"package": "tacho"}}
            warnings: list[str] = asked(f"devices/{device}/commands", wish)["warnings"]
            return warnings

        add_release(app.repository, "tacho", "2.0.0", {"a": "b"})
        intake = IntakeStore(app.engine)
        intake.take_in([said(name) for name in ("pi-1", "pi-2") for said in (presence_in, reported_in)], NOW)
        assert warned() == []
        rollout = asked("releases", {"package": "tacho", "version": "2.0.0", "channel": "stable"})["id"]
        intake.take_in(succeeded_in("pi-1", 1, rollout=rollout), NOW)
        (warning,) = warned()
        assert warning == (
            f"going back, pi-1 counts as rolled back in rollout {rollout}, which may stop it; told --pin"
            " tacho=VERSION beside all else that it is told, it goes to that version, and the others go on"
        )
        # it has not taken it, or not for long; that changes nothing; nobody starts any more
        intake.take_in([event_in("pi-2", 1, Phase.REJECTED, rollout=rollout)], NOW)
        assert warned(device="pi-2") == warned(verb="cancel") == []
        asked(f"rollouts/{rollout}/state", {"state": "halted"})
        assert warned() == []
