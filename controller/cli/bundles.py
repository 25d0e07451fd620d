"""`flotilla bundles`, and waiting for them before a version is announced."""

import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import click

from controller.cli.common import controller_options, json_option, print_json, print_table
from controller.client import ControllerClient
from controller.repository.bundle_views import BundleView, FailedView, ReleaseBundles
from schemas.errors import OperatorError
from schemas.versions import parse

F = TypeVar("F", bound=Callable[..., Any])

WAIT_S: Final = 3600.0
_POLL_S: Final = 0.5
_UNFINISHED: Final = frozenset({"waiting", "making"})


@click.command()
@click.argument("name")
@click.argument("version")
@click.option("--again", is_flag=True, help="Try to make at once what could not be made before.")
@controller_options
@json_option
def bundles(name: str, version: str, client: ControllerClient, *, again: bool, as_json: bool) -> None:
    """Show the bundles that lead to VERSION of package NAME, and what they spare a device."""
    path = ("packages", name, str(parse(version)), "bundles")
    found = client.send("POST", list[ReleaseBundles], *path) if again else _ask(client, name, version)
    if as_json:
        print_json(found)
        return
    for one in found:
        rows = [_row(view) for view in one.bundles]
        empty = "no bundles: every device fetches what it lacks file by file"
        if len(found) > 1:
            click.echo(f"{one.platform}:")
        print_table(["FROM", "BUNDLE", "FILE BY FILE", "SAVED", "MANIFEST", "NOTE"], rows, empty=empty)
        if one.state in _UNFINISHED:
            click.echo(_progress_text(one))
        for failure in one.failed:
            click.echo(_failed_text(failure))
        remembered = {failure.reason for failure in one.failed}
        for line in one.failures:
            if not any(reason in line for reason in remembered):
                click.echo(f"could not be made: {line}")


def wait_options(command: F) -> F:
    """Add --wait-bundles and --wait-limit as the arguments `wait` and `wait_limit`."""
    limit = click.option(
        "--wait-limit",
        type=click.FloatRange(1, 86_400),
        default=WAIT_S,
        show_default=True,
        metavar="SECONDS",
        help="How long to wait for bundles; nothing is announced if that is not enough.",
    )
    flag = click.option("--wait-bundles", "wait", is_flag=True, help="Announce when its bundles have been made.")
    return flag(limit(command))


def wait_for_bundles(client: ControllerClient, name: str, version: str, limit_s: float) -> None:
    """Wait until nothing is left to make for a version, showing how far it is.

    Raises:
        OperatorError: `input.bad`, when it takes longer than `limit_s`.
    """
    from rich.console import Console  # noqa: PLC0415 - most commands wait for nothing, and it takes long to load
    from rich.progress import BarColumn, Progress, TextColumn  # noqa: PLC0415 - the same

    until = time.monotonic() + limit_s
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    said = ""
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"bundles for {name} {version}", total=1.0)
        while unfinished := [one for one in _ask(client, name, version) if one.state in _UNFINISHED]:
            text = _progress_text(unfinished[0])
            progress.update(task, description=text, completed=_share(unfinished))
            if not console.is_terminal and text != said:
                click.echo(text, err=True)
                said = text
            if time.monotonic() > until:
                raise OperatorError(
                    "input.bad",
                    f"the bundles for {name} {version} were not made within {limit_s:.0f} s, so it is not announced; "
                    "they go on being made: try again later, or leave out --wait-bundles",
                )
            time.sleep(_POLL_S)


def _ask(client: ControllerClient, name: str, version: str) -> list[ReleaseBundles]:
    return client.get(list[ReleaseBundles], "packages", name, str(parse(version)), "bundles")


def _row(view: BundleView) -> list[str]:
    note = "" if view.kept else "not kept: no smaller"
    patch = str(view.patch) if view.patch else "-"
    return [view.source or "nothing", str(view.size), str(view.objects), str(view.saved), patch, note]


def _failed_text(failure: FailedView) -> str:
    name = f"from {failure.source}" if failure.source else "full"
    times = "once" if failure.attempts == 1 else f"{failure.attempts} times"
    when = f"{failure.again_at:%Y-%m-%d %H:%M} UTC"
    return (
        f"could not be made ({name}): {failure.reason}; failed {times}, not tried again before {when} (or now: --again)"
    )


def _progress_text(one: ReleaseBundles) -> str:
    which = f"{one.done + 1} of {one.wanted}" if one.wanted else "waiting for its turn"
    return f"bundles for {one.package} {one.version} {one.platform}: {which}"


def _share(unfinished: Sequence[ReleaseBundles]) -> float:
    wanted = sum(one.wanted for one in unfinished)
    return min(1.0, sum(one.done + one.share for one in unfinished) / wanted) if wanted else 0.0
