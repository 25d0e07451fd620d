"""Dependencies of Python applications: for the device's platform, the same everywhere, without a network."""

import csv
import sys
from pathlib import Path

import pytest

from controller.packaging import python_requirements
from controller.packaging.package_creator import PackageCreator
from controller.packaging.package_file import open_package
from controller.packaging.project import PythonTable
from controller.packaging.python_requirements import install_requirements
from schemas.errors import PublisherError
from tests.support.packages import make_source, make_wheel, write_file

ARM = "linux-aarch64"


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """uv keeps what it unpacked, by the wheel's path; nothing of another test or the tester's own settings."""
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path_factory.mktemp("uv-cache")))
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    monkeypatch.setenv("UV_OFFLINE", "1")


def python_source(folder: Path, requirements: str = "gauge==1.0\n", **python: object) -> Path:
    """A source with wheels of its own: `gauge` for all, `fast` compiled for two platforms."""
    make_wheel(
        folder / "wheels",
        "gauge",
        "1.0",
        {"gauge/__init__.py": "def main():\n    print('gauge')\n", "gauge/data/scale.txt": "0..220\n"},
        scripts={"gauge": "gauge:main"},
    )
    for machine in ("aarch64", "x86_64"):
        make_wheel(
            folder / "wheels",
            "fast",
            "1.0",
            {"fast.py": f"MACHINE = '{machine}'\n"},
            tag=f"cp311-cp311-manylinux_2_17_{machine}",
        )
    write_file(folder / "requirements.txt", f"--no-index\n--find-links wheels\n{requirements}")
    return make_source(
        folder,
        files={"app.py": "import gauge\n"},
        package={"platform": ARM, "exclude": ["wheels/", "requirements.txt"]},
        python={"requirements": "requirements.txt", **python},
    )


def contents_of(package: Path) -> dict[str, bytes]:
    with open_package(package) as reader:
        by_hash = {digest: stream.read() for digest, _, stream in reader.contents()}
        return {file.path: by_hash[file.sha256] for file in reader.manifest.files}


def install(source: Path, destination: Path, platform: str = ARM, **table: object) -> None:
    destination.mkdir()
    install_requirements(source, PythonTable(requirements="requirements.txt", **table), platform, destination)  # type: ignore[arg-type]  # fields by name


def test_requirements_go_into_the_package(tmp_path: Path) -> None:
    source = python_source(tmp_path / "src")
    files = contents_of(PackageCreator(source).build(out=tmp_path).path)
    assert set(files) == {
        "app.py",
        "lib/bin/gauge",
        "lib/gauge/__init__.py",
        "lib/gauge/data/scale.txt",
        *(f"lib/gauge-1.0.dist-info/{name}" for name in ("INSTALLER", "METADATA", "RECORD", "REQUESTED", "WHEEL")),
        "lib/gauge-1.0.dist-info/entry_points.txt",
    }
    assert files["lib/gauge/data/scale.txt"] == b"0..220\n"


@pytest.mark.parametrize(("platform", "machine"), [(ARM, "aarch64"), ("linux-x86_64", "x86_64")])
def test_compiled_files_are_those_of_the_target(tmp_path: Path, platform: str, machine: str) -> None:
    install(python_source(tmp_path / "src", "fast\n"), tmp_path / "lib", platform)
    assert (tmp_path / "lib" / "fast.py").read_text() == f"MACHINE = '{machine}'\n"


def test_another_platform_of_uvs_can_be_named(tmp_path: Path) -> None:
    source = python_source(tmp_path / "src", "fast\n")
    install(source, tmp_path / "lib", "pi-five", platforms={"pi-five": "aarch64-manylinux_2_36"})
    assert (tmp_path / "lib" / "fast.py").read_text() == "MACHINE = 'aarch64'\n"


def test_nothing_of_this_machine_stays(tmp_path: Path) -> None:
    source = python_source(tmp_path / "src", "./wheels/gauge-1.0-py3-none-any.whl\n")
    install(source, tmp_path / "lib")
    for path in (tmp_path / "lib").rglob("*"):
        if path.is_file():
            text = path.read_bytes()
            assert str(tmp_path).encode() not in text, path
            assert sys.executable.encode() not in text, path
    assert not list((tmp_path / "lib").rglob("*.pyc"))
    assert not (tmp_path / "lib" / ".lock").exists()
    assert (tmp_path / "lib" / "bin" / "gauge").read_text().startswith("#!/usr/bin/env python3\n")


def test_two_places_give_the_same_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = []
    real = Path(sys.executable).resolve()
    for place in ("a", "b/deeper/" + "x" * 120):
        source = python_source(tmp_path / place / "src", "gauge\nfast\n")
        monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / place / "cache"))
        # the interpreter of another machine; where its path is over 127 characters, uv starts scripts through /bin/sh
        interpreter = tmp_path / place / "python"
        interpreter.symlink_to(real)
        monkeypatch.setattr(sys, "executable", str(interpreter))
        packages.append(PackageCreator(source).build(out=tmp_path / place).path.read_bytes())
    assert packages[0] == packages[1]


@pytest.mark.parametrize(
    "shebang",
    [
        "#!/home/me/.venv/bin/python\n",
        "#!/usr/bin/python3.11 \n",
        "#!/bin/sh\n'''exec' '/a long/path/python' \"$0\" \"$@\"\n' '''\n",
    ],
)
def test_scripts_ask_for_the_devices_python(tmp_path: Path, shebang: str) -> None:
    script = write_file(tmp_path / "tool", f"{shebang}print(1)\n")
    python_requirements._free_script(script)
    assert script.read_text() == "#!/usr/bin/env python3\nprint(1)\n"
    assert script.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("text", [b"#!/bin/sh\necho\n", b"\x7fELF", b"#!/usr/bin/env python3\n", b"#!/usr/bin/perl\n"])
def test_other_scripts_stay(tmp_path: Path, text: bytes) -> None:
    script = write_file(tmp_path / "tool", text)
    python_requirements._free_script(script)
    assert script.read_bytes() == text


def test_the_record_lists_the_files_that_are_there(tmp_path: Path) -> None:
    install(python_source(tmp_path / "src"), tmp_path / "lib")
    with (tmp_path / "lib" / "gauge-1.0.dist-info" / "RECORD").open(newline="") as file:
        rows = list(csv.reader(file))
    assert [row[0] for row in rows] == sorted(
        path.relative_to(tmp_path / "lib").as_posix() for path in (tmp_path / "lib").rglob("*") if path.is_file()
    )
    sizes = {row[0]: row[2] for row in rows}
    assert sizes["bin/gauge"] == str((tmp_path / "lib" / "bin" / "gauge").stat().st_size)


def test_excludes_hold_for_requirements_too(tmp_path: Path) -> None:
    source = python_source(tmp_path / "src", target="vendor")
    text = (
        (source / "flotilla.toml").read_text().replace('"wheels/"', '"wheels/", "vendor/gauge/data/", "*.dist-info/"')
    )
    (source / "flotilla.toml").write_text(text)
    files = contents_of(PackageCreator(source).build(out=tmp_path).path)
    assert set(files) == {"app.py", "vendor/bin/gauge", "vendor/gauge/__init__.py"}


def test_a_file_in_both_is_refused(tmp_path: Path) -> None:
    source = python_source(tmp_path / "src")
    write_file(source / "lib" / "gauge" / "__init__.py", "")
    with pytest.raises(PublisherError, match=r"'lib/gauge/__init__\.py' is in the source folder and among the Py"):
        PackageCreator(source).build(out=tmp_path)


@pytest.mark.parametrize(
    ("requirements", "message"),
    [
        ("missing==1.0\n", "'requirements.txt': No solution found when resolving dependencies"),
        ("gauge==9\n", "there is no version of gauge==9"),
        ("gauge ==\n", "requirements.txt"),
        ("-e ./wheels\n", "requirements.txt"),
    ],
)
def test_uvs_reason_is_one_line_and_nothing_is_made(tmp_path: Path, requirements: str, message: str) -> None:
    source = python_source(tmp_path / "src", requirements)
    with pytest.raises(PublisherError) as caught:
        PackageCreator(source).build(out=tmp_path / "out")
    assert message in caught.value.message
    assert caught.value.message.isprintable()
    assert "hint" not in caught.value.message
    assert not (tmp_path / "out").exists()


def test_source_code_is_not_built(tmp_path: Path) -> None:
    """A build runs foreign code, and what it compiles would be for this machine."""
    source = python_source(tmp_path / "src", "./local\n")
    write_file(source / "local" / "setup.py", f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(PublisherError, match=r"requirements\.txt"):
        PackageCreator(source).build(out=tmp_path)
    assert not (tmp_path / "ran").exists()


def test_an_editable_requirement_is_refused(tmp_path: Path) -> None:
    info = tmp_path / "lib" / "local-1.0.dist-info"
    write_file(info / "direct_url.json", '{"url": "file:///x", "dir_info": {"editable": true}}')
    with pytest.raises(ValueError, match="local is editable"):
        python_requirements._make_reproducible(tmp_path / "lib")


@pytest.mark.parametrize(
    ("platform", "message"),
    [
        ("any", "needs a platform to choose files for; set package.platform or give --platform"),
        ("linux-armv7l", "uv cannot choose files for 'linux-armv7l' on this machine"),
        ("amiga-68k", "uv cannot choose files for 'amiga-68k' on this machine"),
    ],
)
def test_a_platform_that_uv_does_not_know_is_refused(tmp_path: Path, platform: str, message: str) -> None:
    source = python_source(tmp_path / "src")
    with pytest.raises(PublisherError, match=message):
        install(source, tmp_path / "lib", platform)


def test_a_32_bit_pi_builds_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    table = PythonTable(requirements="r")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(sys, "maxsize", 2**31 - 1)
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert python_requirements._uv_platform(table, "linux-armv7l") == ""


def test_uvs_time_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = write_file(tmp_path / "uv", "#!/bin/sh\nexec /bin/sleep 60\n")
    monkeypatch.setattr("uv.find_uv_bin", lambda: str(slow))
    source = python_source(tmp_path / "src")
    (tmp_path / "lib").mkdir()
    with pytest.raises(PublisherError, match="uv was not done after 0 s"):
        install_requirements(source, PythonTable(requirements="requirements.txt"), ARM, tmp_path / "lib", timeout_s=0.3)


def test_a_machine_without_uv_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> str:
        raise FileNotFoundError("uv")

    monkeypatch.setattr("uv.find_uv_bin", missing)
    with pytest.raises(PublisherError, match=r"uv, which python\.requirements needs, is not installed"):
        install(python_source(tmp_path / "src"), tmp_path / "lib")
