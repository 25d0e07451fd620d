"""What an idle agent costs: resident memory and wake-ups, fresh and after an update.

The bars: 40 MiB, and one wake-up a second. Baselines of the same run: a bare interpreter, and one that has
imported asyncio, both asleep.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import print_table, state_machine
from controller.demo.fleet import DemoFleet
from controller.demo.sample import sample_folder
from controller.demo.story import STORY, build_releases, tell

MAX_MIB = 40.0
MAX_WAKE_UPS = 1.0


def field(pid: int, name: str) -> int:
    """A number of /proc/PID/status."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise LookupError(name)


def threads(pid: int) -> list[Path]:
    """The status files of a process's threads."""
    return [task / "status" for task in Path(f"/proc/{pid}/task").iterdir()]


def wake_ups(pid: int) -> int:
    """How often the threads of a process went to sleep by themselves, and so were woken."""
    count = 0
    for status in threads(pid):
        for line in status.read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches:"):
                count += int(line.split()[1])
    return count


def measure(pid: int, seconds: float) -> tuple[float, float]:
    """(resident MiB at the end, wake-ups a second)."""
    before = wake_ups(pid)
    time.sleep(seconds)
    return field(pid, "VmRSS") / 1024, (wake_ups(pid) - before) / seconds


def sleeper(code: str) -> float:
    """Resident MiB of an interpreter that ran `code` and sleeps."""
    script = f"{code}; import sys, time; print('ready', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        return field(process.pid, "VmRSS") / 1024
    finally:
        process.kill()
        process.wait()


def main() -> int:
    """Measure and compare with the bars; the exit status says whether they hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30, help="how long to count wake-ups")
    seconds = parser.parse_args().seconds
    state_machine()
    rows = [
        ("bare interpreter", f"{sleeper('pass'):.1f}", "-"),
        ("with asyncio", f"{sleeper('import asyncio'):.1f}", "-"),
    ]
    measured = []
    with tempfile.TemporaryDirectory(prefix="flotilla-bench-") as name, DemoFleet(Path(name), 1) as fleet:
        files = build_releases(sample_folder(None), fleet.folder / "build")
        fleet.wait(fleet.all_online, "the start of the agent", 30)
        pid = fleet.pid_of("pi-1")
        time.sleep(3)
        measured.append(("agent, fresh", *measure(pid, seconds)))
        tell(fleet, STORY[0], files["1.0.0"], lambda *_: None)
        tell(fleet, STORY[1], files["1.1.0"], lambda *_: None)
        time.sleep(3)
        measured.append(("agent, after two updates, service running", *measure(pid, seconds)))
    rows += [(what, f"{mib:.1f}", f"{rate:.2f}") for what, mib, rate in measured]
    print_table("Idle agent", ("process", "resident MiB", "wake-ups/s"), rows)
    held = all(mib <= MAX_MIB and rate <= MAX_WAKE_UPS for _, mib, rate in measured)
    print(f"bars ({MAX_MIB:.0f} MiB, {MAX_WAKE_UPS:.0f} wake-up/s): {'held' if held else 'MISSED'}")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
