"""Which files go in, with which modes and links, and what is refused."""

import os
import re
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from controller.packaging.source_tree import MAX_DEPTH, Tree, TreeRules, scan
from schemas.errors import PublisherError
from tests.support.packages import write_file


def tree_of(
    root: Path, *, include: Iterable[str] = (), exclude: Iterable[str] = (), modes: Mapping[str, int] | None = None
) -> Tree:
    rules = TreeRules(include, exclude, modes or {})
    tree = scan(root, rules)
    rules.check_used()
    return tree


def paths(root: Path, *, include: Iterable[str] = (), exclude: Iterable[str] = ()) -> list[str]:
    tree = tree_of(root, include=include, exclude=exclude)
    return [file.path for file in tree.files] + [f"{folder.path}/" for folder in tree.directories]


def fill(root: Path, *names: str) -> None:
    for name in names:
        if name.endswith("/"):
            (root / name).mkdir(parents=True)
        else:
            write_file(root / name, name)


def test_what_nobody_wants_on_a_device_is_left_out(tmp_path: Path) -> None:
    junk = [".git/config", "a/.git", "__pycache__/x.pyc", "a/__pycache__/x.pyc", ".venv/bin/python", "old.flotilla"]
    fill(tmp_path, "app.py", "a/b.py", "flotilla.toml", "a/flotilla.toml", ".tox/x", ".hidden", *junk)
    assert paths(tmp_path) == [".hidden", "a/b.py", "a/flotilla.toml", "app.py"]


def test_a_default_exclude_can_be_taken_back(tmp_path: Path) -> None:
    fill(tmp_path, "app.py", "__pycache__/app.pyc")
    assert paths(tmp_path, exclude=["!__pycache__/"]) == ["__pycache__/app.pyc", "app.py"]


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        ([], ["*.log"], ["a/b.txt", "a/c/d.txt", "a.txt"]),
        ([], ["/*.txt"], ["a/b.txt", "a/c/d.txt", "x.log"]),
        ([], ["a/"], ["a.txt", "x.log"]),
        ([], ["a/*", "!a/c/"], ["a.txt", "a/c/d.txt", "x.log"]),
        ([], ["a/", "!a/b.txt"], ["a.txt", "x.log"]),
        ([], ["a/**", "!a/b.txt"], ["a.txt", "a/b.txt", "x.log"]),
        ([], ["*", "!*.log"], ["x.log"]),
        (["a/"], [], ["a/b.txt", "a/c/d.txt"]),
        (["*.txt"], ["c/"], ["a.txt", "a/b.txt"]),
        (["a/**/*.txt"], [], ["a/b.txt", "a/c/d.txt"]),
        (["*", "!*.txt"], [], ["x.log"]),
    ],
)
def test_patterns_mean_what_they_mean_to_git(
    tmp_path: Path, include: list[str], exclude: list[str], expected: list[str]
) -> None:
    fill(tmp_path, "a.txt", "x.log", "a/b.txt", "a/c/d.txt")
    assert sorted(paths(tmp_path, include=include, exclude=exclude)) == sorted(expected)


@pytest.mark.parametrize("pattern", ["!", "# note", " ", "foo["])
@pytest.mark.parametrize("key", ["include", "exclude"])
def test_a_pattern_that_can_fit_nothing_is_refused(tmp_path: Path, key: str, pattern: str) -> None:
    with pytest.raises(PublisherError, match=rf"package\.{key}: .* is not a pattern as in \.gitignore"):
        TreeRules(**{key: [pattern]})  # type: ignore[arg-type]  # which of both is the parameter's


def test_empty_folders_are_kept_and_full_ones_are_implied(tmp_path: Path) -> None:
    fill(tmp_path, "empty/", "a/b/", "full/x", "only-junk/__pycache__/x.pyc")
    assert paths(tmp_path) == ["full/x", "a/b/", "empty/"]
    assert paths(tmp_path, include=["full/", "empty/"]) == ["full/x", "empty/"]


def test_modes_are_made_the_same_everywhere(tmp_path: Path) -> None:
    for name, mode in {"a": 0o600, "b": 0o666, "c": 0o700, "d": 0o775, "e": 0o645}.items():
        write_file(tmp_path / name, "").chmod(mode)
    assert [file.mode for file in tree_of(tmp_path).files] == [0o644, 0o644, 0o755, 0o755, 0o755]


def test_modes_can_be_set_for_files_and_for_folders(tmp_path: Path) -> None:
    fill(tmp_path, "bin/run", "bin/notes.txt", "keys/private", "keys/deep/x")
    tree = tree_of(tmp_path, modes={"bin/*": 0o755, "*.txt": 0o600, "keys/": 0o700})
    assert {file.path: file.mode for file in tree.files} == {
        "bin/run": 0o755,
        "bin/notes.txt": 0o600,
        "keys/private": 0o644,
        "keys/deep/x": 0o644,
    }
    assert {folder.path: folder.mode for folder in tree.directories} == {"keys": 0o700, "keys/deep": 0o700}


@pytest.mark.parametrize(("pattern", "kind"), [("bim/*", "file"), ("bin/run/", "folder")])
def test_a_mode_that_fits_nothing_is_refused(tmp_path: Path, pattern: str, kind: str) -> None:
    fill(tmp_path, "bin/run")
    with pytest.raises(PublisherError, match=f"package.modes: '{re.escape(pattern)}' fits no {kind} of the package"):
        tree_of(tmp_path, modes={pattern: 0o755})


@pytest.mark.parametrize(
    ("target", "kept"),
    [("file", "file"), ("./sub//file", "sub/file"), ("nowhere", "nowhere"), ("sub/", "sub"), (".", ".")],
)
def test_links_are_kept(tmp_path: Path, target: str, kept: str) -> None:
    fill(tmp_path, "file", "sub/file")
    (tmp_path / "link").symlink_to(target)
    (tmp_path / "sub" / "up").symlink_to("../file")
    assert {link.path: link.target for link in tree_of(tmp_path).links} == {"link": kept, "sub/up": "../file"}
    assert [file.path for file in tree_of(tmp_path).files] == ["file", "sub/file"]


@pytest.mark.parametrize(
    ("path", "target"),
    [("link", "/etc/passwd"), ("link", "../outside"), ("sub/link", "../../outside"), ("link", "sub/../../outside")],
)
def test_a_link_that_leads_outside_is_refused_unless_it_is_excluded(tmp_path: Path, path: str, target: str) -> None:
    fill(tmp_path, "sub/file")
    (tmp_path / path).symlink_to(target)
    with pytest.raises(PublisherError, match=f"link '{path}' to '.*outside|passwd' ") as caught:
        tree_of(tmp_path)
    assert caught.value.code == "package.path"
    assert paths(tmp_path, exclude=["link"]) == ["sub/file"]


def test_a_linked_folder_is_a_link_and_not_gone_into(tmp_path: Path) -> None:
    fill(tmp_path, "real/file")
    (tmp_path / "loop").symlink_to(".")
    tree = tree_of(tmp_path)
    assert [file.path for file in tree.files] == ["real/file"]
    assert [link.path for link in tree.links] == ["loop"]


def test_special_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PublisherError, match=r"'pipe' is a pipe; a package holds files, links and folders only"):
        tree_of(tmp_path)
    (tmp_path / "pipe").unlink()
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("sock")
        with pytest.raises(PublisherError, match="'sock' is a socket"):
            tree_of(tmp_path)
    assert paths(tmp_path, exclude=["sock"]) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (b"new\nline", "has a control character"),
        (b"caf\xe9", "is not valid UTF-8"),
    ],
)
def test_names_that_no_device_could_take_are_refused(tmp_path: Path, name: bytes, message: str) -> None:
    try:
        (tmp_path / os.fsdecode(name)).touch()
    except OSError:
        pytest.skip("this file system has no such names")
    with pytest.raises(PublisherError, match=message) as caught:
        tree_of(tmp_path)
    assert caught.value.code == "package.path"
    assert caught.value.message.isprintable()


def test_folders_too_deep_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, "a/" * (MAX_DEPTH + 5) + "x")
    with pytest.raises(PublisherError, match=f"is over {MAX_DEPTH} folders deep"):
        tree_of(tmp_path)


def test_too_many_files_and_too_large_ones_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "a", "b", "c")
    monkeypatch.setattr("controller.packaging.source_tree.MAX_ENTRIES", 2)
    with pytest.raises(PublisherError, match="over 2 files, links and folders; split the package") as caught:
        tree_of(tmp_path)
    assert caught.value.code == "package.limit"
    os.truncate(tmp_path / "a", 8 * 1024**3)
    with pytest.raises(PublisherError, match="'a' has 8589934592 bytes; the most is 8589934591"):
        tree_of(tmp_path)


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "locked/x")
    real = os.scandir

    def guarded(path: Path) -> object:
        # not by its mode, because root reads everything
        if path.name == "locked":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(PublisherError, match="'locked' cannot be read: Permission denied"):
        tree_of(tmp_path)
