"""What is wrong with a source folder or a package file: one line says it, and nothing has changed.

What is wrong with a release on its way to a device is in `test_bad_releases`, with a device's configuration in
`test_bad_commands`.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from controller.cli.uploading import push_file
from tests.support.broker import new_broker
from tests.support.by_hand import Said, everything_in, run
from tests.support.damage import Damage, as_link, cut, other_content, renamed, saying
from tests.support.disks import SmallDisk, small_disk
from tests.support.packages import build, make_source
from tests.support.world import World

pytestmark = [pytest.mark.journey, pytest.mark.broker]

Wrong = Callable[[Path], object]
FIRST = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
"""The hash of `hello\\n`, which is all that the packages here hold."""


def declaring(version: str = "1.0.0", **toml: Any) -> Wrong:
    """Give the source another flotilla.toml."""
    return lambda source: make_source(source, version=version, **toml)


SOURCES: dict[str, tuple[Wrong, str]] = {
    "an unknown key": (
        declaring(package={"platfrom": "any"}),
        "flotilla.toml: unknown key 'platfrom' in package; did you mean 'platform'?",
    ),
    "a bad version": (
        declaring(version="1.0"),
        "flotilla.toml: package.version: '1.0' is not a SemVer 2.0.0 version: write all three numbers, as in 1.4.0",
    ),
    "no flotilla.toml": (
        lambda source: (source / "flotilla.toml").unlink(),
        "{source} has no flotilla.toml; name the folder that holds flotilla.toml",
    ),
    "a hook that is not there": (
        declaring(hooks={"pre_switch": {"command": ["bin/migrate"]}}),
        "flotilla.toml: hooks.pre_switch: 'bin/migrate' is not among the files of the package",
    ),
    "a template that is not there": (
        declaring(template=[{"source": "app.in", "target": "app.conf"}]),
        "flotilla.toml: template: source 'app.in' is not among the files of the package",
    ),
    "a member named ../x": (
        declaring(template=[{"source": "hello.txt", "target": "../x"}]),
        "path '../x' has a '..' level; it may not lead outside the release",
    ),
    "an absolute path": (
        declaring(template=[{"source": "hello.txt", "target": "/etc/x"}]),
        "path '/etc/x' is absolute; paths in a release are relative to it",
    ),
    "a link that leads outside": (
        lambda source: (source / "evil").symlink_to("../../etc/passwd"),
        "link 'evil' to '../../etc/passwd' points outside the release; make it relative, or exclude it",
    ),
    "a link to an absolute path": (
        lambda source: (source / "evil").symlink_to("/etc/passwd"),
        "link 'evil' to '/etc/passwd' points to an absolute path; make it relative, or exclude it",
    ),
}


@pytest.mark.parametrize("wrong", SOURCES)
def test_a_source_that_cannot_be_built_makes_nothing(tmp_path: Path, wrong: str) -> None:
    spoil, line = SOURCES[wrong]
    source = make_source(tmp_path / "source")
    package = build(source, tmp_path / "out")
    spoil(source)
    before = everything_in(tmp_path)

    said = run("flotilla", "build", source, "--out", tmp_path / "out", folder=tmp_path)

    assert said.refusal() == line.format(source=source)
    assert everything_in(tmp_path) == before, "the package of before is still there, and nothing else"
    make_source(source)
    (source / "evil").unlink(missing_ok=True)
    content = package.read_bytes()
    build(source, tmp_path / "out")
    assert package.read_bytes() == content


PACKAGES: dict[str, tuple[Damage, str]] = {
    "cut short": (cut, "the file is cut short: it has 3072 bytes of 4096"),
    "a member named ../x": (renamed("../x"), f"member '../x' stands where 'objects/{FIRST}' belongs"),
    "a member with an absolute path": (
        renamed("/etc/passwd"),
        f"member '/etc/passwd' stands where 'objects/{FIRST}' belongs",
    ),
    "a member that is a link": (
        as_link("../../../etc/passwd"),
        f"member 'objects/{FIRST}' is a symbolic link; a package has plain files only",
    ),
    "a path with ..": (
        saying(b'"hello.txt","sha256"', b'"../x","sha256"'),
        "path '../x' has a '..' level; it may not lead outside the release",
    ),
    "an absolute path": (
        saying(b'"hello.txt","sha256"', b'"/etc/passwd","sha256"'),
        "path '/etc/passwd' is absolute; paths in a release are relative to it",
    ),
    "a link that leads outside": (
        saying(b'"target":"hello.txt"', b'"target":"../../../etc/passwd"'),
        "link 'link' to '../../../etc/passwd' points outside the release",
    ),
    "a manifest whose digest is wrong": (
        saying(b'"version":"1.0.0"', b'"version":"1.0.1"', consistent=False),
        "the manifest does not have the hash that the file's head names; the file is damaged",
    ),
    "an object whose content is wrong": (
        other_content,
        "the content of 'hello.txt' does not have the hash that the manifest names",
    ),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[World]:
    """One for all of these tests, as none of them may change anything."""
    failed_before = request.session.testsfailed
    folder = tmp_path_factory.mktemp("publishing")
    broker = new_broker(folder / "broker")
    try:
        broker.start()
        with World(folder / "world", broker) as made:
            yield made
            if request.session.testsfailed > failed_before:
                print(made.report())
    finally:
        broker.remove()


@pytest.fixture(scope="module")
def disk(world: World) -> Iterator[SmallDisk]:
    """The disk that the repository lies on; the controller runs."""
    with small_disk(world.data / "repository", 24 * 2**20) as made:
        world.start_controller()
        yield made
        world.stop_controller()


@pytest.fixture
def stock(world: World, disk: SmallDisk) -> Callable[[], object]:
    """All that the controller keeps: its repository, its keys, what waits to be checked, and its whole database.

    But for what is kept of the request itself: that it was asked, and what was answered.
    """
    of_requests = tuple(f'INSERT INTO "{name}"' for name in ("audit", "answers"))

    def look() -> object:
        with closing(sqlite3.connect(f"{(world.data / 'flotilla.db').as_uri()}?mode=ro", uri=True)) as database:
            rows = [row for row in database.iterdump() if not row.startswith(of_requests)]
        return everything_in(world.data / "repository"), everything_in(world.data / "keys"), spool(world), rows

    return look


def spool(world: World) -> list[str]:
    return [path.name for path in (world.data / "spool").iterdir()]


def push(world: World, package: Path) -> Said:
    return run("flotilla", "push", package, "--url", world.url)


@pytest.mark.parametrize("wrong", PACKAGES)
def test_a_bad_package_is_seen_by_inspect_and_refused_by_push(
    world: World, stock: Callable[[], object], tmp_path: Path, wrong: str
) -> None:
    damage, problem = PACKAGES[wrong]
    source = make_source(tmp_path / "source", "p-" + "".join(filter(str.isalnum, wrong)))
    (source / "link").symlink_to("hello.txt")
    package = build(source, tmp_path)
    whole = package.read_bytes()
    damage(package)
    assert package.read_bytes() != whole
    before, files = stock(), everything_in(tmp_path)

    assert run("flotilla", "inspect", package, folder=tmp_path).refusal() == f"{package.name}: {problem}"
    assert push(world, package).refusal() == f"{package}: {problem}"

    assert stock() == before
    assert everything_in(tmp_path) == files
    package.write_bytes(whole)
    assert push_file(world.client, package).new, "nothing of the bad one stands in the way of the good one"


def test_a_version_is_not_taken_twice_with_different_content(
    world: World, stock: Callable[[], object], tmp_path: Path
) -> None:
    world.push(build(make_source(tmp_path / "one", "twice"), tmp_path))
    before = stock()
    other = build(make_source(tmp_path / "two", "twice", files={"hello.txt": "goodbye\n"}), tmp_path)
    assert push(world, other).refusal() == (
        f"{other}: twice 1.0.0 for any exists with other content; a version never changes, so build a new one"
    )
    assert stock() == before


def test_what_is_not_there_is_neither_released_nor_announced(
    world: World, stock: Callable[[], object], tmp_path: Path
) -> None:
    world.push(build(make_source(tmp_path / "one", "known"), tmp_path))
    before = stock()
    release = ("--channel", "stable", "--url", world.url)
    assert run("flotilla", "release", "unknown", "1.0.0", *release).refusal() == (
        "there is no unknown 1.0.0 in the repository; did you mean known?"
    )
    for package, version in (("known", "1.0.1"), ("other", "1.0.0")):
        assert run("flotilla", "release", package, version, *release).refusal() == (
            f"there is no {package} {version} in the repository; push it first"
        )
    assert run("flotilla", "release", "known", "1.0", *release).refusal() == (
        "'1.0' is not a SemVer 2.0.0 version: write all three numbers, as in 1.4.0"
    )
    source = make_source(tmp_path / "two", "known", version="1.1.0", package={"platfrom": "any"})
    assert run("flotilla", "publish", source, *release).refusal() == SOURCES["an unknown key"][1]
    assert stock() == before


def test_a_full_disk_refuses_a_push_and_takes_the_next(
    world: World, disk: SmallDisk, stock: Callable[[], object], tmp_path: Path
) -> None:
    small = build(make_source(tmp_path / "small", "small"), tmp_path)
    large = build(make_source(tmp_path / "large", "large", files={"noise": os.urandom(3 * 2**20)}), tmp_path)
    with disk.full(world.processes.pid_of("controller"), leaving=2**20):
        before = stock()
        assert push(world, large).refusal().endswith((": No space left on device", ": File too large"))
        assert stock() == before
        world.push(small)
    world.push(large)


def test_a_controller_that_is_not_there(tmp_path: Path) -> None:
    package = build(make_source(tmp_path / "source"), tmp_path)
    nowhere = "http://127.0.0.1:1"
    for command in (("push", package), ("packages",), ("devices",), ("release", "tacho", "1.0.0", "--channel", "x")):
        line = run("flotilla", *command, "--url", nowhere).refusal()
        assert line.startswith(f"no controller answers at {nowhere}: ")
        assert line.endswith("; is `flotilla serve` running, and --url or FLOTILLA_URL right?")
