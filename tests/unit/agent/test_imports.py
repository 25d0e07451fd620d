"""An idle agent is small: what only an update needs is not loaded with the engine."""

import subprocess
import sys

HEAVY = ("tuf", "urllib3", "cryptography", "securesystemslib", "backports.zstd", "compression.zstd", "http.client")


def test_the_engine_loads_nothing_that_only_an_update_needs() -> None:
    program = "import sys, device_agent.update_manager; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    loaded = done.stdout.split()
    assert "device_agent.update_manager" in loaded
    assert not [name for name in loaded if name in HEAVY or name.startswith(tuple(f"{h}." for h in HEAVY))]
