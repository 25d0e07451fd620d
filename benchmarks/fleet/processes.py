"""Figures of other processes, from Linux."""

import os
import time
from pathlib import Path

_SCHEDULED = 2
"""CPUCLOCK_SCHED: the clock of a process is its id, turned over, with this in the lowest three bits."""


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used so far, of all its threads and in the kernel for it.

    To the nanosecond: /proc counts hundredths, which is a tenth of what a small fleet's rollout takes in all.
    """
    return time.clock_gettime(~pid << 3 | _SCHEDULED)


def resident_mib(pid: int) -> float:
    """Memory of a process that is in use now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
