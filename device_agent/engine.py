"""What works on a root folder, with or without a broker: made here, for the agent and for commands by hand."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from device_agent.checks import ReleaseProbe
from device_agent.conditions import BrokerReach, Conditions
from device_agent.config import AgentConfig
from device_agent.device import Device
from device_agent.facts import boot_id
from device_agent.fetch_process import ProcessSources, process_source_factory
from device_agent.gate import Readings
from device_agent.heard import DESIRED, Heard
from device_agent.hooks import ProcessHookRunner
from device_agent.journal import Journal
from device_agent.kernel import read_health
from device_agent.local_work import LocalWork
from device_agent.logs import line, logger
from device_agent.rebuilding import open_journal
from device_agent.rendering import FileTemplateRenderer
from device_agent.self_update import OwnProbe, SelfUpdate, WatchedStore
from device_agent.services import KeptServices, pick_service_manager
from device_agent.sources import exported_head
from device_agent.store import ReleaseStore
from device_agent.threads import in_thread
from device_agent.timekeeping import KeptClock, local_zone
from device_agent.trusted_root import adopt_trusted_root, load_trusted_root
from device_agent.update_manager import UpdateManager
from device_agent.updates import LocalChanges


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What works on a root folder: recovered and ready for `manager.serve()`."""

    config: AgentConfig
    clock: KeptClock
    journal: Journal
    heard: Heard
    device: Device
    manager: UpdateManager
    services: KeptServices
    local_work: LocalWork
    broker: BrokerReach
    own: SelfUpdate
    store: ReleaseStore


@asynccontextmanager
async def open_engine(
    config: AgentConfig,
    *,
    runs: bool = False,
    release: str | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> AsyncIterator[Engine]:
    """Open the root folder for this process alone, and bring it back to a whole state.

    Args:
        runs: whether this is the agent, whose id is the device's from now on; a command by hand may not know it, and
            speaks as the agent that ran here last.
        release: the release of the agent's own package that a launcher has started as this process; see
            `launched_release`.
        tell: says a line to that launcher.

    Raises:
        DeviceError: `conflict.busy`: another process works on it; `disk.*`.
        OperatorError: the trusted root cannot be taken, or the folder is not an agent's.
    """
    opened = await _open(config, release=release, tell=tell)
    try:
        note = await in_thread(adopt_trusted_root, config.root, config.trusted_root)
        if note:
            logger().warning(line("trust", note))
        await _speak_as(config.id, opened.journal, runs=runs)
        engine = _assemble(opened, launched=release is not None)
        engine.manager.hold(await in_thread(engine.heard.on_hold))
        for problem in await engine.manager.recover():
            logger().warning(line("recover", problem))
        yield engine
    finally:
        await opened.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    """What an engine holds of the root folder, and has to let go in the end."""

    config: AgentConfig
    clock: KeptClock
    journal: Journal
    services: KeptServices
    own: SelfUpdate
    sources: ProcessSources

    async def close(self) -> None:
        await self.sources.close()
        await self.services.close()
        await in_thread(self.journal.close)


async def _open(config: AgentConfig, *, release: str | None, tell: Callable[[str], None]) -> _Opened:
    clock = KeptClock(config.root)
    journal, rebuilt = await in_thread(
        open_journal, config.root, device=config.id, boot_id=await in_thread(boot_id), now=clock.now()
    )
    if rebuilt is not None:
        logger().error(line("journal", rebuilt.why, kept=rebuilt.kept, after_seq=rebuilt.seq))
    return _Opened(
        config=config,
        clock=clock,
        journal=journal,
        services=pick_service_manager(config.root, kind=config.policy.services, clock=clock),
        own=SelfUpdate(
            root=config.root,
            package=config.policy.agent_package,
            journal=journal,
            release=release,
            start_s=config.policy.agent_start_s,
            tell=tell,
        ),
        sources=process_source_factory(
            root=config.root,
            trusted_root=lambda: load_trusted_root(config.root),
            repositories=config.repositories,
            now=clock.now,
            max_bytes_per_s=config.policy.max_bytes_per_s,
        ),
    )


async def _speak_as(device: str, journal: Journal, *, runs: bool) -> None:
    """The agent makes the journal its own; a command by hand speaks as the agent that ran here last."""
    if runs and (former := await in_thread(partial(journal.belong_to, device, without=[DESIRED]))) is not None:
        told = f"this was {former} till now: what is installed stays, what {former} said and was told does not"
        logger().warning(line("renamed", told))
    if not runs and (speaker := await in_thread(lambda: journal.speaker)) is not None:
        journal.speak_as(speaker)


def _assemble(opened: _Opened, *, launched: bool) -> Engine:
    config, clock, journal, own = opened.config, opened.clock, opened.journal, opened.own
    zone = partial(local_zone, os.environ.get("TZ"))

    def readings() -> Readings:
        return read_health(config.root, clock_behind_s=clock.behind_s)

    heard = Heard(journal)
    device = Device(
        config,
        desired=heard.desired,
        installs=journal.installs,
        zone=zone,
        readings=readings,
        launched=launched,
    )
    store = WatchedStore(config.root, own)
    broker = BrokerReach()
    conditions = Conditions(rules=config.rules(), readings=readings, zone=zone, broker=broker)
    manager = _manager(opened, device, store, conditions)
    work = LocalWork(
        journal=journal, updates=manager, read_head=exported_head, on_hold=heard.on_hold, keep_hold=heard.keep_hold
    )
    return Engine(
        config=config,
        clock=clock,
        journal=journal,
        heard=heard,
        device=device,
        manager=manager,
        services=opened.services,
        local_work=work,
        broker=broker,
        own=own,
        store=store,
    )


def _manager(opened: _Opened, device: Device, store: ReleaseStore, conditions: Conditions) -> UpdateManager:
    config = opened.config
    return UpdateManager(
        root=config.root,
        journal=opened.journal,
        sources=opened.sources,
        hooks=ProcessHookRunner(),
        services=opened.services,
        probe=OwnProbe(ReleaseProbe(), opened.own),
        templates=FileTemplateRenderer(),
        profile=device.profile,
        clock=opened.clock,
        random_bytes=os.urandom,
        local_changes=LocalChanges(config.policy.local_changes),
        link_install_path=config.policy.link_install_path,
        max_bytes=config.policy.max_bytes,
        keep_bytes=config.policy.keep_bytes,
        install_paths=config.policy.install_paths,
        conditions=conditions,
        store=store,
    )
