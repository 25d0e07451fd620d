"""The controller's wiring: the one place on this side that makes things and opens connections."""

import asyncio
import contextlib
import gc
import logging
import signal
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from functools import partial

from prometheus_client import CollectorRegistry
from sqlalchemy import Engine

from controller.accounts.answers import Answers
from controller.accounts.audit import AuditLog
from controller.accounts.people import People
from controller.accounts.tokens import Tokens
from controller.application import make_application
from controller.database import open_database, utc_now
from controller.embedded_broker import EmbeddedBroker, embedded_broker
from controller.fleet.observers import Observer
from controller.fleet.pruning import Pruner
from controller.fleet.running import running_versions
from controller.fleet.service import FleetService
from controller.fleet.surplus import Surplus, Talkative
from controller.homeassistant.bridge import HomeAssistantBridge
from controller.homeassistant.entities import HomeAssistantTopics
from controller.housekeeping import TooMuch, bound, forget, keep_signed, prune
from controller.http.access import Access
from controller.http.api import Parts
from controller.http.guard import Gate, is_loopback, load_token
from controller.http.login import Accounts
from controller.http.releasing import Releasing
from controller.http.transfers import Spool
from controller.http.watchers import Watchers
from controller.listening import GRACE_S, Server, listening, only_one, server_config
from controller.logs import told
from controller.notify.config import read_config
from controller.notify.notifier import Notifier
from controller.notify.outbox import Outbox
from controller.preflight.gathering import Preflights
from controller.repository.bundle_maker import BundleMaker
from controller.repository.package_repository import PackageRepository
from controller.repository.place import keep_at
from controller.rollouts.announcing import AnnouncementStore
from controller.settings import ControllerSettings, HttpAddress, client_id
from controller.signals.counting import IntakeCounters, RequestCounter
from controller.signals.health import Health
from controller.signals.metrics import Metrics, new_registry
from controller.signals.numbers import read_numbers
from controller.signals.upkeep import Upkeep
from controller.version import VERSION
from schemas.errors import OperatorError
from schemas.topics import Topics
from transport import LinkSettings
from transport.errors import SettingsError

log = logging.getLogger("flotilla.controller")


async def run_controller(settings: ControllerSettings) -> None:
    """Run until SIGTERM or SIGINT.

    Raises:
        OperatorError: the data folder, the address or the broker's settings cannot be used.
    """
    stop = asyncio.Event()
    # before anything is started, so that nothing is left running when the end is asked for early
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with contextlib.ExitStack() as stack:
        listeners = stack.enter_context(listening(settings.http))
        stack.enter_context(only_one(settings.data))
        broker, embedded = _broker(settings, stack)
        engine = open_database(settings.database_url)
        stack.callback(engine.dispose)
        repository = await _open_repository(settings, engine)
        registry = new_registry()
        notifier = _notifier(settings, engine, registry)
        talkative, too_much = Talkative(), TooMuch()
        observers = [IntakeCounters(registry), talkative, *([notifier] if notifier is not None else [])]
        parts = _make_parts(settings, broker, engine, repository, observers)
        # devices that start later must not look for packages where they were before the controller moved
        moved = await asyncio.to_thread(parts.fleet.steering.move_repository, settings.repository_urls)
        token = _token(settings)
        accounts = Accounts(People(engine), Tokens(engine), AuditLog(engine), has_file_token=token is not None)
        answers = Answers(engine)
        gate = Gate(accounts.people, accounts.tokens, token)
        upkeep = Upkeep(repository)
        application = make_application(
            parts,
            accounts=accounts,
            access=Access(gate, accounts.audit, answers, Watchers(gate, stop)),
            metrics=_metrics(parts, registry, upkeep),
            health=Health(engine, status=parts.fleet.status, expiries=lambda: upkeep.expiries),
        )
        asgi = RequestCounter(application, registry)  # type: ignore[arg-type]  # both speak ASGI
        server = Server(server_config(asgi, settings.proxies))
        _tell_where(settings, asks=token is not None)
        _tell_moved(moved)
        _spare_what_stays()
        jobs: dict[str, Callable[[], Awaitable[None]]] = {
            "fleet": lambda: parts.fleet.run(stop),
            "http": lambda: server.serve(listeners),
            "metadata": lambda: keep_signed(repository, stop),
            "pruning": lambda: prune(Pruner(engine), timedelta(days=settings.keep_events_days), too_much, stop),
            "surplus": lambda: bound(Surplus(engine), talkative, too_much, stop),
            "accounts": lambda: forget(accounts, answers, timedelta(days=settings.keep_audit_days), stop),
            "bundles": lambda: parts.bundle_maker.run(stop),
            "upkeep": lambda: upkeep.run(stop),
        }
        if embedded is not None:
            jobs["broker"] = partial(embedded.watch, stop)
        if notifier is not None:
            jobs["notify"] = lambda: notifier.run(stop)
        await _run_all(jobs, server, stop)


def _broker(settings: ControllerSettings, stack: contextlib.ExitStack) -> tuple[LinkSettings, EmbeddedBroker | None]:
    """How to reach the broker, and the one that is started here where none is given."""
    if settings.broker is not None:
        return settings.broker, None
    embedded = stack.enter_context(embedded_broker(settings.data / "broker", settings.embedded_port))
    return LinkSettings(url=embedded.url, client_id=client_id(settings.topic_root)), embedded


async def _open_repository(settings: ControllerSettings, engine: Engine) -> PackageRepository:
    folder = settings.data / "repository"
    if settings.repository is not None:
        kept = await asyncio.to_thread(keep_at, folder, settings.repository)
        log.info("repository: %s", kept or f"kept at {settings.repository}", extra=told("repository"))
    return await asyncio.to_thread(PackageRepository, folder, engine, keys=settings.data / "keys")


def _make_parts(
    settings: ControllerSettings,
    broker: LinkSettings,
    engine: Engine,
    repository: PackageRepository,
    observers: Sequence[Observer],
) -> Parts:
    spool = Spool(settings.data / "spool")
    spool.prepare()
    topics = Topics(settings.topic_root)
    fleet = FleetService(engine, broker, topics, version=VERSION, observers=observers)
    if settings.home_assistant is not None:
        fleet.accompany(_home_assistant(settings.home_assistant, topics, fleet, engine, repository))
    bundle_maker = BundleMaker(
        repository.bundles,
        channels=repository.channels,
        last=settings.bundle_releases,
        reported=partial(running_versions, engine),
        workers=settings.bundle_workers,
    )
    return Parts(
        engine=engine,
        repository=repository,
        fleet=fleet,
        settings=settings,
        spool=spool,
        bundle_maker=bundle_maker,
        preflights=Preflights(engine, repository),
        releasing=Releasing(repository, fleet, settings),
        broker_url=broker.url,
    )


def _token(settings: ControllerSettings) -> str | None:
    """The one in the data folder; None where only this machine can connect and nobody is asked for one."""
    others_can_reach_it = settings.require_token or not is_loopback(settings.http.host)
    return load_token(settings.data / "api-token") if others_can_reach_it else None


def _metrics(parts: Parts, registry: CollectorRegistry, upkeep: Upkeep) -> Metrics:
    return Metrics(
        registry,
        numbers=lambda: read_numbers(parts.engine, utc_now()),
        status=parts.fleet.status,
        watchers=lambda: parts.fleet.feed.watchers,
        upkeep=upkeep,
    )


def _notifier(settings: ControllerSettings, engine: Engine, registry: CollectorRegistry) -> Notifier | None:
    if settings.notify_file is None:
        return None
    config = read_config(settings.notify_file)
    return Notifier(Outbox(engine, config), config, registry)


def _home_assistant(
    prefix: str, topics: Topics, fleet: FleetService, engine: Engine, repository: PackageRepository
) -> HomeAssistantBridge:
    def describe(package: str, version: str) -> str:
        return next((record.description for record in repository.records(package, version)), "")

    return HomeAssistantBridge(
        HomeAssistantTopics(prefix, topics.root),
        topics,
        registry=fleet.registry,
        announcements=AnnouncementStore(engine),
        orders=fleet.orders,
        describe=describe,
        send=fleet.steering.send_command,
    )


def _tell_where(settings: ControllerSettings, *, asks: bool) -> None:
    """Log where it is, and, where others can reach it and it `asks` them who they are, by what they come in."""
    page, listening = page_address(settings.http), told("listening", url=f"http://{settings.http}")
    log.info("the page is at %s", page, extra=told("listening", url=page))
    places = ", ".join(settings.repository_urls)
    log.info("listening on http://%s, devices fetch from %s", settings.http, places, extra=listening)
    if asks:
        log.info(
            "whoever comes is asked for a login or a token: the first token is in %s. What is sent can be read on its "
            "way: where that matters, put a server with HTTPS before this one",
            settings.data / "api-token",
            extra=listening,
        )


def _tell_moved(rollouts: int) -> None:
    if rollouts:
        what = "1 rollout is" if rollouts == 1 else f"{rollouts} rollouts are"
        log.info("%s announced anew: devices fetch from another place", what, extra=told("announce", count=rollouts))


def _spare_what_stays() -> None:
    """Keep the garbage collector from looking again and again through all that lives as long as the process.

    Measured: it took an eighth of an intake's processor time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


async def _run_all(parts: dict[str, Callable[[], Awaitable[None]]], server: Server, stop: asyncio.Event) -> None:
    """Run the parts until `stop` is set or one of them ends, then end the others; raises what a part raised."""
    tasks = [asyncio.create_task(_part(name, start), name=name) for name, start in parts.items()]
    stopping = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stop.set()
        server.should_exit = True
        stopping.cancel()
        done, late = await asyncio.wait(tasks, timeout=GRACE_S * 2)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        log.info("stopped", extra=told("stopped"))
    for task in done:
        task.result()


async def _part(name: str, start: Callable[[], Awaitable[None]]) -> None:
    try:
        await start()
    except SettingsError as error:
        raise OperatorError("config.bad", str(error)) from error
    except SystemExit as error:
        # uvicorn wants to end the process when it cannot start; why is in the log
        raise OperatorError("internal.error", f"{name} could not start; the log says why") from error


def page_address(address: HttpAddress) -> str:
    """Where a browser on this machine finds the page."""
    return f"http://{HttpAddress(host='127.0.0.1', port=address.port) if address.listens_everywhere else address}/"
