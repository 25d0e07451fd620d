"""The agent put together: an engine, with everything around it that listens and tells."""

import asyncio
import os
from functools import partial

from device_agent.commands import Commands
from device_agent.config import AgentConfig
from device_agent.connection import Connection
from device_agent.contexts import Contexts
from device_agent.control import ControlServer
from device_agent.decider import Decider
from device_agent.device import Device
from device_agent.diagnosis import examine, summary
from device_agent.engine import Engine, open_engine
from device_agent.event_log import EventLog
from device_agent.inbox import Inbox
from device_agent.logs import line, logger
from device_agent.reporter import Reporter
from device_agent.sdnotify import READY, STOPPING, WATCHDOG, Notifier
from device_agent.service_watch import ServiceWatch, installs_at_rest
from device_agent.services import pick_service_manager
from device_agent.threads import in_thread
from device_agent.timekeeping import KeptClock, local_zone
from device_agent.without_journal import PAUSE_S, anything_installed, keep_services
from schemas.errors import DeviceError, FlotillaError
from schemas.messages import Phase
from schemas.topics import Topics


async def run_agent(
    config: AgentConfig, stop: asyncio.Event, notifier: Notifier, *, release: str | None = None
) -> bool:
    """Run until `stop` is set, or until another release of the agent has to go on.

    Args:
        release: see `open_engine`.

    Returns:
        Whether it is another release's turn.

    Raises:
        FlotillaError: one line on why it cannot go on, e.g. `broker.duplicate`.
    """
    while True:
        try:
            return await _run_engine(config, stop, notifier, release)
        except DeviceError as error:
            if not error.code.startswith("disk.") or not await in_thread(anything_installed, config.root):
                raise
            logger().error(line("disk", error, code=error.code, services="run on", retry_s=PAUSE_S))
            if not await _keep_services(config, error, stop, notifier):
                return False


async def _keep_services(config: AgentConfig, error: DeviceError, stop: asyncio.Event, notifier: Notifier) -> bool:
    """What is installed runs while the journal cannot be opened; whether it is worth another try."""

    def alive() -> float:
        notifier.tell(WATCHDOG)
        notifier.status(str(error))
        return max(1.0, (notifier.watchdog_s or 3 * PAUSE_S) / 3)

    device = Device(config, desired=lambda: None, installs=dict, zone=lambda: local_zone(os.environ.get("TZ")))
    notifier.tell(READY)
    return await keep_services(
        config.root,
        services=pick_service_manager(config.root, kind=config.policy.services, clock=KeptClock(config.root)),
        profile=device.profile,
        stop=stop,
        tell=lambda problem: logger().warning(line("services", problem)),
        alive=alive,
    )


async def _run_engine(config: AgentConfig, stop: asyncio.Event, notifier: Notifier, release: str | None) -> bool:
    async with open_engine(config, runs=True, release=release, tell=notifier.tell) as engine:
        agent = _Agent(engine, stop)
        try:
            await agent.decider.reconsider()
        except FlotillaError as error:
            # a full disk must not stop what is installed; the broker's retained messages will ask again
            logger().warning(line("reconsider", error, code=error.code))
        notifier.tell(READY)
        logger().info(line("ready", device=config.id, channel=config.channel, broker=config.broker, root=config.root))
        try:
            await agent.work(notifier)
        finally:
            notifier.tell(STOPPING)
            logger().info(line("ended", device=config.id))
        return engine.own.leaving.is_set()


class _Agent:
    """An engine with everything around it that listens and tells."""

    def __init__(self, engine: Engine, stop: asyncio.Event) -> None:
        config = engine.config
        topics = Topics(config.topic_root)
        self._engine = engine
        self._reporter = Reporter(
            topics=topics,
            outbox=engine.journal,
            view=engine.device.view,
            boot_id=engine.device.boot_id,
            device=config.id,
            now=engine.clock.now,
        )
        self.decider = Decider(
            updates=engine.manager,
            heard=engine.heard,
            device=engine.device.view,
            now=engine.clock.now,
            changed=self._changed,
            reopen=engine.journal.forget_verdicts,
        )
        self._commands = Commands(
            updates=engine.manager,
            heard=engine.heard,
            now=engine.clock.now,
            replay=self._reporter.replay,
            report=self._reporter.report_soon,
            check=self._check,
        )
        inbox = Inbox(topics=topics, device=config.id, decisions=self.decider, take_command=self._commands.take)
        self._connection = Connection(
            settings=config.link_settings(),
            topics=topics,
            device=config.id,
            inbox=inbox,
            reporter=self._reporter,
            subscriptions=engine.heard,
            view=engine.device.view,
            next_session=engine.journal.next_session,
            stop=stop,
            reach=engine.broker,
        )
        self._watch = ServiceWatch(
            services=engine.services,
            installs=partial(installs_at_rest, engine.journal),
            manifest=engine.store.manifest,
            context=Contexts(engine.store.folders, engine.device.profile).of_running,
            busy=engine.manager.is_busy_with,
            clock=engine.clock,
            changed=self._services_changed,
        )
        engine.own.connected = lambda: self._connection.connected
        self._stop = stop
        self._log = EventLog(engine.journal, on_last_word=self._connection.refresh)

    async def work(self, notifier: Notifier) -> None:
        """Everything at once, until the connection is told to end."""
        loop = asyncio.get_running_loop()

        def stir(phase: Phase | None) -> None:
            self._watch.refresh()
            loop.call_soon_threadsafe(self._reporter.stir, phase)

        forget = self._engine.journal.on_event(stir)
        parts = {
            "updates": self._engine.manager.serve(),
            "commands": self._commands.serve(),
            "control": ControlServer(self._engine.config.root, self._engine.local_work).serve(),
            "log": self._log.serve(),
            "services": self._watch.watch(),
            "own release": self._engine.own.watch(),
            "hand-over": self._hand_over(),
            "watchdog": self._watchdog(notifier),
        }
        try:
            async with asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(part, name=name) for name, part in parts.items()]
                await self._connection.keep()
                for task in running:
                    task.cancel()
        finally:
            forget()

    def _changed(self) -> None:
        self._connection.refresh()
        self._reporter.report_soon()

    async def _check(self) -> None:
        announced = await in_thread(self._engine.heard.repositories)
        findings = await examine(self._engine.config, announced=announced)
        for one in findings:
            tell = logger().info if one.ok else logger().warning
            tell(line("check", one.text, check=one.name, ok=str(one.ok).lower()))
        self._engine.device.note_check(summary(findings))
        self._reporter.report_soon()

    def _services_changed(self) -> None:
        self._engine.device.note_services(self._watch.summary())
        self._reporter.report_soon()

    async def _hand_over(self) -> None:
        await self._engine.own.leaving.wait()
        logger().info(line("hand-over", "another release of the agent goes on"))
        self._stop.set()

    async def _watchdog(self, notifier: Notifier) -> None:
        """A sign of life, as long as the event loop turns and the journal can be written."""
        if notifier.watchdog_s is None:
            return
        while True:
            notifier.tell(WATCHDOG)
            notifier.status(self._engine.manager.trouble or self._connection.status)
            await asyncio.sleep(max(1.0, notifier.watchdog_s / 3))
