"""The launcher with agents that are a few lines: what it starts, when it goes back, what it never does."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from device_agent.agent_child import HEALTHY, PIPE
from device_agent.trial import Trial, read_trial, write_trial

BOUND_S = 30.0
PACKAGE = "flotilla-agent"
OLD, NEW = "1.0.0+aaaaaaaa", "2.0.0+bbbbbbbb"
WELL = f"say('READY=1', '{HEALTHY}'); wait()"
ENDS = "print('this went wrong', file=sys.stderr); sys.exit(7)"
HANGS = "wait()"
PROGRAM = f"""#!{sys.executable} -IS
import os, signal, sys, time
def say(*lines): os.write(int(os.environ[{PIPE!r}]), "".join(one + "\\n" for one in lines).encode())
def wait():
    # not a handler and a sleep: a signal just before the sleep would not end it
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    signal.sigwait([signal.SIGTERM])
    sys.exit(0)
pid = {{log!r}} + ".pid"
with open(pid + "~", "w") as one: one.write(str(os.getpid()))
os.replace(pid + "~", pid)
# last: a test that has seen the line asks for the id
with open({{log!r}}, "a") as log: log.write(os.environ["FLOTILLA_AGENT_RELEASE"] + " " + " ".join(sys.argv[1:]) + "\\n")
{{does}}
"""


class Bench:
    """A root folder with releases that are one program each, and launchers on it."""

    def __init__(self, root: Path, stack: ExitStack) -> None:
        self.root = root
        self.folder = root / "packages" / PACKAGE
        self.log = root / "starts"
        self._stack = stack
        self.put(OLD, WELL)
        self.link(OLD)
        self.installation = self._program(root / "installation", WELL)

    def put(self, release: str, does: str) -> None:
        self._program(self.folder / "releases" / release / "bin" / "flotilla-agent", does)

    def link(self, release: str) -> None:
        link = self.folder / "current"
        link.unlink(missing_ok=True)
        link.symlink_to(f"releases/{release}")

    def try_out(self, does: str | None, *, within_s: float = 20, **trial: object) -> None:
        """As an agent does that switches from OLD to NEW."""
        if does is not None:
            self.put(NEW, does)
        fields = {"target": NEW, "source": OLD, "version": "2.0.0", "within_s": within_s, "must_connect": False}
        write_trial(self.root, Trial(**{**fields, **trial}))  # type: ignore[arg-type]  # plain values
        self.link(NEW)

    def launch(self, env: dict[str, str] | None = None, **constants: float) -> "subprocess.Popen[bytes]":
        """A launcher; `constants` of its modules have other values."""
        code = "import sys, device_agent.agent_launcher as one, device_agent.agent_child as child\n"
        code += f"one.INSTALLATION = [{str(self.installation)!r}]\n"
        constants = {"MAX_PAUSE_S": 0.02, **constants}
        code += "".join(f"one.{name} = child.{name} = {value}\n" for name, value in constants.items())
        code += f"sys.exit(one.main([{str(self.root)!r}, {PACKAGE!r}, '--id', 'pi-1']))"
        process = subprocess.Popen(
            [sys.executable, "-c", code], stderr=subprocess.PIPE, env={**os.environ, **(env or {})}
        )
        self._stack.callback(end, process)
        return process

    @property
    def starts(self) -> list[str]:
        """The releases that were started, in order; empty for the installation."""
        return [line.split(" ")[0] for line in self.log.read_text().splitlines()] if self.log.exists() else []

    @property
    def linked(self) -> str:
        return (self.folder / "current").readlink().name

    @property
    def agent(self) -> int:
        return int(self.log.with_name("starts.pid").read_text())

    def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + BOUND_S
        while not condition():
            assert time.monotonic() < deadline, self.starts
            time.sleep(0.01)

    def started(self, count: int) -> None:
        """Wait for so many starts."""
        self.until(lambda: len(self.starts) == count)

    def gone(self, pid: int) -> None:
        """Wait for the end of a process."""
        self.until(lambda: not runs(pid))

    def _program(self, path: Path, does: str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(PROGRAM.format(log=str(self.log), does=does))
        path.chmod(0o755)
        return path


def end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.kill()
    process.communicate()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(tmp_path / "root", stack)


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_the_linked_release_is_started_as_run_is_and_ends_with_the_launcher(bench: Bench) -> None:
    launcher = bench.launch()
    bench.until(lambda: bench.starts)
    assert bench.log.read_text() == f"{OLD} run --id pi-1\n"
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(BOUND_S) == 0
    assert not runs(bench.agent)


@pytest.mark.parametrize("trouble", ["no link", "no program"])
def test_where_nothing_is_linked_the_installation_is_started(bench: Bench, trouble: str) -> None:
    (bench.folder / "current").unlink() if trouble == "no link" else bench.link("9.0.0+gone")
    bench.launch()
    bench.until(lambda: bench.starts == [""])


def test_a_release_that_is_well_stays_and_an_agent_that_ends_is_started_again(bench: Bench) -> None:
    bench.try_out(WELL, within_s=1)
    bench.launch()
    bench.until(lambda: len(bench.starts) == 1 and bench.log.with_name("starts.pid").exists())
    bench.until(lambda: read_trial(bench.root).starts == 1)  # type: ignore[union-attr]  # there is one
    time.sleep(1.2)  # longer than it had to prove itself
    assert runs(bench.agent)
    os.kill(bench.agent, signal.SIGKILL)
    bench.until(lambda: bench.starts == [NEW, NEW])
    assert bench.linked == NEW


def test_a_release_that_ends_is_left_after_a_few_starts_with_its_last_words(bench: Bench) -> None:
    bench.try_out(ENDS)
    bench.launch()
    bench.until(lambda: bench.starts == [NEW, NEW, NEW, OLD])
    trial = read_trial(bench.root)
    assert trial is not None
    assert trial.failed == "the agent's release 2.0.0 ended with status 7"
    assert trial.log_tail == "this went wrong\n"
    assert bench.linked == OLD


def test_a_release_that_hangs_is_left_when_its_time_is_over(bench: Bench) -> None:
    bench.try_out(HANGS, within_s=1)
    bench.launch()
    bench.until(lambda: bench.starts == [NEW, OLD])
    assert read_trial(bench.root).failed == "the agent's release 2.0.0 was not well within 1 s"  # type: ignore[union-attr]


def test_ready_alone_is_not_well(bench: Bench) -> None:
    bench.try_out("say('READY=1'); wait()", within_s=1)
    bench.launch()
    bench.until(lambda: bench.starts == [NEW, OLD])


def test_a_release_that_is_well_and_then_ends_again_and_again_is_left_too(bench: Bench) -> None:
    bench.try_out(f"say('READY=1', '{HEALTHY}'); sys.exit(1)")
    bench.launch()
    bench.until(lambda: bench.starts == [NEW, NEW, NEW, OLD])
    assert "3 starts" in read_trial(bench.root).failed  # type: ignore[union-attr]


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends the agent with the launcher only there")
def test_power_cuts_count_as_starts_and_leave_no_agent_behind(bench: Bench) -> None:
    bench.try_out(HANGS)
    for number in (1, 2, 3):
        launcher = bench.launch()
        bench.started(number)
        agent = bench.agent
        launcher.kill()
        launcher.wait(BOUND_S)
        bench.gone(agent)
    bench.launch()
    bench.until(lambda: bench.starts == [NEW, NEW, NEW, OLD])
    assert bench.linked == OLD


def test_being_told_to_end_does_not_count(bench: Bench) -> None:
    bench.try_out(HANGS)
    for number in range(1, 5):
        launcher = bench.launch()
        bench.started(number)
        launcher.send_signal(signal.SIGTERM)
        assert launcher.wait(BOUND_S) == 0
    assert bench.starts == [NEW] * 4
    assert bench.linked == NEW


def test_going_back_that_was_cut_off_is_done_at_the_next_start(bench: Bench) -> None:
    bench.try_out(WELL, failed="the agent's release 2.0.0 was not well", starts=1)
    bench.launch()
    bench.until(lambda: bench.starts == [OLD])
    assert bench.linked == OLD
    assert read_trial(bench.root).failed == "the agent's release 2.0.0 was not well"  # type: ignore[union-attr]


def test_a_switch_that_was_cut_off_before_the_link_is_no_trial(bench: Bench) -> None:
    bench.try_out(WELL)
    bench.link(OLD)
    bench.launch()
    bench.until(lambda: bench.starts == [OLD])
    assert read_trial(bench.root).starts == 0  # type: ignore[union-attr]


def test_a_tree_without_a_program_is_not_even_tried(bench: Bench) -> None:
    (bench.folder / "releases" / NEW).mkdir()
    bench.try_out(None)
    bench.launch()
    bench.until(lambda: bench.starts == [OLD])
    assert "has no program" in read_trial(bench.root).failed  # type: ignore[union-attr]


def test_the_first_release_gives_way_to_the_installation(bench: Bench) -> None:
    bench.try_out(ENDS, source="")
    bench.launch()
    bench.until(lambda: bench.starts == [NEW, NEW, NEW, ""])
    assert not (bench.folder / "current").is_symlink()


def test_what_was_gone_back_to_is_never_left_for_what_was_given_up(bench: Bench) -> None:
    bench.put(OLD, ENDS)
    bench.try_out(ENDS)
    bench.launch()
    bench.until(lambda: "" in bench.starts)
    # where that is hopeless too, the installation gets its turn
    assert bench.starts == [NEW] * 3 + [OLD] * 4 + [""]
    assert bench.linked == OLD


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"target": "../../x"', b"\xff" * 99, b"[" * 60_000])
def test_a_damaged_trial_is_none(bench: Bench, content: bytes) -> None:
    bench.root.joinpath("launcher.json").write_bytes(content)
    bench.launch()
    bench.until(lambda: bench.starts == [OLD])


def test_a_trial_never_leads_out_of_the_releases(bench: Bench) -> None:
    bench.try_out(ENDS, source="../../../../bin")
    assert read_trial(bench.root) is None


def test_an_agent_that_hands_over_is_followed_by_what_is_linked_then(bench: Bench) -> None:
    link = str(bench.folder / "current")
    bench.put(NEW, WELL)
    bench.put(OLD, f"os.unlink({link!r}); os.symlink('releases/{NEW}', {link!r}); sys.exit(93)")
    bench.launch()
    bench.until(lambda: bench.starts == [OLD, NEW])


def test_an_agent_without_a_sign_of_life_is_started_again(bench: Bench) -> None:
    bench.launch(SIGN_OF_LIFE_S=0.5)
    bench.until(lambda: len(bench.starts) == 2)


def test_there_is_one_launcher_on_a_root_folder(bench: Bench) -> None:
    bench.launch()
    bench.until(lambda: bench.starts)
    second = bench.launch()
    _, said = second.communicate(timeout=BOUND_S)
    assert second.returncode == 1
    assert said == f"flotilla-agent: another launcher works on {bench.root}; stop that one first\n".encode()
    assert len(bench.starts) == 1


def test_systemd_hears_what_the_agent_says_and_that_the_launcher_lives(bench: Bench, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        address = f"@flotilla-test-{os.getpid()}"
        systemd.bind("\0" + address[1:])
        systemd.settimeout(BOUND_S)
        bench.put(OLD, "say('STATUS=hello', 'READY=1', 'STOPPING=1'); wait()")
        bench.launch(env={"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "400000"})
        heard: list[str] = []
        while not {"STATUS=hello", "READY=1"} <= set(heard) or heard.count("WATCHDOG=1") < 3:
            heard += systemd.recv(4096).decode().split("\n")
    assert "STOPPING=1" not in heard
    assert "NOTIFY_SOCKET" not in Path(f"/proc/{bench.agent}/environ").read_text()


def test_what_the_agent_prints_goes_on_to_who_reads_the_launcher(bench: Bench) -> None:
    bench.put(OLD, "print('said', file=sys.stderr); wait()")
    launcher = bench.launch()
    assert launcher.stderr is not None
    assert launcher.stderr.readline() == b"said\n"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_launcher_is_small_and_sleeps(bench: Bench) -> None:
    command = [sys.executable, "-I", "-S", str(Path(__file__).parents[2] / "device_agent/agent_launcher.py")]
    with subprocess.Popen([*command, str(bench.root), PACKAGE], stderr=subprocess.DEVNULL) as launcher:
        try:
            bench.until(lambda: bench.starts)
            status = Path(f"/proc/{launcher.pid}/status")
            time.sleep(0.5)
            before = _number(status, "voluntary_ctxt_switches")
            time.sleep(2)
            woken, private = _number(status, "voluntary_ctxt_switches") - before, _number(status, "RssAnon")
        finally:
            launcher.terminate()
    assert woken <= 1
    assert private <= 8 * 1024  # KiB


def _number(status: Path, field: str) -> int:
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(f"{field}:"))


def test_a_release_that_hangs_whenever_somebody_ends_the_launcher_is_given_up(bench: Bench) -> None:
    bench.try_out(HANGS, within_s=600)
    for count in (1, 2, 3):
        launcher = bench.launch(STEADY_S=0)
        bench.started(count)
        launcher.terminate()
        assert launcher.wait(BOUND_S) == 0
    bench.launch(STEADY_S=0)
    bench.started(4)
    assert bench.starts == [NEW, NEW, NEW, OLD]
    assert bench.linked == OLD


def test_where_the_agent_never_gets_ready_the_installation_is_tried(bench: Bench) -> None:
    bench.put(OLD, HANGS)
    bench.launch(START_S=0.3, STEADY_S=0.1, HOPELESS=2)
    bench.until(lambda: "" in bench.starts)
    assert set(bench.starts) == {OLD, ""}
