"""Starts the agent, and brings the old one back where a new release of it does not work. Itself it is never updated.

It starts what `{root}/packages/NAME/current` leads to, else the installation that it came with itself, and starts it
again when it ends. After an update of that package (a trial, see `trial.py`) the new release has to say in time that
it is well, and may not end more than a few times before its update is over; else the link is changed back. It never
goes on to another release than the one that ran before, so it cannot loop. See docs/decisions/0010.

Standard library only. Usage: python -I -S agent_launcher.py ROOT PACKAGE [what `flotilla-agent run` takes…]
"""

import fcntl
import os
import signal
import socket
import sys
import time
from pathlib import Path
from types import FrameType

if __name__ == "__main__":
    # -I and -S leave out all but the standard library, so that nothing that is updated can get in the way
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from device_agent.agent_child import FOLDER, HAND_OVER, RELEASE, SIGN_OF_LIFE_S, AgentChild, program_of, say
from device_agent.trial import Trial, flush, is_name, read_trial, write_trial

MAX_STARTS = 3
"""So many starts of a release on trial; each may be ended by a crash or by the power."""
START_S = 900.0
"""How long an agent that is not on trial may take to be ready."""
STOP_S = 50.0
"""How long an agent may take to end; less than systemd's limit for the unit."""
STEADY_S = 60.0
"""A run of this length, of an agent that was ready, was none of a row of failures."""
MAX_PAUSE_S = 30.0
HOPELESS = 5
"""After so many failures in a row, every other start is of the installation that the launcher came with."""
INSTALLATION = (sys.executable, "-P", "-m", "device_agent.cli.main")
"""The agent that the launcher came with."""
LOCK = "launcher.lock"
CURRENT = "current"


class Launcher:
    """See the module.

    Args:
        root: the agent's root folder.
        package: the agent's own package.
        arguments: for `flotilla-agent run`.
    """

    def __init__(self, root: Path, package: str, arguments: list[str]) -> None:
        self._root = root.absolute()
        self._folder = self._root / "packages" / package
        self._arguments = arguments
        self._systemd = _Systemd()
        self._told = False
        self._failures = 0
        self._wake, waker = os.pipe()
        for descriptor in (self._wake, waker):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._tell)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)

    def run(self) -> int:
        """Until told to end; the exit status."""
        while not self._is_told():
            release, trial = self._choose()
            begun = time.monotonic()
            try:
                child = AgentChild(*self._command(release))
            except OSError as error:
                _log(f"cannot start the agent: {error}")
                self._failed()
                continue
            why = self._watch(child, trial)
            child.end()
            if self._is_told():
                if child.healthy or time.monotonic() - begun < STEADY_S:
                    self._uncount(trial)
                return 0
            handed_over = child.status == HAND_OVER
            if trial is not None and not handed_over and not child.healthy and (why or trial.starts >= MAX_STARTS):
                self._give_up(trial, why or _how(child.status), child.tail)
            elif handed_over and time.monotonic() - begun > 1:
                self._failures = 0
                continue
            elif not handed_over:
                _log(f"the agent {why or _how(child.status)}; it is started again")
            self._failed(steady=child.ready and time.monotonic() - begun > STEADY_S)
        return 0

    def _choose(self) -> tuple[str, Trial | None]:
        """The release to start, and its trial where it is on one; changes the link back where it has to be."""
        trial, linked = read_trial(self._root), self._linked()
        if trial is None or trial.target != linked:
            return linked, None
        if trial.failed:
            return self._go_back(trial), None  # the power went between saying so and doing so
        if trial.starts >= MAX_STARTS:
            self._give_up(trial, f"had not proven itself after {MAX_STARTS} starts", trial.log_tail.encode())
            return trial.source, None
        if trial.target and program_of(self._folder, trial.target) is None:
            self._give_up(trial, "has no program bin/flotilla-agent", b"")
            return trial.source, None
        trial.starts += 1
        self._keep(trial)
        return linked, trial

    def _command(self, release: str) -> tuple[list[str], dict[str, str]]:
        program = program_of(self._folder, release)
        if program is None or (self._failures >= HOPELESS and self._failures % 2):
            release, words = "", list(INSTALLATION)
        else:
            words = [str(program)]
        return [*words, "run", *self._arguments], {RELEASE: release, FOLDER: str(self._folder)}

    def _watch(self, child: AgentChild, trial: Trial | None) -> str:
        """Wait until it has ended, or has to be; why, where it did not end by itself."""
        killed_at = 0.0
        while not child.reap():
            now = time.monotonic()
            if self._told and not killed_at:
                child.send(signal.SIGTERM)
                killed_at = now + STOP_S
            ends = [self._systemd.due(now)]
            limit_s = trial.within_s if trial is not None else START_S
            if killed_at:
                ends.append(killed_at)
                why = "did not end in time"
            elif not (child.healthy if trial is not None else child.ready):
                ends.append(child.begun + limit_s)
                why = f"was not {'well' if trial is not None else 'ready'} within {limit_s:g} s"
            else:
                ends.append(child.sign_of_life + SIGN_OF_LIFE_S)
                why = f"gave no sign of life for {SIGN_OF_LIFE_S:g} s"
            if now >= ends[1]:
                return why
            self._systemd.pass_on(child.wait(self._wake, min(ends) - now))
        return ""

    def _failed(self, *, steady: bool = False) -> None:
        """Count, and wait a while that grows with each failure in a row; `steady` ends the row."""
        self._failures = 0 if steady else self._failures + 1
        until = time.monotonic() + min(MAX_PAUSE_S, 0.25 * 2.0 ** min(self._failures, 8))
        while not self._told and (now := time.monotonic()) < until:
            self._systemd.pass_on([])
            _wait(self._wake, min(until, self._systemd.due(now)) - now)

    def _give_up(self, trial: Trial, why: str, tail: bytes) -> None:
        """Say so first, then change the link: cut off in between, the next start does the rest."""
        trial.failed = f"the agent's release {trial.version or 'of the installation'} {why}"
        trial.log_tail = tail.decode(errors="replace")
        _log(f"{trial.failed}; going back to {trial.source or 'the installation'}")
        self._failures = 0
        self._keep(trial)
        self._go_back(trial)

    def _go_back(self, trial: Trial) -> str:
        link, new = self._folder / CURRENT, self._folder / f".{CURRENT}.new"
        try:
            new.unlink(missing_ok=True)
            if trial.source:
                new.symlink_to(f"releases/{trial.source}")
                new.replace(link)
            else:
                link.unlink(missing_ok=True)
            flush(self._folder)
        except OSError as error:
            _log(f"cannot change {link}: {error}")
        return trial.source

    def _uncount(self, trial: Trial | None) -> None:
        """Being told to end is not the release's fault; that it was not well for so long by then may be."""
        kept = read_trial(self._root)
        if trial is not None and kept is not None and kept.target == trial.target and not kept.failed:
            kept.starts = max(0, kept.starts - 1)
            self._keep(kept)

    def _keep(self, trial: Trial) -> None:
        try:
            write_trial(self._root, trial)
        except OSError as error:
            _log(f"cannot write down how the trial goes: {error}")

    def _linked(self) -> str:
        try:
            name = (self._folder / CURRENT).readlink().name
        except OSError:
            return ""
        return name if is_name(name) else ""

    def _is_told(self) -> bool:
        return self._told

    def _tell(self, _number: int, _frame: FrameType | None) -> None:
        self._told = True


class _Systemd:
    """What systemd is told, where it listens: signs of life of the launcher itself, and what the agent says."""

    def __init__(self) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        usec = os.environ.get("WATCHDOG_USEC", "")
        self._every = int(usec) / 2e6 if address and usec.isdigit() and int(usec) > 0 else 0.0
        self._next = time.monotonic()

    def due(self, now: float) -> float:
        """When the next sign of life is due."""
        return self._next if self._every else now + 3600

    def pass_on(self, lines: list[str]) -> None:
        """Tell what the agent said, and give a sign of life where it is time."""
        # not STOPPING: an agent that hands over to another is not the end of the service
        told = [line for line in lines if line == "READY=1" or line.startswith("STATUS=")]
        if self._every and time.monotonic() >= self._next:
            self._next = time.monotonic() + self._every
            told.append("WATCHDOG=1")
        if not told or not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
                out.setblocking(False)
                out.sendto("\n".join(told).encode(), self._address)
        except OSError:
            return


def _wait(wake: int, timeout_s: float) -> None:
    import select  # noqa: PLC0415  # loaded already by the child's module

    if select.select([wake], [], [], max(0.0, timeout_s))[0]:
        os.read(wake, 4096)


def _how(status: int | None) -> str:
    if status is None:
        return "did not end"
    return f"ended with status {status}" if status >= 0 else f"was ended by signal {-status}"


def _log(text: str) -> None:
    say(f"WARNING action=launcher message={text!r}\n".encode(errors="replace"))


def main(arguments: list[str]) -> int:
    """See the module."""
    root = Path(arguments[0])
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = os.open(root / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say(f"flotilla-agent: another launcher works on {root}; stop that one first\n".encode())
        return 1
    except OSError as error:
        say(f"flotilla-agent: {root}: {error.strerror}\n".encode())
        return 1
    return Launcher(root, arguments[1], arguments[2:]).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
