"""`check` against a broker with the rules for a fleet: a user name that is not the device's id, or wrong, is told."""

from pathlib import Path

import pytest

from device_agent.config import AgentConfig, BrokerAuth
from device_agent.diagnosis import Finding, examine
from tests.support.broker import ProductionBroker

pytestmark = pytest.mark.wire


async def finding(config: AgentConfig) -> Finding:
    return next(one for one in await examine(config) if one.name == "broker")


def as_user(user: str, device: str, broker: ProductionBroker, folder: Path) -> AgentConfig:
    password = folder / "password"
    password.write_text(broker.passwords[user] + "\n")
    auth = BrokerAuth(username=user, password_file=password, ca=broker.ca_file)
    return AgentConfig(id=device, root=folder / "root", broker=broker.url, broker_auth=auth)


async def test_a_device_whose_user_name_is_another_is_warned(
    production_broker: ProductionBroker, tmp_path: Path
) -> None:
    found = await finding(as_user("dev-a", "dev-b", production_broker, tmp_path))
    assert found.ok  # another broker's rules may allow it
    assert "but the user dev-a is not the device's id dev-b" in found.text


async def test_a_device_with_its_own_user_name_is_well(production_broker: ProductionBroker, tmp_path: Path) -> None:
    found = await finding(as_user("dev-a", "dev-a", production_broker, tmp_path))
    assert found == Finding(name="broker", ok=True, text=f"{production_broker.url} answers")


async def test_a_wrong_password_and_a_wrong_user_are_told_as_what_they_may_be(
    production_broker: ProductionBroker, tmp_path: Path
) -> None:
    config = as_user("dev-a", "dev-a", production_broker, tmp_path)
    (tmp_path / "password").write_text("wrong\n")
    found = await finding(config)
    assert not found.ok
    assert "is the user dev-a or its password wrong?" in found.text
