"""The device as the agent describes it: to policy, to releases and in its report."""

import threading
from collections.abc import Callable
from datetime import tzinfo

from device_agent.config import AgentConfig
from device_agent.facts import device_platform, disk_free, gather_facts
from device_agent.gate import Readings, facts_of
from device_agent.policy import DeviceView
from device_agent.updates import DeviceProfile, Install
from device_agent.version import VERSION
from schemas.messages import Desired, FactValue


class Device:
    """Configuration, facts and what `desired` says, brought together; blocks, callable from any thread.

    Facts are found out once, but for what the kernel says about the device's health, free disk space and the result of
    the last `check`. None of these is a reason to report: they are as they were when something else was.
    """

    def __init__(
        self,
        config: AgentConfig,
        *,
        desired: Callable[[], Desired | None],
        installs: Callable[[], dict[str, Install]],
        zone: Callable[[], tzinfo],
        launched: bool = False,
        readings: Callable[[], Readings] = Readings,
    ) -> None:
        self._config = config
        self._desired = desired
        self._installs = installs
        self._zone = zone
        self._launched = launched
        self._readings = readings
        self._rules = config.rules()
        self._facts = gather_facts(config.root, {})
        self._check = ""
        self._services = ""
        self._turn = threading.Lock()

    @property
    def boot_id(self) -> str:
        """Of this boot; empty where it cannot be found out."""
        return str(self._facts.get("boot_id", ""))

    def note_check(self, summary: str) -> None:
        """What the last `check` found; reported as the fact `check`."""
        with self._turn:
            self._check = summary

    def note_services(self, trouble: str) -> None:
        """What is wrong with packages' services, empty for nothing; reported as the fact `services`."""
        with self._turn:
            self._services = trouble

    def facts(self) -> dict[str, FactValue]:
        """Every fact, the owner's winning."""
        with self._turn:
            check = {"check": self._check} if self._check else {}
            check |= {"services": self._services} if self._services else {}
        health = facts_of(self._readings())
        return {**self._facts, "disk_free": disk_free(self._config.root), **health, **check, **self._config.facts}

    def view(self) -> DeviceView:
        """As policy and the report see it."""
        config = self._config
        return DeviceView(
            id=config.id,
            channel=config.channel,
            packages=config.named_packages,
            every_package=config.takes_every_package,
            installed=frozenset(self._installs()),
            tags=config.tags,
            facts=self.facts(),
            zone=self._zone(),
            windows=self._rules.windows_to_start,
        ).told(self._desired())

    def profile(self) -> DeviceProfile:
        """As a release sees it."""
        view = self.view()
        return DeviceProfile(
            device=view.id,
            platform=device_platform(),
            agent_version=VERSION,
            facts=dict(view.facts),
            tags=dict(view.tags),
            settings={package: self._config.settings_of(package) for package in self._config.settings},
            agent_package=self._config.policy.agent_package,
            launched=self._launched,
        )
