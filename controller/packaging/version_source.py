"""Finds a package's version: given by hand, written down, in `pyproject.toml`, in a file, or as git's tag."""

import os
import subprocess
import tomllib
from pathlib import Path
from typing import Final

from controller.packaging.project import PROJECT_FILE, VersionFrom
from schemas.errors import PublisherError, one_line
from schemas.versions import parse

GIT_TIMEOUT_S: Final = 60.0
MAX_VERSION_FILE_BYTES: Final = 1024 * 1024

_OF_ANOTHER_CHECKOUT: Final = (
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_COMMON_DIR",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
)
"""What git sets for its own hooks, out of which a build may be started."""


def find_version(source: Path, written: str | VersionFrom | None, given: str | None = None) -> str:
    """The version to build, checked.

    Args:
        source: the source folder.
        written: `package.version` of its `flotilla.toml`.
        given: what goes before it, from the command line; nothing else is looked up then.

    Raises:
        PublisherError: `version.bad`, or `package.source` where it cannot be found.
    """
    if given is not None:
        return _checked(given, "--version")
    if written is None:
        raise PublisherError(
            "package.source", f"{PROJECT_FILE}: package lacks the key 'version'; write it there or give --version"
        )
    if isinstance(written, str):
        return _checked(written, f"{PROJECT_FILE}: package.version")
    if written.source != "git" and written.tag_prefix is not None:
        raise PublisherError("package.source", f"{PROJECT_FILE}: package.version: only git has a 'tag_prefix'")
    match written.source:
        case "pyproject":
            path = written.path or "pyproject.toml"
            return _checked(_from_pyproject(source / path, path), path)
        case "file":
            path = written.path or "VERSION"
            return _checked(_read(source / path, path).strip(), path)
        case "git":
            if written.path is not None:
                raise PublisherError("package.source", f"{PROJECT_FILE}: package.version: git has no 'path'")
            return _from_git(source, written.tag_prefix)


def _checked(text: str, where: str) -> str:
    try:
        parse(text)
    except PublisherError as error:
        raise PublisherError(error.code, f"{where}: {error.message}") from error
    return text


def _read(path: Path, name: str) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_VERSION_FILE_BYTES + 1)
        if len(raw) > MAX_VERSION_FILE_BYTES:
            raise PublisherError("package.source", f"{one_line(name)}: over {MAX_VERSION_FILE_BYTES} bytes")
        return raw.decode()
    except OSError as error:
        raise PublisherError(
            "package.source", f"{one_line(name)}, which should hold the version, cannot be read: {error.strerror}"
        ) from error
    except UnicodeDecodeError as error:
        raise PublisherError("package.source", f"{one_line(name)} is not UTF-8 text") from error


def _from_pyproject(path: Path, name: str) -> str:
    try:
        data = tomllib.loads(_read(path, name))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise PublisherError("package.source", f"{one_line(name)}: {one_line(error)}") from error
    project = data.get("project")
    version = project.get("version") if isinstance(project, dict) else None
    if not isinstance(version, str):
        raise PublisherError(
            "package.source",
            f"{one_line(name)} has no static project.version; write the version into {PROJECT_FILE} or give --version",
        )
    return version


def _from_git(source: Path, prefix: str | None) -> str:
    """The version that the tag on the checked-out commit names; uncommitted changes in `source` are refused."""
    if _git(source, "status", "--porcelain", "--untracked-files=normal", "--", ".", ":(exclude,glob)**/*.flotilla"):
        raise PublisherError(
            "package.source",
            f"{one_line(source)} has changes that are not committed, so that no tag names what would be built; "
            "commit them, or give --version",
        )
    # Not `describe --exact-match`, which picks one of several tags by rules of its own.
    tags = _git(source, "tag", "--points-at", "HEAD").split()
    versions = sorted({version for tag in tags if (version := _version_of_tag(tag, prefix)) is not None})
    if len(versions) == 1:
        return versions[0]
    wanted = f"{'v' if prefix is None else prefix}1.4.0"
    if not versions:
        found = f" (it has {one_line(', '.join(tags), 80)})" if tags else ""
        raise PublisherError(
            "package.source",
            f"the commit that is checked out has no tag that names a version{found}; "
            f"set one such as {one_line(wanted)!r}, or give --version",
        )
    raise PublisherError(
        "package.source",
        f"the commit that is checked out has tags for several versions: {one_line(', '.join(versions), 120)}; "
        "leave one, or give --version",
    )


def _version_of_tag(tag: str, prefix: str | None) -> str | None:
    text = tag.removeprefix("v") if prefix is None else tag.removeprefix(prefix)
    if prefix is not None and not tag.startswith(prefix):
        return None
    try:
        parse(text)
    except PublisherError:
        return None
    return text


def _git(source: Path, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in _OF_ANOTHER_CHECKOUT}
    try:
        result = subprocess.run(
            ["git", "-C", os.fspath(source), *arguments],
            env={**environment, "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=GIT_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError as error:
        raise PublisherError("package.source", "git is not installed, but package.version asks for its tag") from error
    except subprocess.TimeoutExpired as error:
        raise PublisherError("package.source", f"git {arguments[0]} took over {GIT_TIMEOUT_S:.0f} s") from error
    if result.returncode:
        message = result.stderr.decode(errors="replace")
        raise PublisherError("package.source", f"git {arguments[0]} failed: {one_line(message)}")
    return result.stdout.decode(errors="replace")
