"""A set in an announcement: it becomes part of the wish; one that contradicts its announcement is ignored."""

from device_agent.policy import Accept, DeviceView, Ignore, decide
from schemas.messages import ReleaseSet, RolloutPolicy
from tests.unit.agent_shell.fakes import NOW, ROLLOUT, announced
from tests.unit.agent_shell.test_deciding import Desk

SET = ReleaseSet(id=ROLLOUT, packages={"engine": "2.0.0", "tacho": "1.1.0"})
DEVICE = DeviceView(id="pi-1", channel="stable")


async def test_the_wish_names_the_set() -> None:
    desk = Desk()
    await desk.decider.take_announcement(announced(policy=RolloutPolicy(set=SET)))
    assert [request.group for request in desk.updates.requests] == [SET]


def test_a_set_that_names_another_version_is_not_followed() -> None:
    policy = RolloutPolicy(set=SET)
    assert decide(announced(policy=policy), device=DEVICE, known=None, now=NOW) == Accept()
    wrong = decide(announced(policy=policy, version="1.2.0"), device=DEVICE, known=None, now=NOW)
    assert isinstance(wrong, Ignore)
    assert "set" in wrong.reason
    stranger = decide(announced(policy=policy, package="wheel"), device=DEVICE, known=None, now=NOW)
    assert isinstance(stranger, Ignore)
