"""`flotilla export` and `import`: releases in one file, for devices without a network and for other sites."""

import hashlib
from pathlib import Path

import click

from controller.cli.common import controller_options, json_option, print_json, size_text
from controller.client import ControllerClient, save_atomically
from controller.http.views import SiteWish
from controller.repository.records import Imported
from schemas.errors import OperatorError
from schemas.layout import package_file_name

MAX_ROOT_BYTES = 512 * 1024
_DEVICE_ARGUMENTS = 2


@click.command()
@click.argument("what", nargs=-1, required=True, metavar="NAME VERSION | NAME[@RANGE]... --for-site")
@click.option("--for-site", is_flag=True, help="For `flotilla import` of another controller; several releases.")
@click.option("--platform", metavar="PLATFORM", help="Needed where the version exists for several platforms.")
@click.option("-o", "--out", type=click.Path(path_type=Path, dir_okay=False), help="The file to write.")
@click.option(
    "--valid-days",
    type=click.IntRange(1, 366),
    metavar="DAYS",
    help="How long the file may wait before it is installed or imported; without it as long as the repository's "
    "signature, for another site 90.",
)
@controller_options
@json_option
def export(
    what: tuple[str, ...],
    platform: str | None,
    out: Path | None,
    valid_days: int | None,
    client: ControllerClient,
    *,
    for_site: bool,
    as_json: bool,
) -> None:
    """Write releases with their signed metadata into one file.

    NAME VERSION is for `flotilla-agent install` on a device without a network. With --for-site it is for `flotilla
    import` of a controller elsewhere: each NAME with all its versions, or those in a range, as in 'tacho@^1.2'.
    """
    if for_site:
        if platform:
            raise OperatorError("input.bad", "--platform is for one release; a file for a site has all platforms")
        destination = out or Path("site.flotilla")
        wish = SiteWish(packages=dict(map(_name_and_range, what)), valid_days=valid_days or 90)
        pieces = client.download("packages", "site", method="POST", body=wish)
        hint = "take it in with: flotilla import"
    else:
        if len(what) != _DEVICE_ARGUMENTS:
            raise OperatorError("input.bad", "say NAME and VERSION, or --for-site for several packages")
        name, version = what
        destination = out or Path(package_file_name(name, version, platform or "export"))
        query = {"platform": platform, "valid_days": valid_days}
        method = "GET" if valid_days is None else "POST"
        pieces = client.download("packages", name, version, "export", query=query, method=method)
        hint = "install it with: flotilla-agent install"
    size = save_atomically(pieces, destination)
    if as_json:
        print_json({"file": str(destination), "size": size})
    else:
        click.echo(f"wrote {destination}, {size_text(size)}; {hint} {destination}")


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--root",
    "root_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    required=True,
    metavar="FILE",
    help="The other controller's trusted root, as `flotilla root` wrote it there, brought by a way you trust.",
)
@controller_options
@json_option
def import_site(file: Path, root_file: Path, client: ControllerClient, *, as_json: bool) -> None:
    """Take in FILE, which `flotilla export --for-site` of another controller wrote.

    Everything in it is verified from the trusted root, and signed by this controller's keys. All of it is taken
    in or nothing; a version that is here with other content is refused.
    """
    try:
        with root_file.open("rb") as opened:
            digest = hashlib.sha256(opened.read(MAX_ROOT_BYTES)).hexdigest()
        with file.open("rb") as content:
            size = file.stat().st_size
            imported = client.upload(Imported, content, size, "packages", "import", query={"root": digest})
    except OSError as error:
        raise OperatorError("input.bad", f"cannot read {error.filename}: {error.strerror}") from error
    if as_json:
        print_json(imported)
        return
    for record in imported.releases:
        click.echo(f"imported {record.key}")
    for key in imported.known:
        click.echo(f"was already there: {key}")


def _name_and_range(text: str) -> tuple[str, str | None]:
    name, separator, versions = text.partition("@")
    return name, versions if separator else None
