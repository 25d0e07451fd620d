"""What a manifest may say, and above all: that no path or link in it leads outside a release."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.packaging.whole_file import whole_file
from schemas.errors import PublisherError
from schemas.layout import MAX_TARGET_NAME, release_folder, target_name, target_path
from schemas.manifest import (
    CommandCheck,
    DirectoryEntry,
    FileEntry,
    Health,
    Hook,
    Hooks,
    HttpCheck,
    LinkEntry,
    Manifest,
    Requires,
    Service,
    Template,
    decode_manifest,
    encode_manifest,
    total_size,
)
from schemas.paths import link_problem, path_problem

SHA = "a" * 64


def manifest(**fields: object) -> Manifest:
    return msgspec.structs.replace(Manifest(format=1, package="tacho", version="1.0.0", platform="any"), **fields)


def file(path: str, sha256: str = SHA, size: int = 3) -> FileEntry:
    return FileEntry(path=path, size=size, sha256=sha256)


WHOLE = manifest(
    description="A rev counter",
    requires=Requires(agent=">=0.1", packages={"base": "^2"}, upgrade_from=">=0.9", hardware=["Raspberry Pi *"]),
    install_path="/opt/tacho",
    files=[file("bin/tacho"), file("etc/tacho.in"), file("data/first.db")],
    links=[LinkEntry(path="tacho", target="bin/tacho"), LinkEntry(path="bin/up", target="../etc/tacho.in")],
    directories=[DirectoryEntry(path="cache")],
    state=["data", "log/today"],
    templates=[Template(source="etc/tacho.in", target="etc/tacho")],
    services=[Service(name="web", command=["./tacho"])],
    health=Health(checks=[HttpCheck(url="http://127.0.0.1:${settings.port}/")]),
)


def test_a_whole_manifest_survives_a_round_trip_with_the_same_bytes() -> None:
    plain = encode_manifest(WHOLE)
    assert decode_manifest(plain) == WHOLE
    assert encode_manifest(decode_manifest(plain)) == plain


def test_the_longest_names_still_fit_into_the_repository(tmp_path: Path) -> None:
    name = target_name("tacho", "1.0.0", "any")
    version = "1.0.0-" + "a" * (MAX_TARGET_NAME - len(name) - 1)
    encode_manifest(manifest(version=version))
    longest = target_path(SHA, target_name("tacho", version, "any"))
    with whole_file(tmp_path / Path(longest).name) as made:
        made.write(b"fits")
    (tmp_path / release_folder(version, SHA)).mkdir()


def test_distinct_contents_count_once() -> None:
    assert total_size(manifest(files=[file("a"), file("b"), file("c", "b" * 64, 4)])) == 7


@pytest.mark.parametrize(
    ("fields", "code", "line"),
    [
        ({"files": [file("../x")]}, "package.path", "path '../x' has a '..' level"),
        ({"files": [file("/etc/passwd")]}, "package.path", "is absolute"),
        ({"files": [file("a//b")]}, "package.path", "empty or '.' level"),
        ({"files": [file("a\nb")]}, "package.path", "control character"),
        ({"files": [file("x" * 256)]}, "package.path", "longer than 255 bytes"),
        ({"directories": [DirectoryEntry(path="..")]}, "package.path", "'..' level"),
        ({"state": ["../../etc"]}, "package.path", "'..' level"),
        ({"files": [file("a"), file("a")]}, "manifest.bad", "'a' stands twice"),
        ({"files": [file("a")], "directories": [DirectoryEntry(path="a")]}, "manifest.bad", "stands twice"),
        ({"files": [file("a"), file("a/b")]}, "package.path", "lies below 'a', which is not a folder"),
        ({"links": [LinkEntry(path="l", target=".")], "files": [file("l/x")]}, "package.path", "lies below 'l'"),
        ({"links": [LinkEntry(path="l", target="/etc")]}, "package.path", "absolute path"),
        ({"links": [LinkEntry(path="l", target="../x")]}, "package.path", "outside the release"),
        ({"links": [LinkEntry(path="a/l", target="../../x")]}, "package.path", "outside the release"),
        ({"links": [LinkEntry(path="l", target="a/../../x")]}, "package.path", "'..' level"),
        ({"links": [LinkEntry(path="l", target="a")], "state": ["l/x"]}, "package.path", "lies below 'l'"),
        ({"state": ["a", "a/b"]}, "manifest.bad", "lies in state path 'a'"),
        ({"state": ["a"], "links": [LinkEntry(path="a/l", target="x")]}, "manifest.bad", "lies in state path"),
        ({"templates": [Template(source="t", target="u")]}, "manifest.bad", "'t' is not a file of the release"),
        ({"services": [Service(name="a")]}, "manifest.bad", "needs either a unit or a command"),
        ({"services": [Service(name="a", unit="a.service")] * 2}, "manifest.bad", "two services have the same name"),
        ({"install_path": "/"}, "manifest.bad", "not a plain absolute path"),
        ({"install_path": "/opt/../etc"}, "manifest.bad", "not a plain absolute path"),
        ({"install_path": "//"}, "manifest.bad", "not a plain absolute path"),
        ({"install_path": "/./"}, "manifest.bad", "not a plain absolute path"),
        ({"services": [Service(name="a", command=["run", "a\0b"])]}, "manifest.bad", "NUL"),
        ({"services": [Service(name="a", command=["run"], environment={"A": "\0"})]}, "manifest.bad", "NUL"),
        ({"hooks": Hooks(post_rollback=Hook(command=["\0"]))}, "manifest.bad", "NUL"),
        ({"health": Health(checks=[CommandCheck(command=["\0"])])}, "manifest.bad", "NUL"),
        ({"version": "1.0.0-" + "a" * 160}, "package.limit", "choose shorter ones"),
        ({"version": "1.0.0.0"}, "version.bad", "1.0.0.0"),
        ({"requires": Requires(agent=">=x.y.z!")}, "version.range", ">=x.y.z!"),
        ({"format": 2}, "manifest.bad", "newer than 1"),
    ],
)
def test_what_a_manifest_may_not_say(fields: dict[str, object], code: str, line: str) -> None:
    with pytest.raises(PublisherError) as caught:
        encode_manifest(manifest(**fields))
    assert caught.value.code == code
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("plain", "line"),
    [
        (b"", "truncated"),
        (b"[]", "Expected `object`"),
        (b'{"format":1,"package":"a","version":"1.0.0","platform":"any","magic":1}', "unknown field `magic`"),
        (b'{"format":1,"package":"../a","version":"1.0.0","platform":"any"}', "$.package"),
        (b'{"format":1,"package":"a","version":"1.0.0","platform":"any","files":[{"path":"x","size":-1}]}', "$.files"),
    ],
)  # fmt: skip
def test_bytes_that_are_no_manifest(plain: bytes, line: str) -> None:
    with pytest.raises(PublisherError) as caught:
        decode_manifest(plain)
    assert line in str(caught.value)


levels = st.sampled_from(["a", "b", "..", ".", "", "l", "m"])
paths = st.lists(levels, min_size=1, max_size=5).map("/".join)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(paths, paths), max_size=4))
def test_no_set_of_accepted_links_leads_outside_a_real_folder(pairs: list[tuple[str, str]]) -> None:
    links = [LinkEntry(path=path, target=target) for path, target in dict(pairs).items() if path and target]
    try:
        encode_manifest(manifest(links=links, directories=[DirectoryEntry(path="a/b")]))
    except PublisherError:
        return
    with TemporaryDirectory() as folder:
        release = Path(folder).resolve() / "root" / "release"
        (release / "a" / "b").mkdir(parents=True)
        for link in links:
            (release / link.path).parent.mkdir(parents=True, exist_ok=True)
            (release / link.path).symlink_to(link.target)
        for link in links:
            assert Path(os.path.realpath(release / link.path)).is_relative_to(release)


@given(st.text(max_size=30))
def test_an_accepted_path_stays_below_its_folder(path: str) -> None:
    if not path_problem(path):
        assert os.path.normpath(f"/root/{path}") == f"/root/{path}"


@pytest.mark.parametrize(("path", "target"), [("a/l", ".."), ("l", "."), ("a/b/l", "../../c"), ("l", "a/b")])
def test_links_that_stay_inside_are_fine(path: str, target: str) -> None:
    assert link_problem(path, target) == ""
