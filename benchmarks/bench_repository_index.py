"""How long a search takes among 100 000 releases of 2 000 packages, in SQLite.

python -m benchmarks.bench_repository_index [--releases N] [--packages N] [--queries N]

Fills an index in a temporary folder with the rows that storing releases makes, and asks it random questions of
each kind through the repository's own search, as the HTTP API does. The baseline is one row by its primary
key through the same database layer. Ends with 1 where the 99th percentile of any kind is over the bar.
"""

import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Final

import click
from sqlalchemy import Engine, select

from benchmarks.common import CONSOLE, print_table, state_machine
from benchmarks.many_releases import BEGUN, CHANNELS, DAYS, PLATFORMS, TAGS, fill
from controller.database import open_database, reading, sqlite_url
from controller.repository.channels import Channels
from controller.repository.index import Index
from controller.repository.tables import releases
from controller.repository.wanted import Wanted
from schemas.ranges import Range

BAR_MS: Final = 5.0
PAGE: Final = 50
Question = Callable[[random.Random], object]


@click.command()
@click.option("--releases", "count", type=click.IntRange(1), default=100_000, show_default=True)
@click.option("--packages", type=click.IntRange(1), default=2_000, show_default=True)
@click.option("--queries", type=click.IntRange(100), default=1_000, show_default=True, help="Of each kind.")
def main(count: int, packages: int, queries: int) -> None:
    """Measure searches in an index of very many releases."""
    state_machine()
    CONSOLE.print(f"SQLite {sqlite3.sqlite_version}, {count} releases of {packages} packages, pages of {PAGE}")
    with tempfile.TemporaryDirectory() as folder:
        engine = open_database(sqlite_url(Path(folder) / "flotilla.db"))
        begun = time.perf_counter()
        names = fill(engine, packages=packages, count=count)
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
        CONSOLE.print(f"filled in {time.perf_counter() - begun:.1f} s, {size / 2**20:.0f} MiB")
        results = {kind: _measure(ask, queries) for kind, ask in _questions(engine, names, count).items()}
        engine.dispose()
    rows = []
    over = []
    for kind, (times, processor, answers) in results.items():
        p50, p99 = times[len(times) // 2], times[int(len(times) * 0.99)]
        numbers = (p50, p99, times[-1], processor[len(processor) // 2], processor[int(len(processor) * 0.99)])
        rows.append((kind, *(f"{number:.2f}" for number in numbers), f"{answers / queries:.1f}"))
        if p99 > BAR_MS:
            over.append(kind)
    columns = ("query", "p50 ms", "p99 ms", "max ms", "CPU p50 ms", "CPU p99 ms", "answers")
    print_table(f"{queries} random queries of each kind", columns, rows)
    CONSOLE.print(f"over {BAR_MS} ms: {', '.join(over)}" if over else f"all within {BAR_MS} ms at the 99th percentile")
    sys.exit(1 if over else 0)


def _measure(ask: Question, queries: int) -> tuple[list[float], list[float], int]:
    """Milliseconds by the clock and of processor time, each sorted, and how many answers came in all."""
    chance = random.Random(2)
    times, processor, answers = [], [], 0
    for _ in range(20):
        ask(chance)
    for _ in range(queries):
        used, begun = time.thread_time(), time.perf_counter()
        found = ask(chance)
        times.append((time.perf_counter() - begun) * 1000)
        processor.append((time.thread_time() - used) * 1000)
        answers += len(found) if isinstance(found, list) else int(found is not None)
    return sorted(times), sorted(processor), answers


def _questions(engine: Engine, names: list[str], count: int) -> dict[str, Question]:
    index, channels = Index(engine), Channels(engine)

    def one_row(chance: random.Random) -> object:
        with reading(engine) as connection:
            query = select(releases).where(releases.c.id == chance.randint(1, count)).limit(1)
            return connection.execute(query).one_or_none()

    def search(make: Callable[[random.Random], dict[str, object]]) -> Question:
        return lambda chance: index.search(Wanted(**{"limit": PAGE, **make(chance)}))  # type: ignore[arg-type]  # names and values belong together

    def after(chance: random.Random) -> str:
        return f"{chance.choice(names)}@1.2.1@any"

    return {
        "baseline: one row by its primary key": one_row,
        "NAME": search(lambda c: {"name": c.choice(names)}),
        "NAME --version RANGE": search(lambda c: {"name": c.choice(names), "version_range": _range(c)}),
        "the newest of NAME": search(lambda c: {"name": c.choice(names), "limit": 1}),
        "what CHANNEL of NAME points at": lambda c: channels.version(c.choice(names), c.choice(CHANNELS)),
        "--channel, with NAME": search(lambda c: {"name": c.choice(names), "channel": c.choice(CHANNELS)}),
        "--channel, any page": search(lambda c: {"channel": c.choice(CHANNELS), "after": after(c)}),
        "--tag": search(lambda c: {"tags": [c.choice(TAGS)]}),
        "--tag, any page": search(lambda c: {"tags": [c.choice(TAGS)], "after": after(c)}),
        "two tags": search(lambda c: {"tags": c.sample(TAGS[:20], 2)}),
        "--platform, any page": search(lambda c: {"platform": c.choice(PLATFORMS), "after": after(c)}),
        "--since --until": search(_span),
        "--tag --platform": search(lambda c: {"tags": [c.choice(TAGS)], "platform": c.choice(PLATFORMS)}),
        "--platform --since --until": search(lambda c: {"platform": c.choice(PLATFORMS), **_span(c)}),
        "--tag --platform --since --until": search(
            lambda c: {"tags": [c.choice(TAGS)], "platform": c.choice(PLATFORMS), **_span(c)}
        ),
        "--version RANGE, any package": search(lambda c: {"version_range": _range(c), "after": after(c)}),
        "all, any page": search(lambda c: {"after": after(c)}),
    }


def _range(chance: random.Random) -> Range:
    major, minor = chance.randint(1, 3), chance.randint(0, 19)
    return Range(
        chance.choice(
            (f"^{major}.{minor}", f"~{major}.{minor}.1", f">={major}.{minor}.0-0", f"<{major}.{minor} || >=3")
        )
    )


def _span(chance: random.Random) -> dict[str, object]:
    """From an hour to two years, each length as likely on a scale of logarithms."""
    hours = 24 * DAYS ** chance.random() if chance.random() < 0.9 else 1
    since = BEGUN + timedelta(days=DAYS * chance.random())
    return {"since": since, "until": since + timedelta(hours=hours)}


if __name__ == "__main__":
    main()
