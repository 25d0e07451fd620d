"""Run as a script in front of a child's real command, on Linux: a child must not outlive the agent.

`PR_SET_PDEATHSIG` has the kernel kill the child when the thread that started it ends, however it ends. It
has to be set between fork and exec; doing that with `preexec_fn` is not safe in a process with threads, so
this small program does it and then becomes the real command. It costs no memory afterwards.

Usage: python -I -S launcher.py PARENT_PID COMMAND [ARGUMENT…]
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
EXIT_ORPHANED = 125
EXIT_NOT_STARTED = 127


def main(arguments: list[str]) -> int:
    """Become the command; returns an exit code only where that is impossible."""
    parent, command = int(arguments[0]), arguments[1:]
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        return EXIT_ORPHANED  # the agent died before the call above
    # Python ignores these two, and what is ignored stays ignored in the new program.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execv(command[0], command)  # noqa: S606  # becoming the command is what this is for
    except OSError as error:
        sys.stderr.write(f"cannot run {command[0]}: {error.strerror}\n")
    return EXIT_NOT_STARTED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
