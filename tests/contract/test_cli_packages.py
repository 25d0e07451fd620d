"""The command line's side of publishing: storing, finding, announcing, taking away."""

import json
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import Finished, flotilla
from tests.support.controller import ControllerProcess
from tests.support.packages import make_source
from tests.support.repository import make_package, tree_of
from tests.support.strange_server import strange_server

pytestmark = pytest.mark.broker

Unique = Callable[[str], str]
Run = Callable[..., Finished]


@pytest.fixture
def run(controller: ControllerProcess) -> Run:
    """`flotilla` at the shared controller."""
    return lambda *arguments: flotilla(*arguments, env={"FLOTILLA_URL": controller.url})


@pytest.fixture
def name(unique: Unique) -> str:
    return unique("pkg")


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


# Pushing


def test_push_stores_each_file_and_says_what_was_there(run: Run, tmp_path: Path, name: str) -> None:
    files = [make_package(tmp_path, name, version, {"v": version}) for version in ("1.0.0", "1.1.0")]
    done = run("push", *files)
    assert (done.status, done.stderr) == (0, "")
    assert [line.split()[:2] for line in done.text.splitlines()] == [
        ["stored", f"{name}@1.0.0@any"],
        ["stored", f"{name}@1.1.0@any"],
    ]
    again = run("push", files[0], "--json").json()
    assert [(one["new"], one["release"]["version"]) for one in again] == [(False, "1.0.0")]


def cut_short(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def test_push_refuses_what_cannot_be_stored_and_nothing_changes(
    run: Run, controller: ControllerProcess, tmp_path: Path, name: str
) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    assert run("push", make_package(tmp_path / "a", name, "1.0.0", {"v": "one"})).status == 0
    before = tree_of(controller.data / "repository")
    other = make_package(tmp_path / "b", name, "1.0.0", {"v": "another"})
    assert "other content" in run("push", other).complaint()
    cut = make_package(tmp_path / "b", name, "2.0.0", {"v": "two" * 1000})
    cut_short(cut)
    assert str(cut) in run("push", cut).complaint()
    no_package = tmp_path / "b" / "notes.txt"
    no_package.write_text("no package")
    for option in ((), ("--json",)):
        complaint = run("push", no_package, *option).complaint()
        assert str(no_package) in complaint
        assert ".part" not in complaint
    assert tree_of(controller.data / "repository") == before
    assert [one["version"] for one in run("packages", name, "--json").json()] == ["1.0.0"]


def test_what_was_pushed_before_another_file_was_refused_is_told(run: Run, tmp_path: Path, name: str) -> None:
    good = make_package(tmp_path, name, "1.0.0", {"v": "one"})
    bad = tmp_path / "bad.flotilla"
    bad.write_bytes(b"bad")
    for option, word in ((), "stored"), (("--json",), '"new": false'):
        done = run("push", good, bad, *option)
        assert done.status == 1
        assert word in done.text
        assert done.stderr.startswith("flotilla: ")


# Finding


def test_every_filter_of_packages(run: Run, tmp_path: Path, name: str) -> None:
    for version, platform, tags in (
        ("1.0.0", "any", ["old"]),
        ("1.2.0", "linux-aarch64", ["new", "big"]),
        ("2.0.0-rc.1", "linux-aarch64", ["new"]),
    ):
        package = make_package(tmp_path, name, version, {"v": version}, platform=platform, tags=tags, description="D")
        assert run("push", package).status == 0
    channel = name[-30:]
    assert run("release", name, "1.0.0", "--channel", channel).status == 0

    def found(*arguments: str) -> list[str]:
        return [record["version"] for record in run("packages", *arguments, "--json").json()]

    assert found(name) == ["2.0.0-rc.1", "1.2.0", "1.0.0"]
    assert found(f"{name[:-1]}?") == found(name)
    assert found(name, "--version", "^1.1") == ["1.2.0"]
    assert found(name, "--version", "1.0.0 || >=2.0.0-0") == ["2.0.0-rc.1", "1.0.0"]
    assert found(name, "--platform", "linux-aarch64") == ["2.0.0-rc.1", "1.2.0", "1.0.0"]
    assert found(name, "--platform", "linux-armv7l") == ["1.0.0"]
    assert found(name, "--tag", "new") == ["2.0.0-rc.1", "1.2.0"]
    assert found(name, "--tag", "new", "--tag", "big") == ["1.2.0"]
    assert found("--channel", channel) == ["1.0.0"]
    assert found(name, "--since", "2020-01-01", "--until", "2999-01-01T00:00:00Z") == found(name)
    assert found(name, "--since", "2999-01-01") == []
    assert found(name, "--until", "2020-01-01") == []
    assert found("nothing-like-it") == []
    assert run("packages", "nothing-like-it").text == "no release fits\n"
    assert "range" in run("packages", name, "--version", "^one").complaint()
    table = run("packages", name).text.splitlines()
    assert table[0].split() == ["PACKAGE", "VERSION", "PLATFORM", "SIZE", "STORED", "CHANNELS", "DESCRIPTION"]
    assert [row.split()[:3] for row in table[1:]] == [
        [name, "2.0.0-rc.1", "linux-aarch64"],
        [name, "1.2.0", "linux-aarch64"],
        [name, "1.0.0", "any"],
    ]
    assert channel in table[3]


def test_packages_reads_every_page(run: Run, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        assert run("push", make_package(tmp_path, name, f"1.{number}.0", {"v": str(number)})).status == 0
    monkeypatch.setattr("controller.cli.packages.PAGE", 2)
    found = run("packages", name, "--json").json()
    assert [record["version"] for record in found] == [f"1.{number}.0" for number in reversed(range(5))]


# Releasing


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("release", "tacho", "1.0", "--channel", "stable"), "1.0"),
        (("release", "tacho", "latest", "--channel", "stable"), "latest"),
        (("release", "Tacho", "1.0.0", "--channel", "stable"), "Tacho"),
        (("release", "../x", "1.0.0", "--channel", "stable"), "package name"),
        (("release", "tacho", "1.0.0", "--channel", "Stable Ones"), "channel"),
        (("release", "tacho", "1.0.0", "--channel", "stable", "--where", "site"), "KEY=VALUE"),
        (("release", "tacho", "1.0.0", "--channel", "stable", "--device", "NO"), "device id"),
        (("release", "no-such-package", "1.0.0", "--channel", "stable"), "no-such-package 1.0.0"),
        (("export", "no-such-package", "1.0.0"), "no-such-package 1.0.0"),
        (("delete", "no-such-package", "1.0.0"), "no-such-package 1.0.0"),
    ],
)
def test_what_cannot_be_released_gets_one_line(
    run: Run, in_folder: Path, arguments: tuple[str, ...], says: str
) -> None:
    before = run("rollouts", "--json").json()
    assert says in run(*arguments).complaint()
    assert run("rollouts", "--json").json() == before
    assert list(in_folder.iterdir()) == []


def test_release_says_whom_it_means(run: Run, tmp_path: Path, name: str) -> None:
    assert run("push", make_package(tmp_path, name, "1.0.0", {"a": "a"})).status == 0
    options = ("--where", "site=roof", "--where", "site=cellar", "--where", "model=pi4", "--jitter", "1m30s")
    rollout = run("release", name, "1.0.0", "--channel", "stable", "--json", "--allow-downgrade", *options).json()
    where = {"site": ["roof", "cellar"], "model": "pi4"}
    assert rollout["targets"] == {"upto": 10_000, "where": where, "devices": [], "exclude": []}
    assert (rollout["policy"]["jitter_s"], rollout["policy"]["allow_downgrade"]) == (90, True)
    nobody = ("--device", f"{name}-1", "--device", f"{name}-2")
    assert "never heard of" in run("release", name, "1.0.0", "--channel", "stable", *nobody).complaint()
    assert run("rollout", rollout["id"], "--json").json()["rollout"]["state"] != "superseded"
    told = run("release", name, "1.0.0", "--channel", "stable")
    assert told.text.startswith(f"announced {name} 1.0.0 on channel stable, rollout ")
    rollout_id = told.text.splitlines()[0].split()[-1]
    assert run("rollout", rollout_id, "--json").json()["rollout"]["id"] == rollout_id


def test_publish_takes_a_folder_or_a_file(run: Run, tmp_path: Path, in_folder: Path, name: str) -> None:
    source = make_source(tmp_path / "source", name, "1.0.0", {"run": "#!/bin/sh\n"})
    first = run("publish", source, "--channel", "beta", "--json").json()
    assert (first["package"], first["version"], first["channel"]) == (name, "1.0.0", "beta")
    second = run("publish", source, "--channel", "beta", "--version", "1.1.0", "--platform", "linux-aarch64")
    assert second.text.startswith(f"announced {name} 1.1.0 on channel beta")
    package = make_package(tmp_path, name, "2.0.0", {"run": "x"})
    third = run("publish", package, "--channel", "beta", "--json").json()
    assert third["version"] == "2.0.0"
    found = {record["version"]: record for record in run("packages", name, "--json").json()}
    assert {version: (one["platform"], one["channels"]) for version, one in found.items()} == {
        "1.0.0": ("any", []),
        "1.1.0": ("linux-aarch64", []),
        "2.0.0": ("any", ["beta"]),
    }
    assert list(in_folder.iterdir()) == []
    assert "--version" in run("publish", package, "--channel", "beta", "--version", "3.0.0").complaint()


def test_publish_refuses_before_anything_is_stored(run: Run, tmp_path: Path, name: str) -> None:
    source = make_source(tmp_path / "source", name, "1.0.0")
    assert "channel" in run("publish", source, "--channel", "No Good").complaint()
    assert "one" in run("publish", source, "--channel", "beta", "--version", "one").complaint()
    (source / "flotilla.toml").write_text('[package]\nname = "x"\nvesion = "1.0.0"\n')
    assert "vesion" in run("publish", source, "--channel", "beta").complaint()
    assert "flotilla.toml" in run("publish", tmp_path, "--channel", "beta").complaint()
    assert run("packages", name, "--json").json() == []


def test_what_is_wrong_with_a_publish_is_said_of_what_was_named_and_of_no_temporary_file(
    run: Run, tmp_path: Path, name: str
) -> None:
    source = make_source(tmp_path / "source", name, "1.0.0", {"run": "x"})
    assert run("publish", source, "--channel", "beta").status == 0
    (source / "run").write_text("y")
    complaint = run("publish", source, "--channel", "beta").complaint()
    assert f"{source}: {name} 1.0.0" in complaint
    assert "other content" in complaint
    assert tempfile.gettempdir() not in complaint.replace(str(source), "")


# Taking away


def test_export_writes_one_whole_file(run: Run, tmp_path: Path, in_folder: Path, name: str) -> None:
    for platform in ("any", "linux-aarch64"):
        package = make_package(tmp_path, name, "1.0.0", {"v": platform}, platform=platform)
        assert run("push", package).status == 0
    facts = run("export", name, "1.0.0", "--platform", "any", "-o", "release.file", "--json").json()
    assert facts == {"file": "release.file", "size": (in_folder / "release.file").stat().st_size}
    with tarfile.open(in_folder / "release.file") as archive:
        assert "metadata/timestamp.json" in archive.getnames()
    assert "any, linux-aarch64" in run("export", name, "1.0.0").complaint()
    told = run("export", name, "1.0.0", "--platform", "any", "--valid-days", "30")
    assert told.text.startswith("wrote ")
    written = Path(told.text.split()[1].rstrip(","))
    assert written.is_file()
    assert {path.name for path in in_folder.iterdir()} == {"release.file", written.name}


def test_export_to_where_nothing_can_be_written_gets_one_line(
    run: Run, tmp_path: Path, in_folder: Path, name: str
) -> None:
    assert run("push", make_package(tmp_path, name, "1.0.0", {"a": "a"})).status == 0
    (in_folder / "folder").mkdir()
    assert "no/such/file" in run("export", name, "1.0.0", "-o", "no/such/file").complaint()
    assert "folder" in run("export", name, "1.0.0", "-o", "folder").complaint(2)
    assert [path.name for path in in_folder.iterdir()] == ["folder"]


def test_an_export_that_breaks_off_leaves_the_file_that_was_there(in_folder: Path) -> None:
    target = in_folder / "release.file"
    target.write_text("the one before")
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\nContent-Type: application/octet-stream\r\n\r\n" + b"x" * 1000
    with strange_server(answer) as url:
        assert url in flotilla("export", "tacho", "1.0.0", "-o", target, "--url", url).complaint()
    assert target.read_text() == "the one before"
    assert [path.name for path in in_folder.iterdir()] == ["release.file"]


def test_root_writes_what_devices_start_from(run: Run, controller: ControllerProcess, in_folder: Path) -> None:
    expected = (controller.data / "repository" / "metadata" / "1.root.json").read_bytes()
    assert run("root").stdout == expected
    done = run("root", "-o", "root.json")
    assert (done.status, done.stdout) == (0, b"")
    assert (in_folder / "root.json").read_bytes() == expected


@pytest.mark.parametrize("body", [b'{"signed": {"_type": "timestamp"}, "signatures": []}', b"[]", b"\x00" * 600_000])
def test_root_writes_nothing_else(in_folder: Path, body: bytes) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nContent-Type: application/json\r\n\r\n".encode()
    with strange_server(head + body) as url:
        flotilla("root", "-o", "root.json", "--url", url).complaint()
        flotilla("root", "--url", url).complaint()
    assert list(in_folder.iterdir()) == []


def test_delete_withdraws_a_version_that_nobody_needs(run: Run, tmp_path: Path, name: str) -> None:
    for version in ("1.0.0", "2.0.0"):
        assert run("push", make_package(tmp_path, name, version, {"v": version})).status == 0
    assert run("release", name, "2.0.0", "--channel", "stable").status == 0
    assert run("delete", name, "1.0.0").text.startswith(f"deleted {name} 1.0.0")
    assert "stable" in run("delete", name, "2.0.0").complaint()
    assert [record["version"] for record in run("packages", name, "--json").json()] == ["2.0.0"]


def test_the_data_folder_is_verified_measured_and_tidied_up(
    run: Run, controller: ControllerProcess, tmp_path: Path, name: str
) -> None:
    assert run("push", make_package(tmp_path, name, "1.0.0", {"a": "a"})).status == 0
    data = ("--data", controller.data)
    assert run("repository", "verify", *data).text == "everything is as it was signed\n"
    assert run("repository", "verify", *data, "--json").json() == []
    assert run("repository", "statistics", *data, "--json").json()["releases"] >= 1
    assert "packages" in run("repository", "statistics", *data).text
    assert set(run("repository", "collect", *data, "--json").json()) >= {"objects", "freed_bytes"}
    assert run("repository", "collect", *data).text.startswith("freed ")
    for command in ("verify", "collect", "statistics"):
        assert "no data folder" in run("repository", command, "--data", tmp_path / "nothing").complaint()
        assert not (tmp_path / "nothing").exists()


def test_verify_says_what_is_damaged(tmp_path: Path, controller: ControllerProcess, run: Run, name: str) -> None:
    package = make_package(tmp_path, name, "1.0.0", {"a": f"only in {name}"})
    assert run("push", package).status == 0
    with tarfile.open(package) as archive:
        member = next(one for one in archive.getnames() if one.startswith("objects/"))
    sha256 = member.removeprefix("objects/")
    stored = controller.data / "repository" / "objects" / sha256[:2] / f"{sha256}.zst"
    good = stored.read_bytes()
    stored.chmod(0o644)
    stored.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    try:
        done = run("repository", "verify", "--data", controller.data)
        assert done.status == 1
        assert sha256 in done.text
        assert done.stderr.startswith("flotilla: 1 thing is wrong")
        as_json: list[dict[str, Any]] = json.loads(
            run("repository", "verify", "--data", controller.data, "--json").text
        )
        assert any(sha256 in problem["where"] for problem in as_json)
    finally:
        stored.write_bytes(good)
    assert run("repository", "verify", "--data", controller.data).status == 0


# Withdrawing, and other sites


def test_an_export_is_refused_as_what_it_is(run: Run, tmp_path: Path, in_folder: Path, name: str) -> None:
    assert run("push", make_package(tmp_path, name, "1.0.0", {"v": "1"})).status == 0
    assert run("export", name, "1.0.0", "-o", "for-devices").status == 0
    assert run("export", f"{name}@^1", "--for-site", "-o", "for-site").status == 0
    assert "exported for devices" in run("push", "for-devices").complaint()
    assert "flotilla import" in run("push", "for-site").complaint()
    (in_folder / "text").write_text("text")
    assert "no package file" in run("push", "text").complaint()
    assert run("root", "-o", "root.json").status == 0
    assert run("import", "for-site", "--root", "root.json").text == f"was already there: {name}@1.0.0@any\n"
    assert "not the trusted one" in run("import", "for-site", "--root", "text").complaint()


def test_yank_withdraw_and_gc(run: Run, tmp_path: Path, name: str) -> None:
    channel = name[-30:]
    for version in ("1.0.0", "1.1.0"):
        assert run("push", make_package(tmp_path, name, version, {"v": version})).status == 0
    told = run("release", name, "1.1.0", "--channel", channel)
    assert "no device" in told.stderr
    yanked = run("yank", name, "1.1.0", "--reason", "broken")
    assert f"flotilla withdraw {name} --channel {channel}" in yanked.stderr
    assert [one["version"] for one in run("packages", name, "--json").json()] == ["1.0.0"]
    assert "broken" in run("packages", name, "--yanked").text
    assert run("bundles", name, "1.1.0").status == 0
    assert "--undo" in run("release", name, "1.1.0", "--channel", channel).complaint()
    assert run("withdraw", name, "--channel", channel).status == 0
    assert "announces no package" in run("withdraw", name, "--channel", channel).complaint()
    assert run("yank", name, "1.1.0", "--undo").status == 0
    would = run("gc", "--keep", "1", "--older-than", "0d", "--json").json()
    assert f"{name}@1.0.0@any" in would["releases"]
    assert not would["done"]
    assert len(run("packages", name, "--json").json()) == 2
