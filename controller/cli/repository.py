"""`flotilla repository`: looking after a data folder itself, with or without a running controller."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from controller.cli.common import Group, json_option, print_json, size_text
from controller.database import open_database, sqlite_url
from controller.repository.mirrors import open_mirror
from controller.repository.package_repository import PackageRepository
from controller.repository.place import fill
from schemas.errors import OperatorError


@click.group(cls=Group)
def repository() -> None:
    """Verify, measure and tidy up a controller's data folder.

    These work on the folder, not through the API; a controller may be running on it.
    """


_data = click.option(
    "--data", type=click.Path(path_type=Path, file_okay=False), required=True, metavar="DIR", help="As for serve."
)
_database = click.option("--database", metavar="URL", help="As for serve.")


@repository.command(short_help="Read every object and check every signature.")
@_data
@_database
@click.option(
    "--repair",
    "mirror",
    metavar="MIRROR",
    help="Put right what can be from another copy: its base URL, or its repository folder.",
)
@json_option
def verify(data: Path, database: str | None, mirror: str | None, *, as_json: bool) -> None:
    """Read every object and check every signature; exit status 1 where anything is wrong.

    With --repair, damaged and missing files are fetched from a mirror, proven, and put in their places; what is wrong
    after that is told.
    """
    with _opened(data, database, heal=mirror is None) as opened:
        if mirror is not None:
            repaired = opened.repair(open_mirror(mirror))
            for path in repaired.mended:
                click.echo(f"mended {path}", err=as_json)
        problems = opened.verify()
    if as_json:
        print_json(problems)
    else:
        for problem in problems:
            click.echo(f"{problem.where}: {problem.message}")
    if problems:
        count = "1 thing is" if len(problems) == 1 else f"{len(problems)} things are"
        raise OperatorError("data.bad", f"{count} wrong in {data}")
    if not as_json:
        click.echo("everything is as it was signed")


@repository.command()
@_data
@_database
@json_option
def collect(data: Path, database: str | None, *, as_json: bool) -> None:
    """Remove what no release needs any more."""
    with _opened(data, database) as opened:
        garbage = opened.collect_garbage()
    if as_json:
        print_json(garbage)
    else:
        click.echo(f"freed {size_text(garbage.freed_bytes)}: {garbage.objects} objects, {garbage.targets} manifests")


@repository.command()
@_data
@_database
@json_option
def statistics(data: Path, database: str | None, *, as_json: bool) -> None:
    """Say how much there is."""
    with _opened(data, database) as opened:
        numbers = opened.statistics()
    if as_json:
        print_json(numbers)
        return
    click.echo(
        f"{numbers.packages} packages, {numbers.releases} releases of {size_text(numbers.release_bytes)} together"
    )
    click.echo(f"{numbers.objects} distinct files, {size_text(numbers.object_bytes)} as stored")
    click.echo(f"{numbers.bundles} bundles and manifest differences, {size_text(numbers.bundle_bytes)}")


@repository.command(short_help="Put what is missing where the repository is kept.")
@_data
def upload(data: Path) -> None:
    """Put whatever is missing or different where the repository is kept (`serve --repository`), from the data folder.

    Reads everything on both sides. The data folder counts: verify it first.
    """
    url, count = fill(data / "repository")
    click.echo(f"put {count} files at {url}" if count else f"{url} has everything as it is here")


@contextmanager
def _opened(data: Path, database: str | None, *, heal: bool = True) -> Iterator[PackageRepository]:
    folder = data / "repository"
    if not folder.is_dir():
        raise OperatorError("data.bad", f"{data} is no data folder of a controller: it has no repository/")
    engine = open_database(database or sqlite_url(data / "flotilla.db"))
    try:
        yield PackageRepository(folder, engine, keys=data / "keys", heal=heal)
    finally:
        engine.dispose()
