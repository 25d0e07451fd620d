"""The PackageCreator: what becomes of a source folder, and that bad input makes nothing."""

import locale
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from controller.packaging.package_creator import BuiltPackage, PackageCreator
from controller.packaging.package_file import open_package
from schemas.errors import FlotillaError, OperatorError, PublisherError
from schemas.manifest import DirectoryEntry, LinkEntry, Manifest, Template, encode_manifest
from tests.support.packages import build, make_source, write_file

APP = {
    "bin/run": "#!/bin/sh\nexec true\n",
    "app.conf.in": "port = ${settings.port}\nname = ${device.id} costs 5$$\n",
    "static/index.html": "<h1>Tacho</h1>\n",
    "static/copy.html": "<h1>Tacho</h1>\n",
}

FULL: dict[str, Any] = {
    "package": {
        "description": "A gauge",
        "tags": ["gauge", "demo", "gauge"],
        "state": ["data/", "cache"],
        "install_path": "/opt/tacho",
    },
    "requires": {"agent": ">=0.1", "hardware": ["Raspberry Pi*"]},
    "settings": {"port": 8080, "token": {"required": True}},
    "template": [{"source": "app.conf.in", "target": "etc/app.conf", "mode": "600"}],
    "hooks": {"pre_switch": {"command": ["./bin/run", "$HOME"]}},
    "service": [{"name": "web", "command": ["bin/run", "--port", "${settings.port}"]}],
    "health": {"probation_s": 5, "check": [{"type": "http", "url": "http://127.0.0.1:${settings.port}/"}]},
}


def manifest_of(package: Path) -> Manifest:
    with open_package(package) as reader:
        reader.verify()
        return reader.manifest


def test_a_source_folder_becomes_a_package(tmp_path: Path) -> None:
    source = make_source(tmp_path / "src", "tacho", "1.2.0", APP, **FULL)
    (source / "current.html").symlink_to("static/index.html")
    (source / "spool").mkdir()
    built = PackageCreator(source).build(platform="linux-aarch64", out=tmp_path / "out")
    assert built.path == tmp_path / "out" / "tacho-1.2.0-linux-aarch64.flotilla"
    assert built.size == built.path.stat().st_size
    with open_package(built.path) as reader:
        contents = {digest: stream.read() for digest, _, stream in reader.contents()}
        assert reader.manifest_sha256 == built.manifest_sha256
        manifest = reader.manifest
    assert manifest == built.manifest
    assert {file.path: contents[file.sha256].decode() for file in manifest.files} == APP
    assert [(file.path, file.mode) for file in manifest.files] == [
        ("app.conf.in", 0o644),
        ("bin/run", 0o755),
        ("static/copy.html", 0o644),
        ("static/index.html", 0o644),
    ]
    assert len(contents) == 3
    assert manifest.links == [LinkEntry(path="current.html", target="static/index.html")]
    assert manifest.directories == [DirectoryEntry(path="spool")]
    assert (manifest.package, manifest.version, manifest.platform) == ("tacho", "1.2.0", "linux-aarch64")
    assert (manifest.tags, manifest.state) == (["demo", "gauge"], ["cache", "data"])
    assert manifest.settings == {"port": "8080", "token": None}
    assert manifest.templates == [Template(source="app.conf.in", target="etc/app.conf", mode=0o600)]
    assert manifest.requires.hardware == ["Raspberry Pi*"]
    assert manifest.install_path == "/opt/tacho"
    assert manifest.health.probation_s == 5
    assert [service.name for service in manifest.services] == ["web"]


def test_the_same_input_gives_the_same_bytes_on_every_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two trees made differently: order of creation, umask, times, clock, locale, place, and an old build inside."""
    first = make_source(tmp_path / "a", "tacho", "1.0.0", APP, **FULL)
    (first / "link").symlink_to("./static")
    (first / "spool").mkdir()
    one = build(first, tmp_path / "one").read_bytes()

    before = os.umask(0o077)
    try:
        second = tmp_path / "deeper" / "ünderneath"
        second.mkdir(parents=True)
        (second / "spool").mkdir()
        (second / "link").symlink_to("static/")
        for path, content in reversed(APP.items()):
            write_file(second / path, content).chmod(0o700 if path == "bin/run" else 0o600)
            os.utime(second / path, (1, 1))
        shutil.copy(first / "flotilla.toml", second)
        write_file(second / "tacho-0.9.0-any.flotilla", "an old build")
        monkeypatch.setenv("TZ", "Asia/Tokyo")
        monkeypatch.setattr(locale, "getpreferredencoding", lambda *_: "ascii")
        monkeypatch.chdir(second)
        two = build(Path(), Path()).read_bytes()
        reversed_order = os.scandir

        class Backwards:
            def __init__(self, path: Path) -> None:
                with reversed_order(path) as entries:
                    self.entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

            def __enter__(self) -> list[os.DirEntry[str]]:
                return self.entries

            def __exit__(self, *_: object) -> None:
                pass

        monkeypatch.setattr(os, "scandir", Backwards)
        three = build(Path(), tmp_path / "three").read_bytes()
    finally:
        os.umask(before)
    assert one == two == three


def test_building_again_takes_the_place_of_the_old_file(tmp_path: Path) -> None:
    source = make_source(tmp_path / "src", files={"a": "1"})
    first = build(source, tmp_path).read_bytes()
    write_file(source / "a", "2")
    assert build(source, tmp_path).read_bytes() != first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["src", "tacho-1.0.0-any.flotilla"]


def test_progress_goes_through_the_steps(tmp_path: Path) -> None:
    source = make_source(tmp_path / "src", files={"a": "12", "b": "345"})
    told: list[tuple[str, int, int]] = []
    PackageCreator(source).build(out=tmp_path, progress=lambda *step: told.append(step))
    assert told == [("reading", 2, 5), ("reading", 5, 5), *[step for step in told if step[0] == "writing"]]
    assert told[-1] == ("writing", 5, 5)


def test_the_result_is_readable_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        package = build(make_source(tmp_path / "src"), tmp_path)
    finally:
        os.umask(before)
    assert package.stat().st_mode & 0o777 == 0o640


def test_state_may_begin_with_files_and_need_not_be_there(tmp_path: Path) -> None:
    source = make_source(tmp_path / "src", files={"data/seed.db": "seed"}, package={"state": ["data", "later/on"]})
    manifest = manifest_of(build(source, tmp_path))
    assert manifest.state == ["data", "later/on"]
    assert [file.path for file in manifest.files] == ["data/seed.db"]


Change = Callable[[Path, dict[str, Any]], None]


def toml(**tables: Any) -> Change:
    def change(_: Path, given: dict[str, Any]) -> None:
        given.update(tables)

    return change


def on_disk(act: Callable[[Path], object]) -> Change:
    def change(source: Path, _: dict[str, Any]) -> None:
        act(source)

    return change


def service(command: list[str], **more: Any) -> Change:
    return toml(service=[{"name": "web", "command": command, **more}])


BAD: dict[str, tuple[Change, str, str]] = {
    "unknown key": (toml(package={"platfrom": "any"}), "package.source", "did you mean 'platform'?"),
    "bad version": (toml(package={"version": "1.0"}), "version.bad", "package.version: '1.0' is not a SemVer"),
    "bad platform": (toml(package={"platform": "Linux"}), "package.source", "package.platform: must be a platform"),
    "bad range": (toml(requires={"agent": ">>1"}), "version.range", ">>1"),
    "bad install path": (toml(package={"install_path": "opt"}), "manifest.bad", "install_path 'opt' is not"),
    "state outside": (toml(package={"state": ["../data"]}), "package.path", "'../data' has a '..' level"),
    "state absolute": (toml(package={"state": ["/var"]}), "package.path", "'/var' is absolute"),
    "link in state": (
        toml(package={"state": ["data"], "include": ["data/"]}),
        "manifest.bad",
        "'data/link' lies in state path 'data'",
    ),
    "template missing": (
        toml(template=[{"source": "missing.in", "target": "x"}]),
        "package.source",
        "source 'missing.in' is not among the files of the package",
    ),
    "template excluded": (
        toml(package={"exclude": ["app.in"]}, template=[{"source": "app.in", "target": "x"}]),
        "package.source",
        "source 'app.in' is not among the files of the package",
    ),
    "template in state": (
        toml(package={"state": ["app.in"]}),
        "package.source",
        "source 'app.in' lies in a state path, which changes on the device",
    ),
    "template outside": (
        toml(template=[{"source": "app.in", "target": "../x"}]),
        "package.path",
        "'../x' has a '..' level",
    ),
    "template over a file": (
        toml(template=[{"source": "app.in", "target": "bin/run"}]),
        "manifest.bad",
        "'bin/run' stands twice",
    ),
    "template not text": (
        toml(template=[{"source": "raw.bin", "target": "x"}]),
        "package.source",
        "template 'raw.bin' is not UTF-8 text (byte 1)",
    ),
    "template too long": (
        on_disk(lambda source: (source / "app.in").write_text("x" * (1024 * 1024 + 1))),
        "package.limit",
        "template 'app.in' is over 1048576 bytes",
    ),
    "template's placeholder": (
        on_disk(lambda source: (source / "app.in").write_text("a $b")),
        "manifest.bad",
        "template 'app.in': a '$' starts no placeholder",
    ),
    "template's setting": (
        on_disk(lambda source: (source / "app.in").write_text("${settings.prot}")),
        "manifest.bad",
        "template 'app.in': ${settings.prot} is used, but [settings] in flotilla.toml does not declare it",
    ),
    "hook missing": (
        toml(hooks={"pre_switch": {"command": ["bin/missing"]}}),
        "package.source",
        "hooks.pre_switch: 'bin/missing' is not among the files of the package",
    ),
    "hook outside": (
        toml(hooks={"post_rollback": {"command": ["../bin/sh"]}}),
        "package.path",
        "hooks.post_rollback: '../bin/sh' leads outside the release",
    ),
    "hook not executable": (
        toml(hooks={"post_switch": {"command": ["./app.in"]}}),
        "package.source",
        'hooks.post_switch: \'./app.in\' is not executable; chmod it, or set modes."app.in" = "0755"',
    ),
    "service's program": (service(["bin/rum"]), "package.source", "service 'web': 'bin/rum' is not among the files"),
    "service's setting": (service(["bin/run", "${settings.nope}"]), "manifest.bad", "${settings.nope} is used, but"),
    "service's path": (service(["bin/run", "${path.curent}"]), "manifest.bad", "unknown placeholder ${path.curent}"),
    "service's scope": (service(["bin/run", "${env.HOME}"]), "manifest.bad", "unknown placeholder ${env.HOME}"),
    "service's variable": (
        service(["bin/run"], environment={"A": "$PATH"}),
        "manifest.bad",
        "service 'web': environment.A: a '$' starts no placeholder",
    ),
    "service with both": (service(["bin/run"], unit="x.service"), "manifest.bad", "needs either a unit or a command"),
    "check's program": (
        toml(health={"check": [{"type": "command", "command": ["bin/chk"]}]}),
        "package.source",
        "health.check[0]: 'bin/chk' is not among the files",
    ),
    "check's address": (
        toml(health={"check": [{"type": "http", "url": "http://x:${settings.p}/"}]}),
        "manifest.bad",
        "health.check[0].url: ${settings.p} is used",
    ),
    "check's port": (
        toml(health={"check": [{"type": "tcp", "port": "${settings.p}"}]}),
        "manifest.bad",
        "health.check[0].port: ${settings.p} is used",
    ),
    "requirements missing": (
        toml(package={"platform": "linux-aarch64"}, python={"requirements": "missing.txt"}),
        "package.source",
        "python.requirements: 'missing.txt' is not a file",
    ),
    "requirements' target": (
        toml(package={"platform": "linux-aarch64"}, python={"requirements": "app.in", "target": "../lib"}),
        "package.path",
        "python.target '../lib' has a '..' level",
    ),
    "link outside": (
        on_disk(lambda source: (source / "evil").symlink_to("../../etc/passwd")),
        "package.path",
        "link 'evil' to '../../etc/passwd' points outside the release",
    ),
    "pipe": (on_disk(lambda source: os.mkfifo(source / "pipe")), "package.source", "'pipe' is a pipe"),
    "mode of nothing": (toml(package={"modes": {"bim": "755"}}), "package.source", "package.modes: 'bim' fits no file"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_makes_nothing(tmp_path: Path, case: str) -> None:
    change, code, message = BAD[case]
    given: dict[str, Any] = {"template": [{"source": "app.in", "target": "app.conf"}]}
    files: dict[str, str | bytes] = {"bin/run": "#!/bin/sh\n", "app.in": "port\n", "raw.bin": b"a\xff"}
    source = tmp_path / "src"
    for path, content in files.items():
        write_file(source / path, content)
    if case == "link in state":
        (source / "data").mkdir()
        (source / "data" / "link").symlink_to("x")
        given = {}
    change(source, given)
    make_source(source, files={"hello": "hello"}, **given)
    out = tmp_path / "out" / "below"
    with pytest.raises(FlotillaError) as caught:
        PackageCreator(source).build(out=out)
    assert isinstance(caught.value, PublisherError)
    assert caught.value.code == code
    assert message in caught.value.message
    assert caught.value.message.isprintable()
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


@pytest.mark.parametrize(
    "program", ["python3", "/usr/bin/python3", "tools/run", "data/tool", "${settings.tool}/x", "etc/x"]
)
def test_programs_that_cannot_be_judged_here_are_left_to_the_device(tmp_path: Path, program: str) -> None:
    source = make_source(
        tmp_path / "src",
        files={"real/run": "#!/bin/sh\n", "x.in": "#!/bin/sh\n"},
        package={"state": ["data"]},
        settings={"tool": "/opt"},
        template=[{"source": "x.in", "target": "etc/x", "mode": "755"}],
        service=[{"name": "web", "command": [program]}],
    )
    (source / "tools").symlink_to("real")
    assert manifest_of(build(source, tmp_path)).services[0].command == [program]


def test_a_result_that_cannot_be_written_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_source(tmp_path / "src")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OperatorError, match="No space left on device"):
        build(source, tmp_path / "out" / "below")
    assert [path.name for path in tmp_path.iterdir()] == ["src"]
    with pytest.raises(OperatorError, match="cannot be made: "):
        build(source, source / "flotilla.toml")


def test_an_unreadable_platform_of_the_command_line_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(PublisherError, match="--platform: 'a/b' is no name of a platform"):
        build(make_source(tmp_path / "src"), tmp_path, platform="a/b")


def test_a_file_that_turns_into_a_pipe_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_source(tmp_path / "src", files={"a": "1"})
    real = os.open

    def swapped(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if Path(path).name == "a":
            (source / "a").unlink()
            os.mkfifo(source / "a")
        return real(path, flags, *more, **named)

    monkeypatch.setattr(os, "open", swapped)
    with pytest.raises(PublisherError, match="'a' cannot be read: it is no longer a regular file"):
        build(source, tmp_path)


def test_the_manifest_in_the_file_is_the_one_form_of_what_was_built(tmp_path: Path) -> None:
    built: BuiltPackage = PackageCreator(make_source(tmp_path / "src", files=APP, **FULL)).build(out=tmp_path)
    with open_package(built.path) as reader:
        assert reader.manifest_bytes == encode_manifest(built.manifest)


@pytest.mark.parametrize(
    ("other", "name"),
    [("linux-arm64", "linux-aarch64"), ("linux-amd64", "linux-x86_64"), ("linux-armhf", "linux-armv7l")],
)
def test_what_other_systems_call_a_platform_is_told_its_name(tmp_path: Path, other: str, name: str) -> None:
    words = f"no device calls itself {other}; it is {name} here"
    with pytest.raises(PublisherError, match=words):
        build(make_source(tmp_path / "src"), tmp_path, platform=other)
    named = make_source(tmp_path / "named", package={"platform": other})
    with pytest.raises(PublisherError, match=words):
        build(named, tmp_path)
