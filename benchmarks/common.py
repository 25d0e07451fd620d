"""What the benchmarks share: which machine this is, and tables."""

import os
import platform
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

IDLE_MIB = 100
IDLE_S = 8
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


def state_idle_memory() -> None:
    """Print what memory costs that was left alone: some virtual machines take it away, and give it back slowly."""
    memory = bytearray(IDLE_MIB * 2**20)
    _touch(memory)
    in_use = _touch(memory)
    time.sleep(IDLE_S)
    CONSOLE.print(
        f"to touch {IDLE_MIB} MiB takes {in_use * 1000:.0f} ms while in use, "
        f"{_touch(memory) * 1000:.0f} ms after {IDLE_S} s left alone"
    )


def _touch(memory: bytearray) -> float:
    """Write to every page; gives the seconds."""
    began = time.perf_counter()
    for place in range(0, len(memory), 4096):
        memory[place] = 1
    return time.perf_counter() - began


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
