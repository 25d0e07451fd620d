"""Whatever a device needs is named, and nothing else."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, insert

from controller.database import writing
from controller.fleet.in_use import releases_in_use
from controller.fleet.orders import OrderStore
from controller.fleet.packages import write_packages
from controller.fleet.tables import devices
from controller.rollouts.store import RolloutStore
from controller.rollouts.tables import rollout_devices
from tests.support.database import opened
from tests.unit.fleet.builders import installed


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = opened(tmp_path / "flotilla.db")
    with writing(made) as connection:
        row: dict[str, Any] = {"first_seen": 1, "last_seen": 1, "online": True, "session": 1, "life": 1, "highest": 0}
        connection.execute(insert(devices).values(id="pi-1", **row))
    yield made
    made.dispose()


def release(engine: Engine, version: str) -> str:
    made = RolloutStore(engine).create(
        package="tacho", version=version, channel="stable", repository=["http://r"], targets=None, policy=None
    )
    return made.id


def test_what_devices_run_and_may_go_back_to(engine: Engine) -> None:
    assert releases_in_use(engine) == {}
    with writing(engine) as connection:
        reports = {"pi-1": {"tacho": installed("2.0.0", previous="1.0.0"), "radio": installed("3.0.0")}}
        write_packages(connection, reports)
    assert releases_in_use(engine) == {"tacho": {"2.0.0", "1.0.0"}, "radio": {"3.0.0"}}


def test_what_pins_name(engine: Engine) -> None:
    OrderStore(engine).set_desired("pi-1", pins={"tacho": "1.5.0"})
    assert releases_in_use(engine) == {"tacho": {"1.5.0"}}


def test_what_is_announced_and_what_devices_are_still_in_the_middle_of(engine: Engine) -> None:
    first = release(engine, "2.0.0")
    release(engine, "3.0.0")
    assert releases_in_use(engine) == {"tacho": {"3.0.0"}}
    with writing(engine) as connection:
        word = {"rollout": first, "life": 1, "seq": 4, "from_version": "1.0.0"}
        connection.execute(insert(rollout_devices).values(device="pi-1", phase="fetching", **word))
    assert releases_in_use(engine) == {"tacho": {"3.0.0", "2.0.0", "1.0.0"}}
    with writing(engine) as connection:
        connection.execute(rollout_devices.update().values(phase="cancelled"))
    assert releases_in_use(engine) == {"tacho": {"3.0.0"}}
    RolloutStore(engine).withdraw("stable", "tacho")
    assert releases_in_use(engine) == {}
