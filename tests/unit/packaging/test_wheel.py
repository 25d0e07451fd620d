"""What `make wheel` makes: all that is installed on a Pi and on the controller's machine, and nothing else."""

import zipfile
from pathlib import Path

from tests.support.wheel import ROOT, build_wheel

PACKAGES = ("schemas", "transport", "controller", "device_agent", "broker_config")


def files_of(folder: Path, name: str) -> set[str]:
    """Files of the tree below a folder, as the wheel is to name them."""
    return {
        f"{name}/{path.relative_to(folder).as_posix()}"
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_it_holds_every_file_of_the_packages_and_of_the_sample_and_no_tests(tmp_path: Path) -> None:
    with zipfile.ZipFile(build_wheel(tmp_path)) as wheel:
        found = {name for name in wheel.namelist() if ".dist-info/" not in name}
        (entries,) = [name for name in wheel.namelist() if name.endswith("/entry_points.txt")]
        programs = wheel.read(entries).decode()
    expected = set().union(*(files_of(ROOT / name, name) for name in PACKAGES))
    expected |= files_of(ROOT / "examples" / "tacho", "controller/demo/tacho")
    assert found == expected
    for needed in (
        "controller/web/templates/rollout.html",
        "controller/web/static/vendor/htmx.min.js",
        "controller/migrations/script.py.mako",
        "controller/migrations/versions/0001_repository.py",
        "controller/rollouts/ready/canary.toml",
        "controller/demo/tacho/app/flotilla.toml",
        "broker_config/production.conf",
        "broker_config/acl",
        "device_agent/systemd/flotilla-agent.service",
        "schemas/py.typed",
    ):
        assert needed in found
    assert {line for line in programs.splitlines() if "=" in line} == {
        "flotilla = controller.cli.main:main",
        "flotilla-agent = device_agent.cli.main:main",
    }
