"""Run as a script in front of a child's real command: a child must not outlive the agent.

On Linux `PR_SET_PDEATHSIG` has the kernel kill the child when the thread that started it ends, however it
ends. It has to be set between fork and exec, and after a change of account, which clears it; doing that
with `preexec_fn` is not safe in a process with threads, so this small program does it and then becomes
the real command. It costs no memory afterwards. The account is changed here too, because the agent's
interpreter need not be readable by others.

Usage: python -I -S launcher.py PARENT_PID ACCOUNT COMMAND [ARGUMENT…]; ACCOUNT may be empty.
"""

import os
import signal
import sys

PR_SET_PDEATHSIG = 1
EXIT_ORPHANED = 125
EXIT_NOT_STARTED = 127


def main(arguments: list[str]) -> int:
    """Become the command; returns an exit code only where that is impossible."""
    parent, account, command = int(arguments[0]), arguments[1], arguments[2:]
    try:
        libc = None
        if sys.platform == "linux":
            import ctypes  # noqa: PLC0415  # before the account is changed, which may not read it

            libc = ctypes.CDLL(None)
        if account:
            become(account)
        if libc is not None:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            return EXIT_ORPHANED  # the agent died before the call above
        # Python ignores these two, and what is ignored stays ignored in the new program.
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        os.execv(command[0], command)  # noqa: S606  # becoming the command is what this is for
    except (OSError, KeyError) as error:
        sys.stderr.write(f"cannot run {command[0]}: {error}\n")
    return EXIT_NOT_STARTED


def become(account: str) -> None:
    """Give up root for good: groups first, as they cannot be changed afterwards."""
    import pwd  # noqa: PLC0415  # only where an account is named

    entry = pwd.getpwnam(account)
    os.initgroups(account, entry.pw_gid)
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
