"""Which files of a folder go into a package, with which modes. The same tree gives the same result everywhere."""

import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pathspec import GitIgnoreSpec

from controller.packaging.tar import MAX_MEMBER_BYTES
from schemas.errors import PublisherError, one_line
from schemas.manifest import MAX_ENTRIES, DirectoryEntry, LinkEntry
from schemas.paths import link_problem, path_problem

DEFAULT_EXCLUDES: Final = (
    ".git",
    ".hg/",
    ".svn/",
    "/flotilla.toml",
    "*.flotilla",
    ".*.flotilla.*.part",
    "__pycache__/",
    ".venv/",
    ".tox/",
    ".nox/",
    ".mypy_cache/",
    ".pytest_cache/",
    ".ruff_cache/",
    ".DS_Store",
)
"""Left out unless an `exclude` pattern that begins with `!` brings them back."""

MAX_DEPTH: Final = 100
"""Folders above a file; keeps the way down well within Python's stack."""


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A regular file to pack: its path in the package, where it lies, its permission bits and its size in bytes."""

    path: str
    source: Path
    mode: int
    size: int


@dataclass(frozen=True, slots=True)
class Tree:
    """What goes into a package, each list sorted by path."""

    files: list[FoundFile] = field(default_factory=list)
    links: list[LinkEntry] = field(default_factory=list)
    directories: list[DirectoryEntry] = field(default_factory=list)


class TreeRules:
    """`include`, `exclude` and `modes` of a `flotilla.toml`, ready to be asked.

    Args:
        include: patterns of what is taken; everything where empty.
        exclude: patterns of what is left out all the same, after `DEFAULT_EXCLUDES`.
        modes: patterns to permission bits; later ones win. A pattern that ends with a slash is for folders,
            any other for files.

    Raises:
        PublisherError: `package.source`, for a pattern that cannot be read.
    """

    def __init__(self, include: Iterable[str] = (), exclude: Iterable[str] = (), modes: Mapping[str, int] = {}) -> None:
        include = list(include)
        self._include = _patterns(include, "include") if include else None
        self._exclude = _patterns([*DEFAULT_EXCLUDES, *exclude], "exclude")
        self._modes = [(text, _patterns([text], "modes"), mode) for text, mode in modes.items()]
        self._used: set[str] = set()

    def takes(self, path: str) -> bool:
        """Whether a file or link, or an empty folder whose path ends with a slash, goes in."""
        return self._include is None or self._include.match_file(path)

    def excludes(self, path: str) -> bool:
        """Whether `path` stays out, with all below it where it is a folder (then it ends with a slash)."""
        return self._exclude.match_file(path)

    def mode(self, path: str, default: int) -> int:
        """Permission bits of a file, or of a folder whose path ends with a slash."""
        for text, spec, mode in self._modes:
            if text.endswith("/") == path.endswith("/") and spec.match_file(path):
                self._used.add(text)
                default = mode
        return default

    def check_used(self) -> None:
        """Raise `PublisherError` where a pattern of `modes` has fitted nothing: it is misspelt or out of date."""
        for text, _, _ in self._modes:
            if text not in self._used:
                kind = "folder" if text.endswith("/") else "file"
                raise PublisherError(
                    "package.source", f"flotilla.toml: package.modes: {one_line(text)!r} fits no {kind} of the package"
                )


def scan(root: Path, rules: TreeRules, *, below: str = "", takes_all: bool = False) -> Tree:
    """Find what goes into the package.

    Modes are made the same everywhere, as git does: 0755 for a file that anyone may execute, else 0644; then `modes`.
    Folders that are empty are kept; those that hold something need no entry of their own, and those that hold
    only what is left out are left out too.

    Args:
        root: the folder to go through.
        below: the package's folder that `root` becomes; its top where empty. Patterns see the whole path.
        takes_all: leave `include` aside.

    Raises:
        PublisherError: `package.source` for what cannot be read or packed, `package.path` for a path or link that
            a package cannot have, `package.limit` for too much.
    """
    tree = Tree()
    _Scan(rules, tree, takes_all).folder(root, below)
    tree.files.sort(key=lambda file: file.path)
    tree.links.sort(key=lambda link: link.path)
    tree.directories.sort(key=lambda directory: directory.path)
    return tree


class _Scan:
    def __init__(self, rules: TreeRules, tree: Tree, takes_all: bool) -> None:
        self._rules = rules
        self._tree = tree
        self._takes_all = takes_all

    def folder(self, folder: Path, path: str) -> tuple[bool, bool]:
        """Take in a folder; whether anything in it was taken, and whether it is empty."""
        taken = False
        try:
            with os.scandir(folder) as entries:
                names = sorted(entry.name for entry in entries)
        except OSError as error:
            raise _unreadable(path or folder, error) from error
        for name in names:
            taken |= self._entry(folder / name, f"{path}/{name}" if path else name)
        return taken, not names

    def _entry(self, where: Path, path: str) -> bool:
        try:
            status = where.lstat()
        except OSError as error:
            raise _unreadable(path, error) from error
        is_folder = stat.S_ISDIR(status.st_mode)
        if self._rules.excludes(f"{path}/" if is_folder else path):
            return False
        problem = path_problem(path)
        if not problem and path.count("/") > MAX_DEPTH:
            problem = f"is over {MAX_DEPTH} folders deep"
        if problem:
            raise PublisherError("package.path", f"path {one_line(path)!r} {problem}; rename it, or exclude it")
        if is_folder:
            return self._folder_entry(where, path)
        if not self._takes_all and not self._rules.takes(path):
            return False
        if stat.S_ISLNK(status.st_mode):
            self._link(where, path)
        elif stat.S_ISREG(status.st_mode):
            self._file(where, path, status)
        else:
            raise PublisherError(
                "package.source",
                f"{one_line(path)!r} is {_special(status.st_mode)}; a package holds files, links and folders only",
            )
        self._check_count()
        return True

    def _folder_entry(self, where: Path, path: str) -> bool:
        taken, empty = self.folder(where, path)
        empty = empty and (self._takes_all or self._rules.takes(f"{path}/"))
        if not taken and not empty:
            return False
        mode = self._rules.mode(f"{path}/", 0o755)
        if empty or mode != 0o755:
            self._tree.directories.append(DirectoryEntry(path=path, mode=mode))
            self._check_count()
        return True

    def _link(self, where: Path, path: str) -> None:
        try:
            text = str(where.readlink())
        except OSError as error:
            raise _unreadable(path, error) from error
        levels = [level for level in text.split("/") if level not in ("", ".")]
        target = text if text.startswith("/") else "/".join(levels) or "."
        problem = link_problem(path, target)
        if problem:
            raise PublisherError(
                "package.path",
                f"link {one_line(path)!r} to {one_line(target)!r} {problem}; make it relative, or exclude it",
            )
        self._tree.links.append(LinkEntry(path=path, target=target))

    def _file(self, where: Path, path: str, status: os.stat_result) -> None:
        if status.st_size > MAX_MEMBER_BYTES:
            raise PublisherError(
                "package.limit", f"{one_line(path)!r} has {status.st_size} bytes; the most is {MAX_MEMBER_BYTES}"
            )
        mode = self._rules.mode(path, 0o755 if status.st_mode & 0o111 else 0o644)
        self._tree.files.append(FoundFile(path=path, source=where, mode=mode, size=status.st_size))

    def _check_count(self) -> None:
        count = len(self._tree.files) + len(self._tree.links) + len(self._tree.directories)
        if count > MAX_ENTRIES:
            raise PublisherError("package.limit", f"over {MAX_ENTRIES} files, links and folders; split the package")


def _patterns(texts: Iterable[str], key: str) -> GitIgnoreSpec:
    texts = list(texts)
    for text in texts:
        try:
            spec = GitIgnoreSpec.from_lines([text])
        except ValueError as error:
            raise _bad_pattern(text, key) from error
        # What git takes for a comment, an empty line or a broken pattern fits nothing; nobody writes that on purpose.
        if not any(pattern.include is not None for pattern in spec.patterns):
            raise _bad_pattern(text, key)
    # `x/**` means all below `x` and not `x` itself, but the library lets it fit `x/` too.
    return GitIgnoreSpec.from_lines(f"{text}/*" if text.endswith("/**") else text for text in texts)


def _bad_pattern(text: str, key: str) -> PublisherError:
    return PublisherError(
        "package.source", f"flotilla.toml: package.{key}: {one_line(text)!r} is not a pattern as in .gitignore"
    )


def _unreadable(path: Path | str, error: OSError) -> PublisherError:
    return PublisherError("package.source", f"{one_line(path)!r} cannot be read: {error.strerror}")


def _special(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a pipe"
    if stat.S_ISSOCK(mode):
        return "a socket"
    return "a device"
