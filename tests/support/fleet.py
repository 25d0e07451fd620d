"""A few agents of a world that run the sample application, and the versions of it that there are.

fleet = Fleet(world, "pi-1", "pi-2")
fleet.install("1.0.0")
rollout = fleet.publish("1.1.0", sick=True)
fleet.wait_for("1.1.0", Phase.ROLLED_BACK)
fleet.assert_runs("1.0.0")
"""

import itertools
from pathlib import Path
from typing import Any

from broker_config import free_port
from controller.rollouts.views import Rollout
from controller.rollouts.waves import RolloutPlan
from schemas.messages import Phase, Targets, UpdateEvent
from tests.support.gauge import NAME, gauge, settings
from tests.support.packages import build, make_source
from tests.support.wholeness import assert_nothing_lost, assert_runs, service_processes
from tests.support.world import World


class Fleet:
    """See the module.

    Args:
        toml: further keys of every agent's `agent.toml`.
    """

    def __init__(self, world: World, *devices: str, **toml: Any) -> None:
        self.world = world
        self.ports = {device: free_port() for device in devices}
        self.sources: dict[str, Path] = {}
        self._bells = itertools.count(1)
        for device, port in self.ports.items():
            world.add_agent(device, settings=settings(port), **toml)

    @property
    def built(self) -> Path:
        """Folder of the package files."""
        return self.world.folder / "built"

    def make(self, version: str, **options: Any) -> Path:
        """Build a version of the sample, see `gauge` for the options; its package file."""
        self.sources[version] = gauge(self.world.folder / "sources" / version, version, **options)
        return build(self.sources[version], self.built)

    def publish(
        self, version: str, *, targets: Targets | None = None, plan: RolloutPlan | None = None, **options: Any
    ) -> Rollout:
        """Build a version, where that was not done yet, and announce it."""
        if version not in self.sources:
            self.make(version, **options)
        return self.world.publish(self.built / f"gauge-{version}-any.flotilla", targets=targets, plan=plan)

    def install(self, version: str, **options: Any) -> Rollout:
        """Start the agents and have them install a first version."""
        for device in self.ports:
            self.world.start_agent(device, ready=False)
        rollout = self.publish(version, **options)
        self.wait_for(version, Phase.SUCCEEDED)
        return rollout

    def wait_for(self, version: str, last_word: Phase) -> list[UpdateEvent]:
        """Wait until every device has ended its update to a version, with this last word; gives those."""
        ends = [self.world.wait_for_end(device, version) for device in self.ports]
        assert [end.phase for end in ends] == [last_word] * len(ends), ends
        return ends

    def settle(self, device: str) -> None:
        """Wait until a device has heard all that was announced so far, by a small package that it then installs."""
        version = f"0.0.{next(self._bells)}"
        source = make_source(self.world.folder / "sources" / f"bell-{version}", "bell", version, health=NO_PROBATION)
        self.world.publish(build(source, self.built), targets=Targets(upto=0, devices=[device]))
        assert self.world.wait_for_end(device, version).phase is Phase.SUCCEEDED

    def services(self, device: str) -> list[int]:
        """Process ids of a device's services (Linux; none elsewhere)."""
        return service_processes(self.world.root(device) / "packages" / NAME)

    def assert_runs(self, version: str) -> None:
        """Every device has exactly this release and runs it, and the controller has each event once."""
        for device, port in self.ports.items():
            assert_runs(self.world, device, self.sources[version], version, port)
        assert_nothing_lost(self.world, *self.ports)


NO_PROBATION = {"probation_s": 0}
