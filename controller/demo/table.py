"""The demo's live table: what each device does now. Without a terminal, a line for each change."""

from collections.abc import Iterable, Mapping
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.table import Table

from controller.cli.common import size_text
from controller.demo.story import Chapter
from controller.rollouts.views import RolloutDevice
from schemas.messages import Phase

_STYLES: Final = {
    Phase.SUCCEEDED: "green",
    Phase.PROBATION: "cyan",
    Phase.ROLLING_BACK: "yellow",
    Phase.ROLLED_BACK: "yellow",
    Phase.FAILED: "red",
    Phase.REJECTED: "red",
}


class LiveTable:
    """A context manager; `look` is called as often as one likes."""

    def __init__(self, devices: Iterable[str], console: Console) -> None:
        self._devices = list(devices)
        self._console = console
        self._said: dict[str, str] = {}
        self._live = Live(console=console, auto_refresh=False, transient=False) if console.is_terminal else None

    def __enter__(self) -> "LiveTable":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def look(self, chapter: Chapter, seen: Mapping[str, RolloutDevice]) -> None:
        """Show where the devices are with a release."""
        if self._live:
            self._live.update(table_of(chapter, self._devices, seen), refresh=True)
            return
        for device in self._devices:
            line = " ".join(_cells(chapter, device, seen.get(device)))
            if seen.get(device) and self._said.get(device) != line:
                self._said[device] = line
                self._console.print(line, highlight=False)


def table_of(chapter: Chapter, devices: Iterable[str], seen: Mapping[str, RolloutDevice]) -> Table:
    """Where each device is with a release."""
    table = Table(title=f"publishing tacho {chapter.version}", title_justify="left")
    for heading, width in (("device", 6), ("release", 13), ("phase", 12), ("received", 18), ("error", 14)):
        table.add_column(heading, min_width=width)
    for device in devices:
        one = seen.get(device)
        phase = one.update.phase if one and one.update else None
        table.add_row(*_cells(chapter, device, one), style=_STYLES.get(phase, "") if phase else "dim")
    return table


def _cells(chapter: Chapter, device: str, one: RolloutDevice | None) -> tuple[str, str, str, str, str]:
    update = one.update if one else None
    if update is None:
        return device, chapter.version, one.verdict if one and chapter.tried_on_one else "announced", "-", ""
    arrow = f"{update.from_version} > {update.version}" if update.from_version else update.version
    received = size_text(update.wire_bytes)
    if update.wire_bytes is None and update.progress:
        received = f"{size_text(update.progress.bytes_done)} of {size_text(update.progress.bytes_total)}"
    return device, arrow, update.phase, received, update.error.code if update.error else ""
