"""examples/agent makes a package that today's agent takes as its successor, and that starts the wheel's own code."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

from controller.packaging.package_reader import open_package
from device_agent.agent_package import check_agent_package
from tests.support.packages import build, make_wheel

LAY_OUT = Path(__file__).parents[3] / "examples" / "agent" / "lay_out.py"
MAIN = "import os, sys\nprint(os.path.abspath(__file__), sys.argv[1:], sys.flags.no_site)\n"
LOCK = "msgspec==0.19.0 \\\n    --hash=sha256:00\nzstd==1.0 ; python_version < '3.14' \\\n    --hash=sha256:11\n"


def test_it_is_taken_and_its_program_starts_what_is_in_it(tmp_path: Path) -> None:
    modules = {"device_agent/__init__.py": "", "device_agent/cli/__init__.py": "", "device_agent/cli/main.py": MAIN}
    wheel = make_wheel(tmp_path, "flotilla_ota", "7.1.0", modules)
    lock, tree = tmp_path / "lock", tmp_path / "unpacked"
    lock.write_text(LOCK)
    source = runpy.run_path(str(LAY_OUT))["lay_out"](tmp_path / "agent", wheel, lock)
    assert (source / "constraints.txt").read_text() == "msgspec==0.19.0\nzstd==1.0 ; python_version < '3.14'\n"

    with open_package(build(source, tmp_path, platform="linux-x86_64")) as package:
        manifest = package.manifest
        check_agent_package(manifest, launched=True)
        assert (manifest.package, manifest.version) == ("flotilla-agent", "7.1.0")
        assert not [entry.path for entry in manifest.files if "wheels" in entry.path or entry.path.endswith(".txt")]
        for sha256, _, content in package.contents():
            for entry in manifest.files:
                if entry.sha256 == sha256:
                    (tree / entry.path).parent.mkdir(parents=True, exist_ok=True)
                    (tree / entry.path).write_bytes(content.read())
                    (tree / entry.path).chmod(entry.mode)
                    content.seek(0) if content.seekable() else None

    link = tmp_path / "current"
    link.symlink_to(tree)
    said = subprocess.run(
        [link / "bin/flotilla-agent", "run", "--id", "pi-1"],
        env={**os.environ, "FLOTILLA_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    # by its own path, not by the link's, which may lead elsewhere while it runs
    assert said.stdout == f"{tree}/lib/device_agent/cli/main.py ['run', '--id', 'pi-1'] 1\n"
