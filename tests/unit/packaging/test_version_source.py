"""Where a package's version comes from."""

import os
import subprocess
from pathlib import Path

import pytest

from controller.packaging import version_source
from controller.packaging.project import VersionFrom
from controller.packaging.version_source import find_version
from schemas.errors import PublisherError
from tests.support.packages import write_file


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git checkout with one commit, whatever the tester's own git is set to."""
    for name, value in {
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "checkout"
    write_file(folder / "app.py", "print()\n")
    git(folder, "init", "-q")
    git(folder, "config", "user.name", "Tester")
    git(folder, "config", "user.email", "tester@example.org")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "Begin")
    return folder


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(folder), *arguments], check=True, timeout=60, capture_output=True)


GIT = VersionFrom(source="git")


def test_what_is_given_goes_before_everything(tmp_path: Path) -> None:
    assert find_version(tmp_path, VersionFrom(source="file", path="missing"), "2.0.0-rc.1") == "2.0.0-rc.1"
    assert find_version(tmp_path, None, "2.0.0") == "2.0.0"


@pytest.mark.parametrize(
    ("written", "given", "message"),
    [
        ("1.0", None, "flotilla.toml: package.version: '1.0' is not a SemVer 2.0.0 version: write all three numbers"),
        ("v1.0.0", None, "leave out the leading 'v'"),
        ("1.0.0", "one", "--version: 'one' is not a SemVer 2.0.0 version"),
        ("1.0.0", "", "--version: '' is not a SemVer 2.0.0 version"),
    ],
)
def test_a_bad_version_is_one_line(tmp_path: Path, written: str, given: str | None, message: str) -> None:
    with pytest.raises(PublisherError) as caught:
        find_version(tmp_path, written, given)
    assert caught.value.code == "version.bad"
    assert message in caught.value.message


def test_no_version_at_all_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(PublisherError, match=r"lacks the key 'version'; write it there or give --version"):
        find_version(tmp_path, None)


def test_the_version_of_pyproject_toml(tmp_path: Path) -> None:
    write_file(tmp_path / "pyproject.toml", '[project]\nname = "x"\nversion = "1.2.3"\n')
    write_file(tmp_path / "app" / "here", "")
    assert find_version(tmp_path, VersionFrom(source="pyproject")) == "1.2.3"
    assert find_version(tmp_path / "app", VersionFrom(source="pyproject", path="../pyproject.toml")) == "1.2.3"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "pyproject.toml, which should hold the version, cannot be read: No such file or directory"),
        ('[project]\ndynamic = ["version"]', "pyproject.toml has no static project.version"),
        ("project = 3", "pyproject.toml has no static project.version"),
        ("[project", "pyproject.toml: Expected"),
        ('[project]\nversion = "1.0rc1"', "pyproject.toml: '1.0rc1' is not a SemVer 2.0.0 version"),
    ],
)
def test_a_pyproject_toml_without_a_version_is_one_line(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        write_file(tmp_path / "pyproject.toml", text)
    with pytest.raises(PublisherError) as caught:
        find_version(tmp_path, VersionFrom(source="pyproject"))
    assert message in caught.value.message


def test_the_version_of_a_file(tmp_path: Path) -> None:
    write_file(tmp_path / "VERSION", "1.4.0\n")
    write_file(tmp_path / "bad", b"\xff")
    write_file(tmp_path / "long", b"1" * 2_000_000)
    assert find_version(tmp_path, VersionFrom(source="file")) == "1.4.0"
    with pytest.raises(PublisherError, match="bad is not UTF-8 text"):
        find_version(tmp_path, VersionFrom(source="file", path="bad"))
    with pytest.raises(PublisherError, match="long: over 1048576 bytes"):
        find_version(tmp_path, VersionFrom(source="file", path="long"))


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (VersionFrom(source="git", path="x"), "git has no 'path'"),
        (VersionFrom(source="file", tag_prefix="x"), "only git has a 'tag_prefix'"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(tmp_path: Path, written: VersionFrom, message: str) -> None:
    with pytest.raises(PublisherError, match=message):
        find_version(tmp_path, written)


@pytest.mark.parametrize(
    ("prefix", "tag", "version"),
    [(None, "v1.4.0", "1.4.0"), (None, "1.4.0-rc.1", "1.4.0-rc.1"), ("tacho-", "tacho-2.0.0", "2.0.0")],
)
def test_the_version_of_the_tag(checkout: Path, prefix: str | None, tag: str, version: str) -> None:
    git(checkout, "tag", "latest")
    git(checkout, "tag", "-a", tag, "-m", "Release")
    assert find_version(checkout, VersionFrom(source="git", tag_prefix=prefix)) == version


def test_a_commit_without_a_fitting_tag_is_one_line(checkout: Path) -> None:
    with pytest.raises(PublisherError, match=r"has no tag that names a version; set one such as 'v1\.4\.0'"):
        find_version(checkout, GIT)
    git(checkout, "tag", "v1.0")
    with pytest.raises(PublisherError, match=r"has no tag that names a version \(it has v1\.0\)"):
        find_version(checkout, GIT)
    git(checkout, "tag", "v1.0.0")
    with pytest.raises(PublisherError, match=r"set one such as 'tacho-1\.4\.0'"):
        find_version(checkout, VersionFrom(source="git", tag_prefix="tacho-"))


def test_a_tag_on_an_earlier_commit_does_not_count(checkout: Path) -> None:
    git(checkout, "tag", "v1.0.0")
    write_file(checkout / "app.py", "print(2)\n")
    git(checkout, "commit", "-q", "-a", "-m", "Go on")
    with pytest.raises(PublisherError, match="has no tag that names a version"):
        find_version(checkout, GIT)


def test_several_versions_on_one_commit_are_refused(checkout: Path) -> None:
    git(checkout, "tag", "v1.0.0")
    git(checkout, "tag", "1.0.0")
    assert find_version(checkout, GIT) == "1.0.0"
    git(checkout, "tag", "v1.0.1")
    with pytest.raises(PublisherError, match=r"has tags for several versions: 1\.0\.0, 1\.0\.1; leave one"):
        find_version(checkout, GIT)


@pytest.mark.parametrize("change", ["edit", "add", "stage"])
def test_changes_that_are_not_committed_are_refused(checkout: Path, change: str) -> None:
    git(checkout, "tag", "v1.0.0")
    write_file(checkout / ("new.py" if change == "add" else "app.py"), "print(3)\n")
    if change == "stage":
        git(checkout, "add", ".")
    with pytest.raises(PublisherError, match="has changes that are not committed"):
        find_version(checkout, GIT)
    assert find_version(checkout, GIT, "1.0.1") == "1.0.1"


def test_earlier_builds_and_changes_elsewhere_do_not_matter(checkout: Path) -> None:
    write_file(checkout / "app" / "main.py", "")
    git(checkout, "add", ".")
    git(checkout, "commit", "-q", "-m", "Move")
    git(checkout, "tag", "v1.0.0")
    write_file(checkout / "app" / "dist" / "tacho-1.0.0-any.flotilla", "built")
    write_file(checkout / "notes.txt", "elsewhere")
    assert find_version(checkout / "app", GIT) == "1.0.0"


def test_a_hook_of_gits_does_not_lead_elsewhere(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(checkout, "tag", "v1.0.0")
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert find_version(checkout, GIT) == "1.0.0"


def test_a_folder_without_git_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    with pytest.raises(PublisherError, match="git status failed: fatal: not a git repository"):
        find_version(tmp_path, GIT)


def test_no_git_and_a_slow_one_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PublisherError, match="git is not installed"):
        find_version(tmp_path, GIT)
    write_file(tmp_path / "git", "#!/bin/sh\nexec /bin/sleep 60\n")
    monkeypatch.setattr(version_source, "GIT_TIMEOUT_S", 0.2)
    with pytest.raises(PublisherError, match="git status took over"):
        find_version(tmp_path, GIT)
