"""All steps of an update, put together from what they work with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from device_agent.clock import Clock
from device_agent.conditions import Conditions
from device_agent.contexts import Contexts
from device_agent.install_path import InstallPaths
from device_agent.journal import Journal
from device_agent.seams import HealthProbe, HookRunner, ServiceManager, SourceFactory, TemplateRenderer
from device_agent.steps.commit import CommitStep
from device_agent.steps.fetch import FetchStep
from device_agent.steps.health import HealthStep
from device_agent.steps.ready import ReadyStep
from device_agent.steps.repair import RepairStep
from device_agent.steps.rollback import RollbackStep
from device_agent.steps.stage import StageStep
from device_agent.steps.state import StateStep
from device_agent.steps.switch import SwitchStep
from device_agent.store import ReleaseStore
from device_agent.updates import DeviceProfile, LocalChanges


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """One of each."""

    ready: ReadyStep
    fetch: FetchStep
    stage: StageStep
    switch: SwitchStep
    health: HealthStep
    commit: CommitStep
    rollback: RollbackStep
    repair: RepairStep
    contexts: Contexts


def make_steps(
    *,
    journal: Journal,
    store: ReleaseStore,
    sources: SourceFactory,
    hooks: HookRunner,
    services: ServiceManager,
    probe: HealthProbe,
    templates: TemplateRenderer,
    profile: Callable[[], DeviceProfile],
    clock: Clock,
    local_changes: LocalChanges,
    link_install_path: bool,
    install_paths: Mapping[str, Path],
    max_bytes: int | None = None,
    keep_bytes: int = 0,
    conditions: Conditions,
) -> Steps:
    """The steps; for the arguments see `UpdateManager`."""
    contexts = Contexts(store.folders, profile)
    state = StateStep(journal=journal, store=store, hooks=hooks, contexts=contexts)
    paths = InstallPaths(store.folders, enabled=link_install_path, overrides=install_paths)
    health = HealthStep(
        journal=journal, services=services, probe=probe, contexts=contexts, clock=clock, conditions=conditions
    )
    repair = RepairStep(
        journal=journal,
        store=store,
        sources=sources,
        services=services,
        templates=templates,
        contexts=contexts,
        platform=lambda: profile().platform,
        max_bytes=max_bytes,
    )
    return Steps(
        ready=ReadyStep(
            journal=journal, store=store, hooks=hooks, contexts=contexts, conditions=conditions, clock=clock
        ),
        fetch=FetchStep(
            journal=journal,
            store=store,
            sources=sources,
            profile=profile,
            clock=clock,
            max_bytes=max_bytes,
            repair=repair,
        ),
        stage=StageStep(store=store, templates=templates, contexts=contexts),
        switch=SwitchStep(
            store=store,
            hooks=hooks,
            services=services,
            contexts=contexts,
            paths=paths,
            local_changes=local_changes,
            clock=clock,
            state=state,
        ),
        health=health,
        commit=CommitStep(
            journal=journal, store=store, services=services, paths=paths, clock=clock, keep_bytes=keep_bytes
        ),
        rollback=RollbackStep(
            store=store,
            hooks=hooks,
            services=services,
            health=health,
            contexts=contexts,
            paths=paths,
            clock=clock,
            state=state,
        ),
        repair=repair,
        contexts=contexts,
    )
