"""What can be said at build time about templates, commands and addresses, so that no device has to say it."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from schemas.errors import PublisherError, one_line
from schemas.manifest import CommandCheck, HttpCheck, Manifest, TcpCheck
from schemas.paths import is_under, parents_of
from schemas.templates import placeholders

MAX_TEMPLATE_BYTES: Final = 1024 * 1024

KNOWN_VALUES: Final = (
    "device.id",
    "package.name",
    "package.version",
    "package.platform",
    "path.current",
    "path.state",
)
"""Placeholders that every device has a value for; besides there are `facts.`, `tags.` and `settings.` of any name."""


def check_project(manifest: Manifest, read_file: Callable[[str], bytes]) -> None:
    """Check everything that a device would fill in or run.

    Args:
        manifest: the release to be.
        read_file: the content of one of its files by path, at most `MAX_TEMPLATE_BYTES` + 1 bytes of it.

    Raises:
        PublisherError: `package.source` for a file that is not there, `manifest.bad` for a placeholder.
    """
    _check_templates(manifest, read_file)
    for where, text in _filled_texts(manifest):
        _check_placeholders(text, f"flotilla.toml: {where}", manifest)
    tree = _Programs(manifest)
    for where, command, is_filled in _commands(manifest):
        tree.check(command[0], f"flotilla.toml: {where}", is_filled)


def _check_templates(manifest: Manifest, read_file: Callable[[str], bytes]) -> None:
    files = {file.path for file in manifest.files}
    for template in manifest.templates:
        name = one_line(template.source)
        if template.source not in files:
            raise PublisherError(
                "package.source", f"flotilla.toml: template: source {name!r} is not among the files of the package"
            )
        if any(is_under(template.source, state) for state in manifest.state):
            raise PublisherError(
                "package.source",
                f"flotilla.toml: template: source {name!r} lies in a state path, which changes on the device; move it",
            )
        raw = read_file(template.source)
        if len(raw) > MAX_TEMPLATE_BYTES:
            raise PublisherError("package.limit", f"template {name!r} is over {MAX_TEMPLATE_BYTES} bytes")
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            raise PublisherError(
                "package.source", f"template {name!r} is not UTF-8 text (byte {error.start})"
            ) from error
        _check_placeholders(text, f"template {name!r}", manifest)


def _check_placeholders(text: str, where: str, manifest: Manifest) -> None:
    for name in placeholders(text, where):
        scope, _, rest = name.partition(".")
        if scope == "settings" and rest not in manifest.settings:
            raise PublisherError(
                "manifest.bad",
                f"{where}: ${{{one_line(name)}}} is used, but [settings] in flotilla.toml does not declare it",
            )
        if scope in {"device", "package", "path"} and name not in KNOWN_VALUES:
            raise PublisherError(
                "manifest.bad",
                f"{where}: unknown placeholder ${{{one_line(name)}}}; there are {', '.join(KNOWN_VALUES)}",
            )


def _filled_texts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Each text in which devices fill in placeholders, with what it is."""
    for service in manifest.services:
        where = f"service {service.name!r}"
        yield from ((f"{where}: command", argument) for argument in service.command or ())
        yield from ((f"{where}: environment.{name}", value) for name, value in service.environment.items())
    for index, check in enumerate(manifest.health.checks):
        where = f"health.check[{index}]"
        match check:
            case CommandCheck():
                yield from ((f"{where}.command", argument) for argument in check.command)
            case HttpCheck():
                yield f"{where}.url", check.url
            case TcpCheck():
                yield f"{where}.host", check.host
                yield f"{where}.port", check.port


def _commands(manifest: Manifest) -> Iterator[tuple[str, Sequence[str], bool]]:
    """Each command, with what it is and whether placeholders are filled in."""
    for name in manifest.hooks.__struct_fields__:
        hook = getattr(manifest.hooks, name)
        if hook is not None:
            yield f"hooks.{name}", hook.command, False
    for service in manifest.services:
        if service.command is not None:
            yield f"service {service.name!r}", service.command, True
    for index, check in enumerate(manifest.health.checks):
        if isinstance(check, CommandCheck):
            yield f"health.check[{index}]", check.command, True


class _Programs:
    """The files of a release that commands may begin with."""

    def __init__(self, manifest: Manifest) -> None:
        self._modes = {file.path: file.mode for file in manifest.files}
        self._modes.update((template.target, template.mode) for template in manifest.templates)
        self._links = {link.path for link in manifest.links}
        self._state = manifest.state

    def check(self, program: str, where: str, is_filled: bool) -> None:
        """Whether `program` is there and executable, as far as can be told here: not below links or in state."""
        if "/" not in program or program.startswith("/") or (is_filled and "$" in program):
            return
        path = "/".join(level for level in program.split("/") if level not in ("", "."))
        name = one_line(program)
        if ".." in path.split("/"):
            raise PublisherError("package.path", f"{where}: {name!r} leads outside the release")
        if any(is_under(path, state) for state in self._state):
            return
        if any(step in self._links for step in (*parents_of(path), path)):
            return
        mode = self._modes.get(path)
        if mode is None:
            raise PublisherError("package.source", f"{where}: {name!r} is not among the files of the package")
        if not mode & 0o111:
            raise PublisherError(
                "package.source", f'{where}: {name!r} is not executable; chmod it, or set modes."{path}" = "0755"'
            )
