"""The manifest: the whole truth about a release. It is signed as a TUF target; its sha256 names the release.

Plain manifests are deterministic JSON (sorted keys, no spaces, lists sorted by path), so that the same
content has the same hash on every machine. `decode_manifest` is the only way in: it checks form, limits
and every path, and gives typed values.
"""

from collections import Counter
from typing import Annotated, Final, Literal

import msgspec

from schemas.errors import PublisherError, one_line
from schemas.layout import MAX_FILE_BYTES, MAX_MANIFEST_BYTES, MAX_TARGET_NAME, target_name
from schemas.names import Key, PackageName, Platform, ServiceName, Sha256, VersionText
from schemas.paths import check_path, is_under, link_problem, parents_of
from schemas.ranges import Range
from schemas.versions import parse

MANIFEST_FORMAT: Final = 1
MAX_ENTRIES: Final = 400_000

Path = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
Mode = Annotated[int, msgspec.Meta(ge=0, le=0o777)]
Limit = Annotated[float, msgspec.Meta(gt=0, le=3600)]
Argument = Annotated[str, msgspec.Meta(max_length=4096)]
Arguments = Annotated[list[Argument], msgspec.Meta(min_length=1, max_length=128)]
Status = Annotated[int, msgspec.Meta(ge=100, le=599)]
RangeText = Annotated[str, msgspec.Meta(max_length=512)]


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of all parts. A manifest is signed and versioned, so a field that is not known is an error."""


class FileEntry(Part, frozen=True, kw_only=True):
    """A regular file. `mode` is the permission bits; devices leave out the write bits."""

    path: Path
    size: Annotated[int, msgspec.Meta(ge=0, le=MAX_FILE_BYTES)]
    sha256: Sha256
    mode: Mode = 0o644


class LinkEntry(Part, frozen=True, kw_only=True):
    """A symbolic link; `target` is relative and stays inside the release."""

    path: Path
    target: Path


class DirectoryEntry(Part, frozen=True, kw_only=True):
    """A folder that must exist though it may be empty, or whose mode is not 0755."""

    path: Path
    mode: Mode = 0o755


class Template(Part, frozen=True, kw_only=True):
    """A configuration file that the device makes from `source` (a file of the release) by filling in placeholders."""

    source: Path
    target: Path
    mode: Mode = 0o640


class Hook(Part, frozen=True, kw_only=True):
    """A command run in the release's folder. A relative first argument with a slash is looked up there."""

    command: Arguments
    timeout_s: Limit = 60


class ReadyHook(Hook, frozen=True, kw_only=True):
    """Asks the release that runs whether it may be replaced now: exit status 0 is yes, any other is 'not now'.

    Attributes:
        interval_s: time between two questions while the answer is 'not now'.
        longest_postponement_s: after this the switch is made whatever the answer; counted from the first question.
    """

    interval_s: Annotated[float, msgspec.Meta(ge=1, le=3600)] = 60
    longest_postponement_s: Annotated[float, msgspec.Meta(ge=0, le=86_400 * 30)] = 86_400


class Hooks(Part, frozen=True, kw_only=True):
    """Commands around the switch.

    `pre_switch` runs in the new release before anything is stopped; `post_switch` in it after the switch and
    before services start; `pre_rollback` in the release that is left; `post_rollback` in the one gone back to.
    `ready` is asked of the release that runs, before anything is changed for another one.
    `migrate_up` and `migrate_down` change templates and state, with services stopped: of two releases it is always
    the newer one that does it, up when it is come to and down when it is left.
    """

    pre_switch: Hook | None = None
    post_switch: Hook | None = None
    pre_rollback: Hook | None = None
    post_rollback: Hook | None = None
    ready: ReadyHook | None = None
    migrate_up: Hook | None = None
    migrate_down: Hook | None = None


class Service(Part, frozen=True, kw_only=True):
    """What runs: an existing systemd `unit`, or a `command` that the agent keeps running. Exactly one of both.

    Attributes:
        name: unique in the package.
        unit: an existing unit, e.g. `lighttpd.service`; it is restarted after a switch.
        command: arguments, placeholders allowed; run in the `current` folder.
        environment: added to the service's environment, placeholders allowed.
        user: account it runs as; the agent's own where empty.
        restart: when a process that ended is started again.
        stop_timeout_s: time between SIGTERM and SIGKILL.
    """

    name: ServiceName
    unit: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9:_.@-]{1,255}(?!\n)$")] | None = None
    command: Arguments | None = None
    environment: Annotated[dict[Key, Argument], msgspec.Meta(max_length=128)] = {}
    user: Annotated[str, msgspec.Meta(pattern=r"^[a-z_][a-z0-9_-]{0,31}(?!\n)$")] | None = None
    restart: Literal["always", "on-failure", "never"] = "always"
    stop_timeout_s: Limit = 10


class CommandCheck(Part, frozen=True, kw_only=True, tag="command", tag_field="type"):
    """Healthy when the command exits with 0. Placeholders allowed."""

    command: Arguments
    timeout_s: Limit = 10


class HttpCheck(Part, frozen=True, kw_only=True, tag="http", tag_field="type"):
    """Healthy when a GET answers with one of `status` and, where given, a body that holds `contains`."""

    url: Annotated[str, msgspec.Meta(pattern=r"^https?://", max_length=2048)]
    status: Annotated[tuple[Status, ...], msgspec.Meta(min_length=1, max_length=20)] = (200,)
    contains: Annotated[str, msgspec.Meta(max_length=1024)] | None = None
    timeout_s: Limit = 5


class TcpCheck(Part, frozen=True, kw_only=True, tag="tcp", tag_field="type"):
    """Healthy when a connection to `host`:`port` is accepted. `port` is text, because it may be a placeholder."""

    port: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    host: Annotated[str, msgspec.Meta(min_length=1, max_length=256)] = "127.0.0.1"
    timeout_s: Limit = 5


class SystemdCheck(Part, frozen=True, kw_only=True, tag="systemd", tag_field="type"):
    """Healthy when the unit is active."""

    unit: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9:_.@-]{1,255}(?!\n)$")]
    timeout_s: Limit = 10


HealthCheck = CommandCheck | HttpCheck | TcpCheck | SystemdCheck


class Health(Part, frozen=True, kw_only=True):
    """How a release proves itself.

    Attributes:
        checks: all must pass. Services given as commands must stay up besides.
        start_period_s: failures this soon after the switch do not count; the first pass ends it.
        interval_s: time between two rounds during probation.
        retries: failed rounds in a row that are one too many during probation.
        probation_s: how long the release must stay healthy before it has succeeded.
    """

    checks: Annotated[list[HealthCheck], msgspec.Meta(max_length=32)] = []
    start_period_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 30
    interval_s: Annotated[float, msgspec.Meta(ge=0.1, le=3600)] = 5
    retries: Annotated[int, msgspec.Meta(ge=1, le=100)] = 3
    probation_s: Annotated[float, msgspec.Meta(ge=0, le=86_400 * 7)] = 30


class Requires(Part, frozen=True, kw_only=True):
    """What a device must have.

    Attributes:
        agent: range of agent versions.
        packages: other packages and the ranges of their versions.
        upgrade_from: range of versions that this may be installed over; a first installation is always allowed.
        hardware: shell-style patterns, one of which the fact `model` must match.
    """

    agent: RangeText | None = None
    packages: Annotated[dict[PackageName, RangeText], msgspec.Meta(max_length=64)] = {}
    upgrade_from: RangeText | None = None
    hardware: Annotated[list[Annotated[str, msgspec.Meta(max_length=256)]], msgspec.Meta(max_length=64)] = []


class Manifest(Part, frozen=True, kw_only=True):
    """One package in one version for one platform.

    Attributes:
        install_path: where devices link the current release to, e.g. `/opt/tacho`; an agent may be told otherwise.
        state: paths in the release that survive updates; files packed below them are their first content.
        state_snapshot: whether the package's state is copied before the switch and put back by a rollback.
        settings: names that templates and commands use, with the default; None means the device must set it.
    """

    format: Annotated[int, msgspec.Meta(ge=1)]
    package: PackageName
    version: VersionText
    platform: Platform
    description: Annotated[str, msgspec.Meta(max_length=4096)] = ""
    tags: Annotated[list[Annotated[str, msgspec.Meta(min_length=1, max_length=64)]], msgspec.Meta(max_length=64)] = []
    requires: Requires = Requires()
    install_path: Annotated[str, msgspec.Meta(max_length=1024)] | None = None
    files: Annotated[list[FileEntry], msgspec.Meta(max_length=MAX_ENTRIES)] = []
    links: Annotated[list[LinkEntry], msgspec.Meta(max_length=MAX_ENTRIES)] = []
    directories: Annotated[list[DirectoryEntry], msgspec.Meta(max_length=MAX_ENTRIES)] = []
    state: Annotated[list[Path], msgspec.Meta(max_length=256)] = []
    state_snapshot: bool = False
    templates: Annotated[list[Template], msgspec.Meta(max_length=256)] = []
    settings: Annotated[dict[Key, Argument | None], msgspec.Meta(max_length=256)] = {}
    hooks: Hooks = Hooks()
    services: Annotated[list[Service], msgspec.Meta(max_length=32)] = []
    health: Health = Health()


_encoder = msgspec.json.Encoder(order="sorted")
_decoder = msgspec.json.Decoder(Manifest)


def encode_manifest(manifest: Manifest) -> bytes:
    """The deterministic plain form, whose sha256 names the release. Raises as `check_manifest` does."""
    check_manifest(manifest)
    plain = _encoder.encode(manifest)
    if len(plain) > MAX_MANIFEST_BYTES:
        raise PublisherError(
            "package.limit",
            f"the manifest of {len(plain)} bytes is over {MAX_MANIFEST_BYTES}; split the package",
        )
    return plain


def decode_manifest(plain: bytes) -> Manifest:
    """The manifest in `plain` (verify its signature and hash first).

    Raises:
        PublisherError: `manifest.bad`, `package.limit`, `package.path`, `version.bad` or `version.range`.
    """
    if len(plain) > MAX_MANIFEST_BYTES:
        raise PublisherError("package.limit", f"a manifest of {len(plain)} bytes is over {MAX_MANIFEST_BYTES}")
    try:
        manifest = _decoder.decode(plain)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PublisherError("manifest.bad", f"manifest: {one_line(error)}") from error
    check_manifest(manifest)
    return manifest


def check_manifest(manifest: Manifest) -> None:
    """Raise `PublisherError` unless the manifest keeps every rule that its types cannot say."""
    if manifest.format > MANIFEST_FORMAT:
        raise PublisherError(
            "manifest.bad",
            f"manifest format {manifest.format} is newer than {MANIFEST_FORMAT}; update Flotilla first",
        )
    parse(manifest.version)
    name = target_name(manifest.package, manifest.version, manifest.platform)
    if len(name) > MAX_TARGET_NAME:
        raise PublisherError(
            "package.limit",
            f"name, version and platform make file names too long: {one_line(name, 60)!r} has {len(name)} characters, "
            f"over {MAX_TARGET_NAME}; choose shorter ones",
        )
    for text in (
        manifest.requires.agent,
        manifest.requires.upgrade_from,
        *manifest.requires.packages.values(),
    ):
        if text is not None:
            Range(text)
    _check_tree(manifest)
    _check_parts(manifest)


def _check_tree(manifest: Manifest) -> None:
    leaves = [
        *(entry.path for entry in manifest.files),
        *(entry.path for entry in manifest.links),
        *(template.target for template in manifest.templates),
    ]
    entries = [*leaves, *(entry.path for entry in manifest.directories)]
    for path in (*entries, *manifest.state):
        check_path(path)
    if len(set(entries)) != len(entries):
        twice = next(path for path, count in Counter(entries).items() if count > 1)
        raise PublisherError("manifest.bad", f"path {one_line(twice)!r} stands twice in the manifest")
    not_folders = set(leaves)
    for path in (*entries, *manifest.state):
        for parent in parents_of(path):
            if parent in not_folders:
                raise PublisherError(
                    "package.path", f"path {one_line(path)!r} lies below {one_line(parent)!r}, which is not a folder"
                )
    for link in manifest.links:
        problem = link_problem(link.path, link.target)
        if problem:
            raise PublisherError("package.path", f"link {one_line(link.path)!r} to {one_line(link.target)!r} {problem}")
    _check_state(manifest)


def _check_state(manifest: Manifest) -> None:
    for path in manifest.state:
        for other in manifest.state:
            if path is not other and is_under(path, other):
                raise PublisherError(
                    "manifest.bad", f"state path {one_line(path)!r} lies in state path {one_line(other)!r}"
                )
        for link in manifest.links:
            if is_under(link.path, path):
                raise PublisherError(
                    "manifest.bad",
                    f"link {one_line(link.path)!r} lies in state path {one_line(path)!r}; "
                    "state begins with plain files only",
                )
        for template in manifest.templates:
            if is_under(template.target, path):
                raise PublisherError(
                    "manifest.bad",
                    f"template {one_line(template.target)!r} would be written into state path {one_line(path)!r}",
                )


def _check_parts(manifest: Manifest) -> None:
    files = {e.path for e in manifest.files}
    for template in manifest.templates:
        if template.source not in files:
            raise PublisherError(
                "manifest.bad", f"template source {one_line(template.source)!r} is not a file of the release"
            )
    names = [s.name for s in manifest.services]
    if len(set(names)) != len(names):
        raise PublisherError("manifest.bad", f"two services have the same name: {', '.join(sorted(names))}")
    for service in manifest.services:
        if (service.unit is None) == (service.command is None):
            raise PublisherError("manifest.bad", f"service {service.name!r} needs either a unit or a command")
    path = manifest.install_path
    if path is not None and (
        not path.startswith("/")
        or not path.isprintable()
        or {"", ".", ".."} & set(path.removesuffix("/").removeprefix("/").split("/"))
    ):
        raise PublisherError("manifest.bad", f"install_path {one_line(path)!r} is not a plain absolute path")
    _check_commands(manifest)


def _check_commands(manifest: Manifest) -> None:
    """No system can hand a NUL to a process."""
    hooks: list[Hook | None] = [getattr(manifest.hooks, name) for name in manifest.hooks.__struct_fields__]
    commands = [
        *(hook.command for hook in hooks if hook is not None),
        *(service.command or () for service in manifest.services),
        *(service.environment.values() for service in manifest.services),
        *(check.command for check in manifest.health.checks if isinstance(check, CommandCheck)),
    ]
    for argument in (argument for command in commands for argument in command):
        if "\0" in argument:
            raise PublisherError("manifest.bad", f"argument {one_line(argument, 60)!r} has a NUL character")


def total_size(manifest: Manifest) -> int:
    """Bytes of all distinct contents, as they lie on the disk."""
    return sum({f.sha256: f.size for f in manifest.files}.values())
