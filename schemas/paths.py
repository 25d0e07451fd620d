"""Which paths a release may hold. Everything that is ever joined to a device's folder passes here first."""

from typing import Final

from schemas.errors import PublisherError, one_line

MAX_PATH_BYTES: Final = 1024
MAX_NAME_BYTES: Final = 255
"""ext4's limit for one name; with `MAX_PATH_BYTES` a release fits below any sane root folder."""


def check_path(path: str, what: str = "path") -> None:
    """Raise `PublisherError` (`package.path`) unless `path` is a plain relative POSIX path inside a release.

    Plain means: no leading slash, no empty, `.` or `..` level, no control character, valid UTF-8.
    """
    problem = path_problem(path)
    if problem:
        raise PublisherError("package.path", f"{what} {one_line(path)!r} {problem}")


def path_problem(path: str) -> str:
    """What is wrong with `path`, or an empty string."""
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        return "is not valid UTF-8"
    if path.startswith("/"):
        return "is absolute; paths in a release are relative to it"
    if size > MAX_PATH_BYTES:
        return f"is longer than {MAX_PATH_BYTES} bytes"
    if any(ord(c) < 32 or ord(c) == 127 for c in path):
        return "has a control character"
    return next(filter(None, map(_level_problem, path.split("/"))), "")


def _level_problem(level: str) -> str:
    if level in ("", "."):
        return "has an empty or '.' level"
    if level == "..":
        return "has a '..' level; it may not lead outside the release"
    if len(level.encode()) > MAX_NAME_BYTES:
        return f"has a level longer than {MAX_NAME_BYTES} bytes"
    return ""


def link_problem(path: str, target: str) -> str:
    """What is wrong with a symbolic link at `path` to `target`, or an empty string.

    A target is relative and may go up only at its start. As no entry lies below a link (see
    `parents_of`), going up from a link's folder stays on real folders, and whatever follows goes
    down only: so no chain of links can leave the release.
    """
    if target.startswith("/"):
        return "points to an absolute path"
    levels = target.split("/")
    ups = 0
    while ups < len(levels) and levels[ups] == "..":
        ups += 1
    if ups > path.count("/"):
        return "points outside the release"
    rest = "/".join(levels[ups:])
    if not rest:
        return "" if ups else "has no target"
    if rest == "." and not ups:
        return ""
    return path_problem(rest)


def parents_of(path: str) -> list[str]:
    """Every folder above `path` inside the release, nearest last: `a/b/c` gives `a`, `a/b`."""
    levels = path.split("/")
    return ["/".join(levels[:depth]) for depth in range(1, len(levels))]


def is_under(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or lies below it."""
    return path == folder or path.startswith(folder + "/")
