"""`flotilla demo` as a process: it ends well, says what differed, and leaves nothing behind however it ends."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from controller.demo.processes import program
from tests.support.wheel import laid_out

pytestmark = [pytest.mark.journey, pytest.mark.broker]

SAMPLE = Path(__file__).parents[2] / "examples" / "tacho"
BOUND_S = 110.0
PROC = Path("/proc")


class Demo:
    """A running demo, with variables of its own if given; all that it makes is below `folder`."""

    def __init__(self, folder: Path, *options: str, variables: Mapping[str, str] | None = None) -> None:
        folder.mkdir()
        self.folder = folder
        self._output = folder.with_suffix(".log")
        with self._output.open("wb") as log:
            self.process = subprocess.Popen(
                [program("flotilla"), "demo", *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={**(variables or os.environ), "TMPDIR": str(folder)},
                process_group=0,
            )

    @property
    def said(self) -> str:
        """All that it has printed."""
        return self._output.read_text()

    def until(self, words: str) -> None:
        """Wait until it has printed this."""
        deadline = time.monotonic() + BOUND_S
        while words not in self.said:
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.05)

    def until_controller(self) -> None:
        """Wait until it has started its controller, which does not answer yet."""
        deadline = time.monotonic() + BOUND_S
        while not any(" serve " in command for command in self.processes().values()):
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.02)

    def interrupt(self) -> None:
        """Ctrl-C in a terminal: SIGINT for its whole process group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def ended(self) -> int:
        """Wait for its end; its exit status."""
        return self.process.wait(BOUND_S)

    def processes(self) -> dict[int, str]:
        """Every process that has to do with the folder: in its command line, its variables or where it works."""
        return processes_of(self.folder)


@contextmanager
def demo(folder: Path, *options: str, variables: Mapping[str, str] | None = None) -> Iterator[Demo]:
    """A demo that is gone at the end, with all that it started."""
    made = Demo(folder, *options, variables=variables)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.wait(BOUND_S)
        for pid in made.processes():
            os.kill(pid, signal.SIGKILL)


def processes_of(folder: Path) -> dict[int, str]:
    """Process id to command line of whoever names the folder; zombies have no command line and do not count."""
    name = os.fsencode(folder)
    found = {}
    if not PROC.is_dir():  # macOS shows command lines only
        listed = subprocess.run(["ps", "-A", "-o", "pid=,command="], capture_output=True, check=True).stdout
        lines = [line.strip().partition(b" ") for line in listed.splitlines() if name in line]
        return {int(pid): command.decode(errors="replace") for pid, _, command in lines}
    for entry in PROC.iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes()
            known = (command, (entry / "environ").read_bytes(), os.fsencode((entry / "cwd").readlink()))
        except OSError:
            continue
        if command and any(name in part for part in known):
            found[int(entry.name)] = command.replace(b"\0", b" ").decode(errors="replace")
    return found


@pytest.fixture
def quick_sample(tmp_path: Path) -> Path:
    """A copy of the sample whose releases prove themselves in less time."""
    sample = tmp_path / "sample"
    shutil.copytree(SAMPLE, sample)
    project = sample / "app" / "flotilla.toml"
    text = project.read_text()
    assert "probation_s = 3" in text
    project.write_text(
        text.replace("probation_s = 3", "probation_s = 0.5").replace("interval_s = 0.5", "interval_s = 0.2")
    )
    return sample


def assert_nothing_is_left(ended: Demo) -> None:
    """No process and no file."""
    assert ended.processes() == {}
    assert list(ended.folder.iterdir()) == []


@pytest.mark.long(42)
def test_the_demo_tells_its_story_and_leaves_nothing(tmp_path: Path) -> None:
    # as it is installed, not as it lies here: all that it needs is in the wheel
    with demo(tmp_path / "demo", variables=laid_out(tmp_path)) as running:
        running.until("pi-6 1.0.0 accepted")
        # what is looked for at the end is there while it runs: broker, controller, six agents and their services
        assert len(running.processes()) >= 9
        assert running.ended() == 0, running.said
        assert running.said.startswith("watch it in a browser at http://127.0.0.1:")
        assert "the rollout halted at its first wave, and the other 5 never started it" in running.said
        assert running.said.count("1.1.0 > 1.2.0 rolled_back") == 1
        assert running.said.count("1.1.0 > 1.2.0 accepted") <= 1
        assert_nothing_is_left(running)


def test_a_demo_that_ends_otherwise_says_what_differed_and_fails(tmp_path: Path, quick_sample: Path) -> None:
    releases = quick_sample / "releases"
    shutil.copy(releases / "1.1.0" / "dial.json", releases / "1.2.0" / "dial.json")
    with demo(tmp_path / "demo", "--agents", "2", "--sample", str(quick_sample)) as running:
        assert running.ended() == 1
        lines = [line for line in running.said.splitlines() if "expected" in line]
        wrong = [line.partition(": ")[2] for line in lines]
        assert "expected 1.2.0 to be rolled_back, but it was succeeded" in wrong
        assert "expected 1.2.0 never to get there, but it was succeeded" in wrong
        for device in ("pi-1", "pi-2"):
            assert f"{device}: expected 1.1.0 to run after 1.2.0, but the gauge says 1.2.0" in lines
        assert running.said.splitlines()[-1] == f"flotilla: the story differed, first at {lines[0]}"
        assert "Traceback" not in running.said
        assert running.processes() == {}
        (kept,) = running.folder.iterdir()
        assert (kept / "logs" / "pi-1.log").is_file()


@pytest.mark.parametrize("moment", ["", "pi-1 1.0.0 accepted", "pi-1 1.0.0 > 1.1.0 "])
def test_an_interrupted_demo_leaves_nothing(tmp_path: Path, quick_sample: Path, moment: str) -> None:
    with demo(tmp_path / "demo", "--agents", "2", "--sample", str(quick_sample)) as running:
        running.until_controller()
        running.until(moment)
        running.interrupt()
        assert running.ended() == 130
        assert "Traceback" not in running.said
        assert_nothing_is_left(running)


def test_a_demo_that_is_kept_runs_until_it_is_interrupted(tmp_path: Path, quick_sample: Path) -> None:
    with demo(tmp_path / "demo", "--agents", "1", "--keep", "--sample", str(quick_sample)) as running:
        running.until("Ctrl-C ends it all.")
        assert running.said.startswith("watch it in a browser at http://127.0.0.1:")
        assert running.process.poll() is None
        for words in (
            "/api/docs",
            "Gauge       http://127.0.0.1:",
            "export FLOTILLA_URL=",
            "mosquitto_sub -h 127.0.0.1",
        ):
            assert words in running.said
        running.interrupt()
        assert running.ended() == 0
        assert "Traceback" not in running.said
        assert_nothing_is_left(running)
