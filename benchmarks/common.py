"""What the benchmarks share: which machine this is, and tables."""

import os
import platform
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

_WIDTH = 160
"""Of tables in a file: no value is cut."""

CONSOLE = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)


def state_machine() -> None:
    """Print what the numbers were measured on."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    memory = next((line.split()[1] for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), "0")
    CONSOLE.print(
        f"{platform.system()} {platform.release()} {platform.machine()}, {os.cpu_count()} x {model}, "
        f"{int(memory) / 2**20:.0f} GiB, Python {platform.python_version()}"
    )


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """One table of results."""
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*row)
    CONSOLE.print(table)


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []
