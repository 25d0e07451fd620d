"""`flotilla top`: the rollouts that are announced, with their waves, live."""

import contextlib
from collections.abc import Iterable
from typing import Final

import click
import msgspec
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from controller.cli.common import controller_options, printable
from controller.cli.connection import as_of_then, away, away_in, tell_as_of_then
from controller.cli.fleet import collect, state_text
from controller.cli.following import GONE, gone_text, keep_following, why_gone
from controller.cli.planning import counts_text, wave_rows
from controller.client import ControllerClient
from controller.rollouts.plan import ENDED, RolloutState
from controller.rollouts.views import Rollout, WaveState
from schemas.errors import NetworkError

SHOWN: Final = 5
REDRAWS_PER_S: Final = 4
"""However much is said: ten thousand devices say more than anybody can read."""

STATES: Final = {
    RolloutState.ACTIVE: "cyan",
    RolloutState.PAUSED: "yellow",
    RolloutState.HALTED: "red",
    RolloutState.REVERTED: "yellow",
    RolloutState.COMPLETE: "green",
}
WAVES: Final = {
    WaveState.PROVEN: "green",
    WaveState.ACCEPTED: "yellow",
    WaveState.FAILED: "red",
    WaveState.STOPPED: "yellow",
    WaveState.WAITING: "dim",
    WaveState.ENDED: "dim",
}


@click.command()
@click.argument("rollout_id", metavar="[ROLLOUT]", required=False)
@click.option(
    "--limit", type=click.IntRange(1, 50), default=SHOWN, show_default=True, metavar="N", help="At most so many."
)
@controller_options
def top(rollout_id: str | None, limit: int, client: ControllerClient) -> None:
    """Show how the newest rollouts stand, wave by wave, until Ctrl-C; piped, once."""
    console = Console(highlight=False)
    changes = keep_following(client, "watch") if console.is_terminal else iter(())
    known = {one.id: one for one in _first(client, rollout_id, limit)}
    if rollout_id is not None:
        (rollout_id,) = known  # the whole id, of which the beginning may have been given
    if not console.is_terminal:
        console.print(draw(known.values(), limit))
        tell_as_of_then(client)
        return
    said = _said(away(client))

    def now() -> Group:
        return draw(list(known.values()), limit, said)

    with Live(console=console, get_renderable=now, refresh_per_second=REDRAWS_PER_S, screen=True):
        for kind, data in changes:
            if kind == "rollout" and rollout_id in (None, data["id"]):
                known[data["id"]] = msgspec.convert(data, Rollout)
            elif kind == "connection":
                said = _said(away_in(data))
            elif kind == GONE and (reason := why_gone(data)) is not None:
                said = gone_text(reason)
            elif kind == GONE:
                with contextlib.suppress(NetworkError):  # it went again, and is told of so
                    known = {one.id: one for one in _first(client, rollout_id, limit)}
                    said = _said(away(client))


def draw(rollouts: Iterable[Rollout], limit: int, said: str | None = None) -> Group:
    """The newest of the rollouts that are announced, each with a table of its waves; above it what is `said`."""
    shown = sorted((one for one in rollouts if one.state not in ENDED), key=lambda one: one.id, reverse=True)[:limit]
    parts = [part for one in shown for part in (_head(one), _waves(one), Text())]
    head = [Text(printable(said), style="bold red"), Text()] if said is not None else []
    return Group(*head, *(parts or [Text("nothing is announced")]))


def _said(away: str | None) -> str | None:
    return as_of_then(away) if away is not None else None


def _first(client: ControllerClient, rollout_id: str | None, limit: int) -> list[Rollout]:
    if rollout_id is not None:
        from controller.http.views import RolloutDetail  # noqa: PLC0415 - only needed here

        return [client.get(RolloutDetail, "rollouts", rollout_id).rollout]
    return collect(client, Rollout, "rollouts", limit * 4)


def _head(one: Rollout) -> Text:
    text = Text(printable(f"{one.package} {one.version} on {one.channel}  "), style="bold")
    text.append(state_text(one), style=STATES.get(one.state, ""))
    text.append(f"  {counts_text(one.verdicts)}  {one.id}\n", style="")
    text.append(printable(one.because), style="dim")
    if one.advice:
        text.append(f"\n{printable(one.advice)}", style="dim")
    return text


def _waves(one: Rollout) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    for row, wave in zip(wave_rows(one), one.waves, strict=True):
        number, who, state, counts, _begun, _proven, _deadline, because = row
        style = WAVES.get(wave.state, "")
        table.add_row(*(Text(printable(cell), style=style) for cell in (number, who, state, counts, because)))
    return table
