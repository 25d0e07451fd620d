"""What the commands share: where the controller is, and how facts are printed."""

import functools
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import click
import msgspec

from controller.client import ControllerClient
from schemas.errors import OperatorError
from schemas.messages import shown_in

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_URL = "http://127.0.0.1:8420"
_LONG = 20
"""Words up to this are not broken in a table."""


class Group(click.Group):
    """Commands below a command: without one of them its help is shown, as `flotilla` itself does."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As of any command."""
        if not args:
            click.echo(ctx.get_help())
            ctx.exit()
        return super().parse_args(ctx, args)


def controller_options(command: F) -> F:
    """Add --url and --token; the command gets a `client` instead."""

    @click.option(
        "--url",
        envvar="FLOTILLA_URL",
        default=DEFAULT_URL,
        show_default=True,
        metavar="URL",
        help="The controller; or FLOTILLA_URL.",
    )
    @click.option(
        "--token",
        envvar="FLOTILLA_TOKEN",
        metavar="TOKEN",
        help="Its API token, where it asks for one; or FLOTILLA_TOKEN.",
    )
    @functools.wraps(command)
    def with_client(*args: Any, url: str, token: str | None, **kwargs: Any) -> Any:
        _refuse_empty(click.get_current_context())
        return command(*args, client=ControllerClient(url, token), **kwargs)

    return with_client  # type: ignore[return-value]  # click's options keep the type, functools hides it


def _refuse_empty(context: click.Context) -> None:
    """Each argument becomes a part of an address, and what is asked there without it is something else."""
    for parameter in context.command.params:
        given = context.params.get(parameter.name or "")
        if isinstance(parameter, click.Argument) and (given == "" or (isinstance(given, tuple) and "" in given)):
            raise OperatorError("input.bad", f"{parameter.human_readable_name.strip('[].')} is empty")


def json_option(command: F) -> F:
    """Add --json as the argument `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print facts as JSON.")(command)


def print_json(facts: Any) -> None:
    """Any msgspec struct, list or dict as indented JSON on stdout."""
    click.echo(harmless_json(msgspec.json.format(msgspec.json.encode(facts), indent=2)))


def harmless_json(text: bytes) -> str:
    """The same JSON with escapes for what would steer a terminal: devices and publishers may say what they like."""
    return _STEERING.sub(lambda found: found[0] if found[0].isprintable() else _escaped(found[0]), text.decode())


def _escaped(character: str) -> str:
    pairs = character.encode("utf-16-be")
    return "".join(f"\\u{pairs[at]:02x}{pairs[at + 1]:02x}" for at in range(0, len(pairs), 2))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str) -> None:
    """Rows under headings; without rows the one line `empty`. Piped output has no colours and is not cut.

    A terminal that is too narrow for the table has each row as a few lines, so that no word of it is broken.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    if not cells:
        click.echo(empty)
    elif sys.stdout.isatty():
        from rich.console import Console  # noqa: PLC0415 - half of a command's start, and only people see it
        from rich.table import Table  # noqa: PLC0415 - the same
        from rich.text import Text  # noqa: PLC0415 - the same

        console = Console(highlight=False)
        if not _has_room(columns, cells, console.width):
            for row in cells:
                console.print(Text(row[0], style="bold"), soft_wrap=True)
                console.print(Text("\n".join(_card(columns, row, console.width))), soft_wrap=True)
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        for number, column in enumerate(columns):
            # what a row is about is what is copied
            table.add_column(column, overflow="fold", no_wrap=number == 0)
        for row in cells:
            table.add_row(*map(Text, row))
        console.print(table)
    else:
        widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
        for line in [columns, *cells]:
            padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            click.echo("  ".join(padded).rstrip())


def _has_room(columns: Sequence[str], cells: Sequence[Sequence[str]], width: int) -> bool:
    """Whether a table's words fit beside each other; what is longer than `_LONG` is broken, but what a row is about."""
    longest = [
        max(len(word) for cell in column for word in cell.split() or [""])
        for column in zip(columns, *cells, strict=True)
    ]
    return sum([longest[0], *(min(one, _LONG) for one in longest[1:]), 2 * (len(columns) - 1)]) <= width


def _card(columns: Sequence[str], row: Sequence[str], width: int) -> list[str]:
    """What a row says besides what it is about, in lines as `  channel: stable  state: complete`."""
    lines: list[str] = []
    for heading, cell in zip(columns[1:], row[1:], strict=True):
        if cell in {"", "-"}:
            continue
        part = f"{heading.lower()}: {cell}"
        if lines and len(lines[-1]) + 2 + len(part) <= width:
            lines[-1] += f"  {part}"
        else:
            lines += textwrap.wrap(part, width, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
    return lines


def tell_warnings(warnings: Iterable[str]) -> None:
    """One line each on stderr, so that it is seen beside --json too."""
    for warning in warnings:
        click.echo(f"flotilla: warning: {printable(warning)}", err=True)


def printable(text: object) -> str:
    """Any text with `?` for what would steer a terminal: devices and publishers may say what they like."""
    return "".join(c if c.isprintable() else "?" for c in str(text))


def somebody_there() -> bool:
    """Whether there is a person to ask: what is typed and what is shown are a terminal's, and no script's."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()


def plural(number: int, what: str) -> str:
    """`1 device`, `2 devices`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


_STEERING: Final = re.compile(r"[^\n\x20-\x7e]")

_MOST_BYTES: Final = 2**63
"""A device can say any number."""


def size_text(count: int | None) -> str:
    """Bytes for people, with binary units: `1.4 MiB`."""
    if count is None:
        return "-"
    value = float(max(min(count, _MOST_BYTES), -_MOST_BYTES))
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def time_text(moment: datetime | None) -> str:
    """A moment in the reader's own zone, to the second."""
    return "-" if moment is None else shown_in(moment, None).strftime("%Y-%m-%d %H:%M:%S")


def clock_text(moment: datetime, now: datetime | None = None) -> str:
    """A moment beside what happens now: on a terminal today's have no date; what is kept in a file has one each."""
    whole = time_text(moment)
    day, _, clock = whole.partition(" ")
    return clock if sys.stdout.isatty() and day == time_text(now or datetime.now(UTC)).partition(" ")[0] else whole


def parse_day(text: str | None, option: str) -> str | None:
    """A date or RFC 3339 time given on the command line, as RFC 3339 in UTC; usage error where it is none."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise click.BadParameter(
            f"{text!r} is no date like 2026-03-01 or 2026-03-01T12:00:00Z", param_hint=option
        ) from error
    return moment.isoformat().replace("+00:00", "Z")
