"""Going on in spite of failures: what is shown of it, and who was forgiven before it was known of each device."""

import json
from pathlib import Path

import pytest
from sqlalchemy import Engine, select, update

from controller.database import open_database, reading, sqlite_url, writing
from controller.rollouts.plan import RolloutState, Verdict
from controller.rollouts.store import RolloutStore
from controller.rollouts.tables import rollout_devices, rollouts
from controller.rollouts.views import WaveState
from controller.rollouts.waves import RolloutPlan, Wave
from schemas.messages import Phase
from tests.support.database import downgrade
from tests.unit.fleet.builders import NOW, event_in, presence_in, succeeded_in
from tests.unit.rollouts.test_waves_kept import create, evaluate, fleet, take_in

PLAN = RolloutPlan(waves=[Wave(devices=["pi-1", "pi-2", "pi-3"], max_failures=0), Wave(upto=100, approval=True)])


def test_a_wave_that_an_operator_went_on_in_spite_of_is_not_called_proven(engine: Engine) -> None:
    fleet(engine, 4)
    rollout = create(engine, PLAN)
    said = [event_in(f"pi-{one}", 1, Phase.ROLLED_BACK, rollout=rollout.id) for one in (1, 2, 3)]
    take_in(engine, *(presence_in(f"pi-{one}") for one in (1, 2, 3)), *said)
    assert evaluate(engine, rollout).state is RolloutState.HALTED
    going = RolloutStore(engine).set_state(rollout.id, RolloutState.ACTIVE, NOW)
    first = going.waves[0]
    assert (first.state, first.accepted) == (WaveState.ACCEPTED, 3)
    assert first.because == "0 succeeded, 3 rolled back; an operator went on in spite of that"
    assert going.waves[1].state is WaveState.AWAITING_APPROVAL
    # one of three is not enough either; all of them are
    take_in(engine, *succeeded_in("pi-1", 2, rollout=rollout.id))
    assert evaluate(engine, rollout).view.waves[0].state is WaveState.ACCEPTED
    take_in(engine, *succeeded_in("pi-2", 2, rollout=rollout.id), *succeeded_in("pi-3", 2, rollout=rollout.id))
    assert evaluate(engine, rollout).view.waves[0].state is WaveState.PROVEN


@pytest.mark.parametrize(("accepted", "forgiven"), [(1, ["pi-2"]), (2, ["pi-1", "pi-2"]), (9, ["pi-1", "pi-2"])])
def test_so_many_as_were_counted_by_a_version_before_are_forgiven(
    tmp_path: Path, accepted: int, forgiven: list[str]
) -> None:
    url = sqlite_url(tmp_path / "old.db")
    engine = open_database(url)
    fleet(engine, 4)
    rollout = create(engine, PLAN)
    with writing(engine) as connection:
        progress = json.loads(connection.scalar(select(rollouts.c.progress)) or "")
        progress[0] |= {"accepted": accepted, "accepted_failures": accepted}
        connection.execute(update(rollouts).values(progress=json.dumps(progress, separators=(",", ":"))))
        for device, heard_at in ("pi-2", 1), ("pi-1", 2):
            row = update(rollout_devices).where(rollout_devices.c.device == device)
            connection.execute(row.values(verdict=Verdict.FAILED, phase=Phase.FAILED, wave=0, heard_at=heard_at))
    downgrade(engine, "0011")
    engine.dispose()
    engine = open_database(url)
    with reading(engine) as connection:
        found = select(rollout_devices.c.device).where(rollout_devices.c.forgiven).order_by(rollout_devices.c.device)
        assert list(connection.scalars(found)) == forgiven
    state = evaluate(engine, rollout).state
    assert state is (RolloutState.HALTED if accepted == 1 else RolloutState.ACTIVE)
    engine.dispose()
