"""`flotilla push`, `packages`, `export` and `root`: what the repository holds."""

import sys
from pathlib import Path

import click
import msgspec

from controller.cli.common import (
    controller_options,
    json_option,
    parse_day,
    print_json,
    print_table,
    size_text,
    time_text,
)
from controller.cli.uploading import push_file
from controller.client import ControllerClient, bounded, save_atomically
from controller.http.views import FoundReleases, ListedRelease, PushView
from controller.meant import did_you_mean
from schemas.errors import NetworkError, one_line

PAGE = 500
MAX_ROOT_BYTES = 512 * 1024


def _no_folders(ctx: click.Context, _param: click.Parameter, files: tuple[Path, ...]) -> tuple[Path, ...]:
    """Say what makes a package file of a folder, or spares one."""
    for path in files:
        if path.is_dir():
            raise click.UsageError(
                f"{one_line(path, 120)} is a folder, not a package file; flotilla build DIR makes one of it, and "
                "flotilla publish DIR --channel CHANNEL builds, pushes and releases it in one",
                ctx,
            )
    return files


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True), callback=_no_folders)
@controller_options
@json_option
def push(files: tuple[Path, ...], client: ControllerClient, *, as_json: bool) -> None:
    """Store package FILES in the controller's repository and sign them.

    The same file twice changes nothing; the same version with other content is refused. Nothing is announced yet:
    that is `flotilla release`.
    """
    pushed: list[PushView] = []
    try:
        for path in files:
            one = push_file(client, path)
            pushed.append(one)
            if not as_json:
                _tell_stored(one)
    finally:
        # what was stored before another file was refused is stored all the same
        if as_json and pushed:
            print_json(pushed)


def _tell_stored(pushed: PushView) -> None:
    word, record = "stored" if pushed.new else "was already there:", pushed.release
    click.echo(f"{word} {record.key}  {size_text(record.size)}, {record.files} files, manifest {record.manifest[:12]}")


@click.command()
@click.argument("name", required=False)
@click.option("--version", "version_range", metavar="RANGE", help="Only versions in this range, e.g. '^1.2'.")
@click.option(
    "--platform",
    metavar="PLATFORM",
    help="Only releases that run on this platform, e.g. linux-aarch64; those for any do.",
)
@click.option(
    "--tag", "tags", multiple=True, metavar="TAG", help="Only releases with this tag; all that are given must be there."
)
@click.option("--channel", metavar="CHANNEL", help="Only what this channel points at.")
@click.option("--since", metavar="DATE", help="Only releases stored at or after this.")
@click.option("--until", metavar="DATE", help="Only releases stored before this.")
@click.option("--yanked", is_flag=True, help="Also releases that were yanked.")
@controller_options
@json_option
def packages(
    name: str | None,
    version_range: str | None,
    platform: str | None,
    tags: tuple[str, ...],
    channel: str | None,
    since: str | None,
    until: str | None,
    client: ControllerClient,
    *,
    yanked: bool,
    as_json: bool,
) -> None:
    """List what the repository holds, newest version first; all conditions must hold.

    NAME is a package's name, or a pattern: `*` stands for any characters and `?` for one.
    """
    query: dict[str, str | int | list[str] | None] = {
        "name": name,
        "version": version_range,
        "platform": platform,
        "tag": list(tags),
        "channel": channel,
        "since": parse_day(since, "--since"),
        "until": parse_day(until, "--until"),
        "yanked": "true" if yanked else None,
        "limit": PAGE,
    }
    found: list[ListedRelease] = []
    while True:
        page = client.get(FoundReleases, "packages", query=query)
        found += page.items
        if page.next is None:
            break
        query["after"] = page.next
    if as_json:
        print_json(found)
        return
    print_table(
        ("PACKAGE", "VERSION", "PLATFORM", "SIZE", "STORED", "CHANNELS", "DESCRIPTION"),
        (
            (
                r.package,
                r.version,
                r.platform,
                size_text(r.size),
                time_text(r.created_at),
                channels_text(r),
                f"yanked: {r.yank_reason}".rstrip(": ") if r.yanked_at else r.description,
            )
            for r in found
        ),
        empty=f"no release fits{did_you_mean(page.near)}",
    )


def channels_text(one: ListedRelease) -> str:
    """The channels that point at a release, with why nobody new gets it there: `beta, stable (reverted)`."""
    stopped = {channel: f"{channel} ({state.value})" for channel, state in one.stopped.items()}
    return ", ".join(stopped.get(channel, channel) for channel in one.channels)


@click.command()
@click.option(
    "-o", "--out", type=click.Path(path_type=Path, dir_okay=False), help="The file to write; stdout without it."
)
@controller_options
def root(out: Path | None, client: ControllerClient) -> None:
    """Write the trusted root file that agents start from.

    Bring it to the devices by a way you trust: whoever controls this file controls what they install.
    """
    content = b"".join(bounded(client.download("root"), MAX_ROOT_BYTES))
    _check_root(content, client.url)
    if out is None:
        sys.stdout.buffer.write(content)
        sys.stdout.flush()
        return
    save_atomically(iter([content]), out)
    click.echo(f"wrote {out}; name it as trusted_root in each device's agent.toml", err=True)


class _Signed(msgspec.Struct, frozen=True):
    type: str = msgspec.field(name="_type")


class _Root(msgspec.Struct, frozen=True):
    signed: _Signed
    signatures: list[msgspec.Raw]


def _check_root(content: bytes, url: str) -> None:
    """What answers may be anything, if `--url` is wrong; devices are to be given a root and nothing else."""
    try:
        found = msgspec.json.decode(content, type=_Root)
    except msgspec.DecodeError as error:
        raise NetworkError(
            "api.refused", f"{url} is no Flotilla controller: it answers with no trusted root"
        ) from error
    if found.signed.type != "root":
        raise NetworkError("api.refused", f"{url} answers with metadata of type {found.signed.type!r}, not root")
