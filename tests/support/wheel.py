"""The project's wheel, made in a test, and laid out as `pip install` would."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

from controller.demo.processes import program

ROOT = Path(__file__).parents[2]
BOUND_S = 100.0


def build_wheel(folder: Path) -> Path:
    """The wheel's file; the tree that it is made of stays as it is."""
    command = [program("uv"), "build", "--quiet", "--wheel", "--no-build-isolation", "--python", sys.executable]
    made = subprocess.run(
        [*command, "--out-dir", str(folder), str(ROOT)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


def laid_out(folder: Path) -> dict[str, str]:
    """Variables with which every program of this environment runs what the wheel has, and nothing of the tree."""
    packages = folder / "packages"
    with zipfile.ZipFile(build_wheel(folder)) as wheel:
        wheel.extractall(packages)
    variables = {**os.environ, "PYTHONPATH": str(packages), "PYTHONDONTWRITEBYTECODE": "1"}
    asking = [sys.executable, "-c", "import controller; print(controller.__file__)"]
    found = subprocess.run(
        asking, cwd=folder, env=variables, capture_output=True, text=True, timeout=BOUND_S, check=True
    )
    assert Path(found.stdout.strip()).is_relative_to(packages)
    return variables
