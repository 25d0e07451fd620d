"""`flotilla.toml`: what a publisher writes about a package, read once into typed values.

`docs/guides/publishers.md` is its reference for people. What stands in both this file and the manifest has
the manifest's own types, so that a rule is written once.
"""

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from controller.packaging.toml_keys import unknown_key
from schemas.errors import PublisherError, one_line
from schemas.manifest import Argument, Health, HealthCheck, Hooks, Requires, Service
from schemas.names import ANY_PLATFORM, Key, PackageName, Platform, in_words

PROJECT_FILE: Final = "flotilla.toml"
MAX_PROJECT_BYTES: Final = 1024 * 1024

OctalMode = Annotated[str, msgspec.Meta(pattern=r"^0?[0-7]{3}(?!\n)$")]
Pattern = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
RelativePath = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all tables."""


class VersionFrom(Part, frozen=True, kw_only=True):
    """Where the version is looked up when it is not written into `flotilla.toml`.

    Attributes:
        source: `pyproject` (its static `project.version`), `git` (the tag on the commit that is checked out)
            or `file` (a text file that holds nothing else).
        path: of the file, relative to the source folder; `pyproject.toml` or `VERSION` where empty.
        tag_prefix: what stands before the version in git's tags; `v` or nothing where it is not given.
    """

    source: Literal["pyproject", "git", "file"] = msgspec.field(name="from")
    path: RelativePath | None = None
    tag_prefix: Annotated[str, msgspec.Meta(max_length=64)] | None = None


class PackageTable(Part, frozen=True, kw_only=True):
    """`[package]`. Patterns have `.gitignore`'s meaning; `exclude` goes before `include`; later patterns win."""

    name: PackageName
    version: str | VersionFrom | None = None
    description: Annotated[str, msgspec.Meta(max_length=4096)] = ""
    tags: list[Annotated[str, msgspec.Meta(min_length=1, max_length=64)]] = []
    platform: Platform = ANY_PLATFORM
    include: list[Pattern] = []
    exclude: list[Pattern] = []
    modes: dict[Pattern, OctalMode] = {}
    install_path: str | None = None
    state: list[RelativePath] = []
    state_snapshot: bool = False


class RequiredSetting(Part, frozen=True, kw_only=True):
    """A setting without a default: every device must have its own."""

    required: Literal[True]


class TemplateTable(Part, frozen=True, kw_only=True):
    """`[[template]]`."""

    source: RelativePath
    target: RelativePath
    mode: OctalMode = "0640"


class HealthTable(Health, frozen=True, kw_only=True):
    """`[health]`: as in the manifest, but that checks are written as `[[health.check]]`."""

    checks: list[HealthCheck] = msgspec.field(name="check", default_factory=list)


class PythonTable(Part, frozen=True, kw_only=True):
    """`[python]`: dependencies that are put into the package for the target platform.

    Attributes:
        requirements: a requirements file, relative to the source folder.
        version: of the Python on the devices.
        target: the folder of the package that they are put into.
        platforms: further platforms, or other values for the known ones: to uv's `--python-platform`.
    """

    requirements: RelativePath
    version: Annotated[str, msgspec.Meta(pattern=r"^3\.[0-9]{1,2}(?!\n)$")] = "3.11"
    target: RelativePath = "lib"
    platforms: dict[Platform, Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9_-]{1,64}(?!\n)$")]] = {}


class Project(Part, frozen=True, kw_only=True):
    """The whole of `flotilla.toml`."""

    package: PackageTable
    requires: Requires = Requires()
    settings: dict[Key, Argument | int | float | bool | RequiredSetting] = {}
    template: list[TemplateTable] = []
    hooks: Hooks = Hooks()
    service: list[Service] = []
    health: HealthTable = HealthTable()
    python: PythonTable | None = None

    def setting_defaults(self) -> dict[str, str | None]:
        """Every setting's default as text; None for one that devices must set."""
        return {name: _setting_text(value) for name, value in self.settings.items()}


def read_project(source: Path) -> Project:
    """The `flotilla.toml` of a source folder.

    Raises:
        PublisherError: `package.source`, with one line that names the key.
    """
    path = source / PROJECT_FILE
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_PROJECT_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        if not source.exists():
            raise PublisherError("package.source", f"there is no folder {one_line(source)}") from error
        what = f"has no {PROJECT_FILE}" if source.is_dir() else "is no folder"
        advice = f"name the folder that holds {PROJECT_FILE}"
        raise PublisherError("package.source", f"{one_line(source)} {what}; {advice}") from error
    except OSError as error:
        raise PublisherError("package.source", f"{one_line(path)}: cannot be read: {error.strerror}") from error
    if len(raw) > MAX_PROJECT_BYTES:
        raise PublisherError("package.source", f"{PROJECT_FILE} is over {MAX_PROJECT_BYTES} bytes")
    return parse_project(raw)


def parse_project(raw: bytes) -> Project:
    """The typed form of a `flotilla.toml`'s bytes. Raises as `read_project` does."""
    try:
        data = tomllib.loads(raw.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PublisherError("package.source", f"{PROJECT_FILE}: {one_line(error)}") from error
    problem = unknown_key(data, Project)
    if problem:
        raise PublisherError("package.source", f"{PROJECT_FILE}: {problem}")
    _ports_as_text(data)
    try:
        return msgspec.convert(data, Project)
    except msgspec.ValidationError as error:
        raise PublisherError("package.source", f"{PROJECT_FILE}: {_readable(str(error))}") from error


def octal(mode: str) -> int:
    """Permission bits from their text, which the type has checked."""
    return int(mode, 8)


def _setting_text(value: str | float | bool | RequiredSetting) -> str | None:
    if isinstance(value, RequiredSetting):
        return None
    # TOML's own spelling of true and false, which is also JSON's.
    return str(value).lower() if isinstance(value, bool) else str(value)


def _ports_as_text(data: dict[str, Any]) -> None:
    """Ports may be written as numbers; the manifest has text, because a port may be a placeholder."""
    health = data.get("health")
    checks = health.get("check") if isinstance(health, dict) else None
    for check in checks if isinstance(checks, list) else []:
        if isinstance(check, dict) and type(check.get("port")) is int:
            check["port"] = str(check["port"])


def _readable(message: str) -> str:
    """msgspec's message with the place first and as people write it: `package.name: Expected ...`."""
    found = re.search(r" - at (`key` in )?`\$(.*)`$", message)
    text = in_words(message[: found.start()] if found else message)
    text = re.sub(r"\(\?!\\+n\)", "", text.replace("`", "'"))
    text = text.replace("Object missing required field", "lacks the key")
    where = found[2].replace("[...]", ".*").lstrip(".") if found else ""
    if found and found[1]:
        where = f"a key of {where}"
    return one_line(f"{where}: {text}" if where else text)
