"""`flotilla build` and `flotilla inspect` as a person sees them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from controller.cli import build as commands
from controller.cli.main import flotilla
from schemas.errors import PublisherError
from tests.support.packages import build, make_source, write_file
from tests.support.repository import add_release, make_repository


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(flotilla, [str(argument) for argument in arguments])


def call_well(*arguments: str | Path) -> str:
    result = call(*arguments)
    assert result.exit_code == 0, result.exception
    return result.stdout


def test_build_says_what_it_made(tmp_path: Path) -> None:
    source = make_source(tmp_path / "src", files={"a": "1", "b": "2"})
    printed = call_well("build", source, "--out", tmp_path / "dist")
    package = tmp_path / "dist" / "tacho-1.0.0-any.flotilla"
    facts = json.loads(call_well("build", source, "--out", tmp_path / "dist", "--json"))
    assert facts == {
        "path": str(package),
        "package": "tacho",
        "version": "1.0.0",
        "platform": "any",
        "manifest": facts["manifest"],
        "files": 2,
        "size": package.stat().st_size,
    }
    assert printed.splitlines() == [
        f"{package}: 2 files, {facts['size']} bytes (5.0 KiB)",
        f"manifest sha256 {facts['manifest']}",
    ]


def test_build_takes_version_and_platform_and_writes_here_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_source(tmp_path / "src")
    monkeypatch.chdir(tmp_path)
    call_well("build", source, "--version", "2.0.0-rc.1", "--platform", "linux-armv7l")
    assert (tmp_path / "tacho-2.0.0-rc.1-linux-armv7l.flotilla").is_file()


def test_an_error_is_one_line_and_exit_status_1(tmp_path: Path) -> None:
    source = make_source(tmp_path / "src", package={"platfrom": "any"})
    result = subprocess.run(
        [sys.executable, "-c", "from controller.cli.main import main; main()", "build", str(source)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == ("flotilla: flotilla.toml: unknown key 'platfrom' in package; did you mean 'platform'?\n")
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


def test_a_folder_that_there_is_not_is_told_apart_from_a_file(tmp_path: Path) -> None:
    source = make_source(tmp_path / "src")
    for missing in (tmp_path / "missing", source / "flotilla.toml" / "below"):
        assert str(call("build", missing, "--out", tmp_path).exception) == f"there is no folder {missing}"
    given = source / "flotilla.toml"
    says = f"{given} is no folder; name the folder that holds flotilla.toml"
    assert str(call("build", given, "-o", tmp_path).exception) == says


def test_inspect_describes_a_package(tmp_path: Path) -> None:
    source = make_source(
        tmp_path / "src",
        files={"bin/run": "#!/bin/sh\n", "page": "hello"},
        package={"description": "Two\nlines", "modes": {"bin/": "700"}, "state": ["data"]},
        settings={"port": 80, "token": {"required": True}},
        service=[{"name": "web", "command": ["bin/run"]}],
    )
    (source / "link").symlink_to("page")
    package = build(source, tmp_path)
    lines = call_well("inspect", package).splitlines()
    facts = {name.rstrip(":"): value for name, value in ((line[:13].strip(), line[13:]) for line in lines)}
    assert facts["kind"] == f"package, format 1, {package.stat().st_size} bytes, whole"
    assert (facts["package"], facts["version"], facts["platform"]) == ("tacho", "1.0.0", "any")
    assert facts["description"] == "Two lines"
    assert facts["content"] == "2 files, 1 links; 2 distinct contents of 15 bytes (15 B)"
    assert facts["settings"] == "port, token (required)"
    assert (facts["services"], facts["state"]) == ("web", "data")
    assert "hooks" not in facts
    listed = call_well("inspect", package, "--files").splitlines()[len(lines) + 1 :]
    assert [line.split()[0] for line in listed] == ["0700", "0755", "link", "0644"]
    assert [line[83:] for line in listed] == ["bin/", "bin/run", "link -> page", "page"]


def test_inspect_prints_json(tmp_path: Path) -> None:
    package = build(make_source(tmp_path / "src"), tmp_path)
    facts = json.loads(call_well("inspect", package, "--json"))
    assert (facts["head"]["kind"], facts["manifest"]["package"], facts["contents"]) == ("package", "tacho", 1)
    assert "files" not in facts["manifest"]
    full = json.loads(call_well("inspect", package, "--files", "--json"))
    assert [file["path"] for file in full["manifest"]["files"]] == ["hello.txt"]


def test_inspect_describes_an_exported_release(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    add_release(repository, "tacho", "1.0.0", {"a": "1"})
    printed = call_well("inspect", repository.export("tacho", "1.0.0", None, tmp_path))
    assert "release, format 1" in printed
    assert "metadata/timestamp.json" in printed
    assert "(signatures not checked)" in printed


def test_inspect_refuses_what_is_damaged(tmp_path: Path) -> None:
    package = build(make_source(tmp_path / "src"), tmp_path)
    write_file(package, package.read_bytes()[:-600])
    result = call("inspect", package)
    assert isinstance(result.exception, PublisherError)
    assert result.exception.message.startswith(f"{package.name}: the file is cut short")
    assert result.stdout == ""


def test_progress_is_shown_to_terminals_only_and_wiped_away(capsys: pytest.CaptureFixture[str]) -> None:
    silent = commands._Progress(shown=False)
    silent("requirements", 0, 0)
    silent.clear()
    assert capsys.readouterr().err == ""
    shown = commands._Progress(shown=True)
    shown("reading", 1, 2)
    assert capsys.readouterr().err == "", "a build that is soon done shows nothing"
    shown("requirements", 0, 0)
    shown._next = 0
    shown("writing", 1024, 2048)
    shown.clear()
    assert capsys.readouterr().err == "\r\x1b[Krequirements\r\x1b[Kwriting 1.0 KiB of 2.0 KiB\r\x1b[K"


def test_importing_what_reads_packages_is_cheap() -> None:
    """The controller and its command line load this early: no uv, no patterns, no decompressor."""
    dear = ("uv", "pathspec", "tomllib", "subprocess", "backports.zstd", "sqlalchemy")
    code = f"import sys, controller.packaging.package_file; print([m for m in {dear} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    assert done.stdout.strip() == "[]"
