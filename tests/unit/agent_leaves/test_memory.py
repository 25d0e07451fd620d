"""What an idle agent has loaded: nothing that only an update needs."""

import json
import subprocess
import sys
from pathlib import Path

HEAVY = {
    "tuf",
    "securesystemslib",
    "cryptography",
    "urllib3",
    "backports.zstd",
    "compression.zstd",
    "tarfile",
    "http.client",
}
LIGHT = ["checks", "hooks", "processes", "rendering", "services", "services.supervisor", "services.systemd", "sources"]


def test_modules_of_an_idle_agent_load_nothing_heavy() -> None:
    names = [f"device_agent.{name}" for name in LIGHT]
    program = f"import json, sys, {', '.join(names)}; print(json.dumps(sorted(sys.modules)))"
    told = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    loaded = set(json.loads(told.stdout))
    assert set(names) <= loaded
    assert not loaded & HEAVY
