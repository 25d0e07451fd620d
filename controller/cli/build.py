"""`flotilla build` and `flotilla inspect`: they need no controller."""

import sys
import time
from pathlib import Path

import click
import msgspec

from controller.cli.common import json_option, print_json, size_text
from controller.packaging.inspection import Inspection, inspect_file
from controller.packaging.package_creator import PackageCreator
from schemas.errors import one_line
from schemas.manifest import Manifest

_SHOW_AFTER_S = 0.5


class BuildFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What `flotilla build --json` prints; sizes in bytes."""

    path: str
    package: str
    version: str
    platform: str
    manifest: str
    files: int
    size: int


@click.command()
@click.argument("source", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--version", help="Instead of the version that flotilla.toml names.")
@click.option("--platform", help="Instead of the platform that flotilla.toml names, e.g. linux-aarch64.")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    metavar="DIR",
    help="Folder for the package file, made where it is missing; the current one where this is not given.",
)
@json_option
def build(source: Path, version: str | None, platform: str | None, out: Path, *, as_json: bool) -> None:
    """Build NAME-VERSION-PLATFORM.flotilla from the folder DIR and its flotilla.toml."""
    progress = _Progress(shown=sys.stderr.isatty())
    try:
        built = PackageCreator(source).build(version=version, platform=platform, out=out, progress=progress)
    finally:
        progress.clear()
    manifest = built.manifest
    facts = BuildFacts(
        path=str(built.path),
        package=manifest.package,
        version=manifest.version,
        platform=manifest.platform,
        manifest=built.manifest_sha256,
        files=len(manifest.files),
        size=built.size,
    )
    if as_json:
        print_json(facts)
        return
    click.echo(f"{facts.path}: {facts.files} files, {facts.size} bytes ({size_text(facts.size)})")
    click.echo(f"manifest sha256 {facts.manifest}")


@click.command()
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@click.option("--files", "list_files", is_flag=True, help="List every file, link and folder.")
@json_option
def inspect(file: Path, *, list_files: bool, as_json: bool) -> None:
    """Say what is in FILE, a package or an exported release, and verify all its content.

    Signatures are not checked: that is for the device, which has the trusted root.
    """
    found = inspect_file(file)
    if as_json:
        print_json(found if list_files else _without_files(found))
        return
    for name, value in _facts(found):
        click.echo(f"{name + ':':<13}{value}")
    if list_files:
        click.echo()
        for line in _listing(found.manifest):
            click.echo(line)


def _without_files(found: Inspection) -> Inspection:
    manifest = msgspec.structs.replace(found.manifest, files=[], links=[], directories=[])
    return msgspec.structs.replace(found, manifest=manifest)


def _facts(found: Inspection) -> list[tuple[str, str]]:
    """The summary, without lines that would be empty."""
    manifest = found.manifest
    requires = msgspec.json.encode(manifest.requires, order="sorted").decode()
    hooks = [name for name in manifest.hooks.__struct_fields__ if getattr(manifest.hooks, name) is not None]
    settings = [name if default is not None else f"{name} (required)" for name, default in manifest.settings.items()]
    facts = [
        ("kind", f"{found.head.kind}, format {found.head.format}, {found.file_size} bytes, whole"),
        ("package", manifest.package),
        ("version", manifest.version),
        ("platform", manifest.platform),
        ("manifest", found.head.manifest),
        ("description", manifest.description),
        ("tags", ", ".join(manifest.tags)),
        ("requires", "" if requires == "{}" else requires),
        ("install path", manifest.install_path or ""),
        ("content", _content(found)),
        ("state", ", ".join(manifest.state)),
        ("templates", ", ".join(template.target for template in manifest.templates)),
        ("settings", ", ".join(sorted(settings))),
        ("hooks", ", ".join(hooks)),
        ("services", ", ".join(service.name for service in manifest.services)),
        ("health", f"{len(manifest.health.checks)} checks, probation {manifest.health.probation_s:g} s"),
        ("signed by", ", ".join(found.metadata) + " (signatures not checked)" if found.metadata else ""),
    ]
    return [(name, one_line(value, 1000)) for name, value in facts if value]


def _content(found: Inspection) -> str:
    manifest = found.manifest
    return (
        f"{len(manifest.files)} files, {len(manifest.links)} links; "
        f"{found.contents} distinct contents of {found.content_size} bytes ({size_text(found.content_size)})"
    )


def _listing(manifest: Manifest) -> list[str]:
    lines = [(file.path, f"{file.mode:04o} {file.size:>12} {file.sha256} {file.path}") for file in manifest.files]
    lines += [(link.path, f"link {'':>12} {'':>64} {link.path} -> {link.target}") for link in manifest.links]
    lines += [(d.path, f"{d.mode:04o} {'':>12} {'':>64} {d.path}/") for d in manifest.directories]
    return [line for _, line in sorted(lines)]


class _Progress:
    """One line on stderr that overwrites itself, at most ten times a second, for builds that take a while."""

    def __init__(self, *, shown: bool) -> None:
        self._shown = shown
        self._next = time.monotonic() + _SHOW_AFTER_S
        self._drawn = False

    def __call__(self, step: str, done: int, total: int) -> None:
        # A step without bytes to count is told at once: it may be long before it is heard of again.
        if not self._shown or (total and time.monotonic() < self._next):
            return
        amount = f" {size_text(done)} of {size_text(total)}" if total else ""
        # Only for terminals (see `shown`), so that nothing needs to be taken out for others.
        click.echo(f"\r\x1b[K{step}{amount}", err=True, nl=False, color=True)
        self._drawn = True
        self._next = time.monotonic() + 0.1

    def clear(self) -> None:
        """Leave an empty line behind."""
        if self._drawn:
            click.echo("\r\x1b[K", err=True, nl=False, color=True)
