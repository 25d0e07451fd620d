"""`flotilla-agent` as a process: how it starts, ends, works by hand, and how much it needs."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from controller.repository.package_repository import PackageRepository
from schemas.manifest import CommandCheck, Health, Service
from tests.support.agents import agent_process
from tests.support.broker import Broker
from tests.support.repository import add_release, make_repository, serve_folder

pytestmark = pytest.mark.wire

BOUND_S = 60.0
QUICK = Health(probation_s=0.2, start_period_s=2, interval_s=0.1)
SERVICE = Service(name="web", command=[sys.executable, "-c", "import time; time.sleep(600)"])


@pytest.fixture
def repository(tmp_path: Path) -> PackageRepository:
    made = make_repository(tmp_path / "controller")
    for version in ("1.0.0", "1.1.0"):
        files = {"page.html": f"version {version}"}
        add_release(made, "tacho", version, files, health=QUICK, services=[SERVICE])
    sick = Health(checks=[CommandCheck(command=["false"])], start_period_s=0, probation_s=0.2, interval_s=0.1)
    add_release(made, "tacho", "1.2.0", {"page.html": "version 1.2.0"}, health=sick, services=[SERVICE])
    return made


@pytest.fixture
def export(repository: PackageRepository, tmp_path: Path) -> Callable[[str], Path]:
    def make(version: str) -> Path:
        destination = tmp_path / f"tacho-{version}.flotilla"
        repository.export("tacho", version, "any", destination, 30)
        return destination

    return make


@pytest.fixture
def options(tmp_path: Path, repository: PackageRepository, topic_root: str) -> Iterator[list[str]]:
    root_file = tmp_path / "root.json"
    root_file.write_bytes(repository.trusted_root())
    yield [
        "--root",
        str(tmp_path / "device"),
        "--id",
        "pi-1",
        "--trusted-root",
        str(root_file),
        "--topic-root",
        topic_root,
    ]


def flotilla_agent(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "device_agent.cli.main", *arguments],
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + BOUND_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_an_exported_file_is_installed_without_broker_and_controller(
    options: list[str], export: Callable[[str], Path], tmp_path: Path
) -> None:
    done = flotilla_agent("install", str(export("1.0.0")), *options)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[1:] if "fetching" not in line] == [
        "accepted", "staged", "switched", "probation", "succeeded",
    ]  # fmt: skip
    trust, services = done.stderr.splitlines()
    assert "action=trust" in trust
    assert "services stop with this command" in services
    assert (tmp_path / "device/packages/tacho/current/page.html").read_text() == "version 1.0.0"

    again = flotilla_agent("install", str(export("1.0.0")), *options)
    assert (again.returncode, again.stdout) == (0, "tacho 1.0.0 is installed already\n")


def test_a_sick_release_from_a_file_is_rolled_back(
    options: list[str], export: Callable[[str], Path], tmp_path: Path
) -> None:
    assert flotilla_agent("install", str(export("1.1.0")), *options).returncode == 0
    done = flotilla_agent("install", str(export("1.2.0")), "--json", *options)
    assert done.returncode == 1
    result = json.loads(done.stdout)["result"]
    assert (result["phase"], result["error"]["code"]) == ("rolled_back", "health.command")
    assert (tmp_path / "device/packages/tacho/current/page.html").read_text() == "version 1.1.0"


def test_going_back_by_hand(options: list[str], export: Callable[[str], Path], tmp_path: Path) -> None:
    for version in ("1.0.0", "1.1.0"):
        assert flotilla_agent("install", str(export(version)), *options).returncode == 0
    done = flotilla_agent("rollback", "tacho", *options)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "device/packages/tacho/current/page.html").read_text() == "version 1.0.0"

    nothing = flotilla_agent("rollback", "other", *options)
    assert nothing.returncode == 1
    assert nothing.stderr == "flotilla-agent: other has no previous release to go back to\n"


@pytest.mark.parametrize("damage", ["unsigned", "cut", "no file", "not a package"])
def test_a_bad_file_gives_one_line_and_changes_nothing(
    damage: str, options: list[str], export: Callable[[str], Path], tmp_path: Path
) -> None:
    file = export("1.0.0")
    match damage:
        case "unsigned":
            strangers = make_repository(tmp_path / "strangers")
            add_release(strangers, "tacho", "1.0.0", {"page.html": "forged"}, health=QUICK)
            strangers.export("tacho", "1.0.0", "any", file, 30)
        case "cut":
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        case "not a package":
            file.write_bytes(b"x" * 5000)
        case _:
            file.unlink()
    done = flotilla_agent("install", str(file), *options)
    assert done.returncode != 0
    lines = [*done.stderr.splitlines(), *(x for x in done.stdout.splitlines() if ": " in x)]
    said = [line for line in lines if "action=trust" not in line]
    assert len(said) == 1, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "device/packages/tacho/current").exists()


def test_a_running_agent_takes_the_work_over(
    options: list[str], export: Callable[[str], Path], broker: Broker, tmp_path: Path
) -> None:
    log = tmp_path / "agent.log"
    with agent_process(["run", "--broker", broker.url, *options], log) as process:
        wait_for(lambda: "action=connected" in log.read_text())
        for version in ("1.0.0", "1.1.0"):
            done = flotilla_agent("install", str(export(version)), *options)
            assert done.returncode == 0, done.stderr
            assert "services stop" not in done.stderr
        assert done.stdout.splitlines()[-1].startswith("succeeded")
        assert "action=succeeded" in log.read_text()
        status = json.loads(flotilla_agent("status", "--json", *options).stdout)
        assert status["running"]
        assert status["packages"]["tacho"]["version"] == "1.1.0"
        assert flotilla_agent("rollback", "tacho", *options).returncode == 0
        unknown = flotilla_agent("rollback", "other", *options)
        assert unknown.stderr == "flotilla-agent: other has no previous release to go back to\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(BOUND_S) == 0
    assert not json.loads(flotilla_agent("status", "--json", *options).stdout)["running"]


def test_check_finds_nothing_wrong_where_nothing_is(
    options: list[str], broker: Broker, repository: PackageRepository, tmp_path: Path
) -> None:
    with serve_folder(repository.folder) as url:
        done = flotilla_agent("check", "--json", "--broker", broker.url, "--repository", url, *options)
    found = json.loads(done.stdout)
    assert (done.returncode, found["ok"]) == (0, True), found
    assert [one["name"] for one in found["findings"]] == [
        "configuration", "broker", "repository", "trusted root", "disk", "clock",
    ]  # fmt: skip
    assert not (tmp_path / "device").exists()


def test_a_second_agent_on_one_folder_is_refused(options: list[str], broker: Broker, tmp_path: Path) -> None:
    log = tmp_path / "agent.log"
    with agent_process(["run", "--broker", broker.url, *options], log):
        wait_for(lambda: "action=connected" in log.read_text())
        second = flotilla_agent("run", "--broker", broker.url, *options)
    assert second.returncode == 1
    assert second.stderr.startswith("flotilla-agent: another process works on")
    assert len(second.stderr.splitlines()) == 1


def test_of_two_agents_with_one_id_one_gives_up_and_says_so(options: list[str], broker: Broker, tmp_path: Path) -> None:
    logs = [tmp_path / "one.log", tmp_path / "two.log"]
    with (
        agent_process(["run", "--broker", broker.url, *options], logs[0]) as one,
        agent_process(["run", "--broker", broker.url, *options, "--root", str(tmp_path / "twin")], logs[1]) as two,
    ):
        wait_for(lambda: one.poll() is not None or two.poll() is not None)
        loser, log = (one, logs[0]) if one.poll() is not None else (two, logs[1])
        assert loser.returncode == 1
    last = log.read_text().splitlines()[-1]
    assert last.startswith("flotilla-agent: another agent with the id pi-1 connects to mqtt://127.0.0.1:")


def test_installed_services_run_again_with_the_next_agent(
    options: list[str], export: Callable[[str], Path], tmp_path: Path
) -> None:
    assert flotilla_agent("install", str(export("1.0.0")), *options).returncode == 0
    assert not services_below(tmp_path)
    log = tmp_path / "agent.log"
    with agent_process(["run", "--broker", "mqtt://127.0.0.1:1", *options], log) as process:
        wait_for(lambda: "action=ready" in log.read_text())
        assert services_below(tmp_path)
        process.send_signal(signal.SIGINT)
        assert process.wait(BOUND_S) == 0
    assert not services_below(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.long(35)
def test_an_idle_agent_needs_at_most_40_mib_and_sleeps(
    options: list[str], export: Callable[[str], Path], broker: Broker, tmp_path: Path
) -> None:
    log = tmp_path / "agent.log"
    with agent_process(["run", "--broker", broker.url, *options], log) as process:
        wait_for(lambda: "action=connected" in log.read_text())
        fresh = idleness(process.pid)
        assert flotilla_agent("install", str(export("1.0.0")), *options).returncode == 0
        pass_time(12)  # the process that fetched waits 5 s for more work, and a report up to 10 s for its events
        after = idleness(process.pid)
    print(f"idle: {fresh} when fresh, {after} after an update")
    assert max(fresh[0], after[0]) <= 40
    assert max(fresh[1], after[1]) <= 1


def idleness(pid: int) -> tuple[float, float]:
    """Resident MiB, and wake-ups a second over five seconds."""
    pass_time(4)  # the report of what happened last, and the pause after it, are over
    before = waits(pid)
    pass_time(5)
    woken = (waits(pid) - before) / 5
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    resident = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
    return round(resident / 1024, 1), woken


def pass_time(seconds: float) -> None:
    """Measuring how idle something is takes time by nature."""
    begun = time.monotonic()
    wait_for(lambda: time.monotonic() > begun + seconds)


def waits(pid: int) -> int:
    """How often all threads of a process have slept so far: each wake-up ends one sleep."""
    total = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        lines = status.read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt"))
    return total


def services_below(folder: Path) -> list[int]:
    """Pids of the sample's service that run below a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            place = (process / "cwd").resolve()
        except OSError:
            continue
        if b"time.sleep(600)" in command and place.is_relative_to(folder):
            found.append(int(process.name))
    return found
