"""`flotilla notify test`: whether those who are to be told can be."""

import secrets
from pathlib import Path

import click

from controller.cli.common import Group
from controller.database import utc_now
from controller.notify.config import read_config
from controller.notify.outbox import Waiting
from controller.notify.sending import DeliveryError, send
from schemas.errors import NetworkError, OperatorError, one_line
from schemas.ids import uuid7


@click.group(cls=Group)
def notify() -> None:
    """Notifications: see docs/guides/watching.md for the file that says whom to tell what."""


@notify.command()
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Use DIR/notify.toml, as `serve` does.",
)
@click.option("--file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Another file.")
@click.option("--target", "wanted", metavar="NAME", help="Only this one.")
def test(data: Path | None, file: Path | None, wanted: str | None) -> None:
    """Send a test to each target now, from here; needs no controller."""
    if (data is None) == (file is None):
        raise OperatorError("input.bad", "give either --data or --file")
    config = read_config(file or Path(data or "") / "notify.toml")
    targets = [target for target in config.targets if wanted in (None, target.name)]
    if not targets:
        names = ", ".join(target.name for target in config.targets)
        raise OperatorError("input.bad", f"no target is called {one_line(wanted)}; there are: {names}")
    now = utc_now()
    one = Waiting(
        id=uuid7(int(now.timestamp() * 1000), secrets.token_bytes(10)),
        kind="test",
        title="Flotilla: a test",
        body="If you read this, notifications arrive.",
        data={},
        created_at=now,
        attempts=0,
    )
    failed = 0
    for target in targets:
        try:
            send(target, one, now)
        except DeliveryError as error:
            failed += 1
            click.echo(f"{target.name}: {error}")
        else:
            click.echo(f"{target.name}: delivered")
    if failed:
        raise NetworkError("notify.failed", f"{failed} of {len(targets)} targets did not take it")
