"""`flotilla revert`: taking a release back from everybody who took it, with what that means for whom."""

from collections.abc import Iterator

import click

from controller.cli.common import (
    controller_options,
    json_option,
    plural,
    printable,
    somebody_there,
    tell_warnings,
    time_text,
)
from controller.cli.connection import tell_as_of_then, tell_stored
from controller.cli.operate import tell_rollout
from controller.client import ControllerClient
from controller.http.views import RolloutDetail, StateWish
from controller.rollouts.explaining import goes_back
from controller.rollouts.plan import MOVES, RolloutState
from controller.rollouts.views import Rollout
from schemas.errors import OperatorError

_NOTHING = "nothing installed"
_UNTOLD = "what was there before"


@click.command()
@click.argument("rollout_id", metavar="ROLLOUT")
@click.option("--yes", is_flag=True, help="Do not ask, on a terminal either.")
@controller_options
@json_option
def revert(rollout_id: str, client: ControllerClient, *, yes: bool, as_json: bool) -> None:
    """Send back every device that took a rollout's release.

    A device that had no version of the package before is left without it. On a terminal you are told who goes back to
    what, and asked; a script, and --json, are not.
    """
    detail = client.get(RolloutDetail, "rollouts", rollout_id)
    if detail.rollout.state is RolloutState.REVERTED:
        tell_as_of_then(client)
        tell_rollout(detail.rollout, _already(detail), as_json=as_json)
        return
    if RolloutState.REVERTED in MOVES[detail.rollout.state]:
        tell_warnings(left_without(detail))
        if not (yes or as_json) and somebody_there():
            for line in what_comes(detail):
                click.echo(printable(line), err=True)
            if not click.confirm("Revert it?", err=True):
                raise OperatorError("input.bad", "it is not reverted: nothing was changed")
    wish = StateWish(state=RolloutState.REVERTED)
    rollout = client.send("POST", Rollout, "rollouts", rollout_id, "state", body=wish)
    tell_rollout(rollout, f"is reverted: {going_back(detail)}", as_json=as_json)
    tell_stored(client)


def going_back(detail: RolloutDetail) -> str:
    """What a revert means for the devices, as far as they were heard of: `2 devices have it and go back to 1.0.0`.

    Each device is counted once: in its probation it runs what came, and is at it.
    """
    have_it = sum(one.count for one in detail.takers) + detail.took
    told = "1 device has it and goes back" if have_it == 1 else f"{have_it} devices have it and go back"
    ways = [(one.count, one.previous or _NOTHING) for one in detail.takers]
    if detail.took and ways:
        ways.append((detail.took, _UNTOLD))
    if len(ways) == 1:
        told = f"{told} to {ways[0][1]}"
    elif ways:
        told = f"{told} ({', '.join(f'{count} to {where}' for count, where in ways)})"
    return f"{told}, {stopping}" if (stopping := _stopping(detail)) else told


def what_comes(detail: RolloutDetail) -> Iterator[str]:
    """What a revert would do, a line each; whom it leaves without the package is warned of apart."""
    rollout = detail.rollout
    yield f"{rollout.package} {rollout.version} on channel {rollout.channel} is {rollout.state}; a revert is for good:"
    for one in detail.takers:
        if one.previous is not None:
            yield f"  {goes_back(rollout.package, one)}"
    if detail.took:
        goes = "goes" if detail.took == 1 else "go"
        yield f"  {plural(detail.took, 'device')} just said to have taken it and {goes} back to {_UNTOLD}"
    if not (detail.takers or detail.took):
        yield "  no device has it"
    if stopping := _stopping(detail):
        yield f"  {stopping}"
    if group := rollout.policy.set:
        others = ", ".join(sorted(group.packages.keys() - {rollout.package}))
        yield f"  what was released together with it is reverted too: {others}"


def left_without(detail: RolloutDetail) -> Iterator[str]:
    """The devices that had no version of the package before, in one line."""
    for one in detail.takers:
        if one.previous is None:
            yield goes_back(detail.rollout.package, one)


def _already(detail: RolloutDetail) -> str:
    rollout, left = detail.rollout, sum(one.count for one in detail.takers)
    by = f" by {rollout.changed_by}" if rollout.changed_by else ""
    still = f"{plural(left, 'device')} still {'has' if left == 1 else 'have'} it" if left else "no device has it now"
    return f"is reverted already, since {time_text(rollout.changed_at)}{by}: {still}"


def _stopping(detail: RolloutDetail) -> str:
    busy = detail.at_it
    more = f"{busy} more" if detail.takers or detail.took else str(busy)
    return f"{more} at it {'stops or goes' if busy == 1 else 'stop or go'} back" if busy else ""
