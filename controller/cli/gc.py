"""`flotilla gc`: old releases go, and what is needed stays."""

import re
from typing import Final

import click

from controller.cli.common import controller_options, json_option, print_json, size_text
from controller.client import ControllerClient
from controller.http.views import RetireWish
from controller.repository.retention import MAX_KEEP, Retired
from schemas.errors import OperatorError

_AGE: Final = re.compile(r"([0-9]{1,6})([dhw])")
_DAYS: Final = {"d": 1.0, "h": 1 / 24, "w": 7.0}
_SHOWN: Final = 40


@click.command()
@click.option(
    "--keep",
    type=click.IntRange(1, MAX_KEEP),
    default=5,
    show_default=True,
    metavar="N",
    help="The last versions of each channel, and the newest of each package, that stay.",
)
@click.option(
    "--older-than", default="90d", show_default=True, metavar="AGE", help="What is younger stays: 90d, 12h, 4w."
)
@click.option("--yes", is_flag=True, help="Do it; without, only what would go is shown.")
@controller_options
@json_option
def gc(keep: int, older_than: str, client: ControllerClient, *, yes: bool, as_json: bool) -> None:
    """Remove old releases that nothing needs, and show first which.

    What a channel points at, what is announced or pinned, and what any device runs, ran before or is fetching stays.
    The bytes are freed a day later, for devices in the middle of something.
    """
    wish = RetireWish(keep=keep, older_than_days=_days(older_than), dry_run=not yes)
    answer = client.send("POST", Retired, "packages", "retire", body=wish)
    if as_json:
        print_json(answer)
        return
    for key in answer.releases[: None if yes else _SHOWN]:
        click.echo(key)
    if not yes and len(answer.releases) > _SHOWN:
        click.echo(f"and {len(answer.releases) - _SHOWN} more (--json lists all)")
    word = "removed" if answer.done else "would remove"
    count = "1 release" if len(answer.releases) == 1 else f"{len(answer.releases)} releases"
    click.echo(f"{word} {count} of {size_text(answer.freed_bytes)}, {answer.kept} stay")
    if answer.releases and not yes:
        click.echo("nothing was done; say --yes to do it")


def _days(text: str) -> float:
    match = _AGE.fullmatch(text)
    if match is None:
        raise OperatorError("input.bad", f"--older-than {text!r} is no time like 90d, 12h or 4w")
    return int(match[1]) * _DAYS[match[2]]
