"""`flotilla serve`: the controller."""

import asyncio
from pathlib import Path

import click

from controller.accounts.audit import KEEP_AUDIT_DAYS, MIN_KEEP
from controller.app import run_controller
from controller.crowding import open_more_files
from controller.homeassistant.entities import DEFAULT_PREFIX, HomeAssistantTopics
from controller.logs import FORMATS, LogFormat, set_up_logging
from controller.notify.config import read_config
from controller.notify.known import refuse_unknown
from controller.repository.bundle_choice import DEFAULT_RELEASES, MAX_RELEASES
from controller.settings import (
    DEFAULT_BROKER,
    DEFAULT_HTTP,
    KEEP_EVENTS_DAYS,
    ControllerSettings,
    HttpAddress,
    client_id,
    public_urls,
)
from schemas.errors import OperatorError
from schemas.topics import DEFAULT_ROOT, Topics
from transport import LinkSettings
from transport.errors import SettingsError

FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command()
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="DIR",
    help="Folder for all it keeps.",
)
@click.option("--http", default=DEFAULT_HTTP, show_default=True, metavar="HOST:PORT", help="Where to listen.")
@click.option("--broker", metavar="URL", help=f"The MQTT 5 broker, mqtt:// or mqtts://.  [default: {DEFAULT_BROKER}]")
@click.option("--embedded-broker", is_flag=True, help="Start a Mosquitto of its own, for this machine only.")
@click.option(
    "--embedded-port", type=click.IntRange(1, 65535), default=1883, show_default=True, metavar="PORT", help="Its port."
)
@click.option("--broker-username", metavar="NAME", help="Who the controller is to the broker.")
@click.option("--broker-password-file", type=FILE, help="File with the password in one line.")
@click.option("--broker-ca", type=FILE, help="Authorities to trust instead of the system's (PEM).")
@click.option("--broker-cert", type=FILE, help="The controller's certificate (PEM).")
@click.option("--broker-key", type=FILE, help="Its key (PEM).")
@click.option(
    "--public-url", multiple=True, metavar="URL", help="Where devices find the repository; several are tried in order."
)
@click.option(
    "--repository",
    metavar="URL",
    help="Keep the repository there too: s3://BUCKET/PREFIX or file:///FOLDER. Remembered; "
    "keys come from the environment.",
)
@click.option("--database", metavar="URL", help="SQLAlchemy URL instead of SQLite in the data folder.")
@click.option(
    "--topic-root", default=DEFAULT_ROOT, show_default=True, metavar="TOPIC", help="First levels of every topic."
)
@click.option(
    "--keep-events",
    type=click.IntRange(1, 36_500),
    default=KEEP_EVENTS_DAYS,
    show_default=True,
    metavar="DAYS",
    help="How long the steps of updates are kept; the last word of each stays.",
)
@click.option(
    "--keep-audit",
    type=click.IntRange(MIN_KEEP.days, 36_500),
    default=KEEP_AUDIT_DAYS,
    show_default=True,
    metavar="DAYS",
    help="How long it is kept who changed what.",
)
@click.option(
    "--proxy",
    "proxies",
    multiple=True,
    metavar="ADDRESS",
    help="A proxy with TLS in front, on another machine: believe what it says of its clients.",
)
@click.option(
    "--require-token", is_flag=True, help="Ask for logins and tokens on loopback too: behind a proxy on this machine."
)
@click.option(
    "--bundles",
    "bundle_releases",
    type=click.IntRange(0, MAX_RELEASES),
    default=DEFAULT_RELEASES,
    show_default=True,
    metavar="NUMBER",
    help="Make bundles to each new release from so many of those before it; 0 makes none.",
)
@click.option(
    "--bundle-workers",
    type=click.IntRange(1, 64),
    metavar="NUMBER",
    help="Processes that make a bundle, each with up to 1 GiB of memory.  [default: half of the cores]",
)
@click.option(
    "--home-assistant",
    is_flag=False,
    flag_value=DEFAULT_PREFIX,
    metavar="[PREFIX]",
    help=f"Show the fleet to a Home Assistant on the same broker; PREFIX is of its discovery, or {DEFAULT_PREFIX}.",
)
@click.option("--notify", type=FILE, help="Whom to tell what happens.  [default: DATA/notify.toml, where it exists]")
@click.option(
    "--log-format",
    type=click.Choice(FORMATS),
    default="text",
    show_default=True,
    help="Log lines for people, or JSON for machines.",
)
def serve(
    data: Path,
    http: str,
    broker: str | None,
    broker_username: str | None,
    broker_password_file: Path | None,
    broker_ca: Path | None,
    broker_cert: Path | None,
    broker_key: Path | None,
    public_url: tuple[str, ...],
    repository: str | None,
    database: str | None,
    topic_root: str,
    embedded_port: int,
    keep_events: int,
    keep_audit: int,
    proxies: tuple[str, ...],
    bundle_releases: int,
    bundle_workers: int | None,
    log_format: LogFormat,
    home_assistant: str | None,
    notify: Path | None,
    *,
    embedded_broker: bool,
    require_token: bool,
) -> None:
    """Run the controller: repository, rollouts, HTTP API.

    On an empty data folder it makes the signing keys first. Listening on anything but loopback, everybody has to log
    in or show a token; the first one is in DATA/api-token.
    """
    if broker and embedded_broker:
        raise OperatorError("input.bad", "--broker and --embedded-broker exclude each other; choose one")
    Topics(topic_root)
    if home_assistant is not None:
        HomeAssistantTopics(home_assistant, topic_root)
    try:
        link = LinkSettings(
            url=broker or DEFAULT_BROKER,
            client_id=client_id(topic_root),
            username=broker_username,
            password_file=broker_password_file,
            ca_file=broker_ca,
            cert_file=broker_cert,
            key_file=broker_key,
        )
        _check(link)
    except SettingsError as error:
        raise OperatorError("config.bad", str(error)) from error
    settings = ControllerSettings(
        data=data,
        http=HttpAddress.parse(http),
        broker=None if embedded_broker else link,
        embedded_port=embedded_port,
        topic_root=topic_root,
        public_urls=public_urls(public_url),
        repository=repository,
        database=database,
        require_token=require_token,
        bundle_releases=bundle_releases,
        bundle_workers=bundle_workers,
        keep_events_days=keep_events,
        keep_audit_days=keep_audit,
        proxies=proxies,
        home_assistant=home_assistant,
        notify=notify,
    )
    if settings.notify_file is not None:
        refuse_unknown(settings.notify_file, read_config(settings.notify_file))
    set_up_logging(log_format)
    open_more_files()
    asyncio.run(run_controller(settings))


def _check(link: LinkSettings) -> None:
    """Find what is wrong with the broker's options before anything is made; raises `SettingsError`."""
    address = link.address()
    link.secret()
    if address.tls:
        link.tls_context()
