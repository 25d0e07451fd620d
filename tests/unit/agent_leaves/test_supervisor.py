"""Services that the agent runs itself: restarts, what counts as failed, and that nothing is left behind."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from device_agent.clock import Clock, SystemClock
from device_agent.processes import MAX_TAIL
from device_agent.seams import ReleaseContext
from device_agent.services.launch import STEADY_S, joined_output
from device_agent.services.leftovers import MARK, Records, start_of
from device_agent.services.logfile import LogFile
from device_agent.services.supervised import MAX_DELAY_S, restart_delay
from device_agent.services.supervisor import Supervisor
from schemas.errors import DeviceError
from schemas.manifest import Service
from tests.unit.agent_leaves.builders import is_running, release_context
from tests.unit.agent_leaves.waiting import until


def service(text: str, **fields: object) -> Service:
    """A shell command as a service; it gets `$` as a placeholder's `$$`."""
    made: dict[str, object] = {"name": "web", "command": ["/bin/sh", "-c", text.replace("$", "$$")], **fields}
    return Service(**made)  # type: ignore[arg-type]  # fields of several types


class QuickClock(SystemClock):
    """Restart delays are over at once; they are noted. `later` is added to the time."""

    def __init__(self) -> None:
        self.delays: list[float] = []
        self.later = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.later

    async def sleep(self, seconds: float) -> None:
        self.delays.append(seconds)
        await asyncio.sleep(0)


@asynccontextmanager
async def supervisor(tmp_path: Path, clock: Clock | None = None) -> AsyncIterator[Supervisor]:
    made = Supervisor(tmp_path / "root", clock=clock)
    try:
        yield made
    finally:
        await made.close()


def pids(file: Path) -> list[int]:
    return [int(line) for line in file.read_text().split()] if file.exists() else []


FOREVER = "echo $$ >> pids; echo up; exec sleep 1000"


async def test_a_service_runs_in_the_release_with_its_values_and_ends_with_the_agent(tmp_path: Path) -> None:
    context = release_context(tmp_path, settings__port="8080")
    script = "echo $$$$ > pids; echo $$MODE $$FLOTILLA_VERSION; exec sleep 1000"
    web = Service(name="web", command=["/bin/sh", "-c", script], environment={"MODE": "port-${settings.port}"})
    async with supervisor(tmp_path) as services:
        await services.start([web], context)
        await until(lambda: services.output("tacho"), "it prints")
        assert services.output("tacho") == "port-8080 1.0.0\n"
        assert (tmp_path / "root/logs/tacho.web.log").read_text() == "port-8080 1.0.0\n"
        assert await services.failed("tacho", [web]) == ""
        (pid,) = pids(context.folder / "pids")
        assert is_running(pid)
    assert not is_running(pid)
    assert not list((tmp_path / "root/run").iterdir())


async def test_starting_again_changes_nothing_but_another_release_restarts(tmp_path: Path) -> None:
    first = release_context(tmp_path)
    current = tmp_path / "current"
    current.symlink_to(first.folder)
    context = ReleaseContext(package="tacho", version="1.0.0", folder=current, state_folder=first.state_folder)
    web = service(FOREVER)
    async with supervisor(tmp_path) as services:
        await services.start([web], context)
        await until(lambda: pids(first.folder / "pids"), "it runs")
        await services.start([web], context)
        (pid,) = pids(first.folder / "pids")
        assert is_running(pid)
        second = tmp_path / "releases/1.1.0"
        second.mkdir()
        current.unlink()
        current.symlink_to(second)
        await services.start([web], context)
        assert not is_running(pid)
        await until(lambda: pids(second / "pids"), "the new one runs")


async def test_stop_ends_the_whole_group_and_is_idempotent(tmp_path: Path) -> None:
    context = release_context(tmp_path)
    web = service("trap '' TERM; sleep 1000 & echo $$ $! > pids; wait; sleep 1000", stop_timeout_s=0.2)
    async with supervisor(tmp_path) as services:
        await services.start([web], context)
        await until(lambda: len(pids(context.folder / "pids")) == 2, "both run")
        await services.stop("tacho", [web])
        assert not [pid for pid in pids(context.folder / "pids") if is_running(pid)]
        await services.stop("tacho", [web])
        await services.remove("tacho", [web])
        assert await services.failed("tacho", [web]) == "service web is not running"


async def test_a_service_gets_its_time_to_stop_well(tmp_path: Path) -> None:
    context = release_context(tmp_path)
    web = service("trap 'echo saved; exit 0' TERM; echo ready; while :; do sleep 0.05; done")
    async with supervisor(tmp_path) as services:
        await services.start([web], context)
        await until(lambda: "ready" in services.output("tacho"), "it is ready")
        await services.stop("tacho", [web])
        assert services.output("tacho").endswith("saved\n")


async def test_what_keeps_ending_is_told_and_started_ever_more_slowly(tmp_path: Path) -> None:
    clock = QuickClock()
    web = service("echo run >> runs; echo oh; exit 3")
    async with supervisor(tmp_path, clock) as services:
        context = release_context(tmp_path)
        await services.start([web], context)
        await until(lambda: len(clock.delays) >= 5, "it was started five times")
        failed = await services.failed("tacho", [web])
        assert failed.startswith("service web keeps ending: ")
        assert failed.endswith("times in a row, last it ended with status 3")
        assert clock.delays[:5] == [0.5, 1.0, 2.0, 4.0, 8.0]
        assert services.output("tacho").startswith("oh\noh\n")


async def test_one_crash_is_forgiven_once_it_runs_again(tmp_path: Path) -> None:
    web = service("[ -e crashed ] || { touch crashed; exit 1; }; " + FOREVER)
    clock = QuickClock()
    context = release_context(tmp_path)
    async with supervisor(tmp_path, clock) as services:
        await services.start([web], context)
        await until(lambda: pids(context.folder / "pids"), "it runs again")
        assert await services.failed("tacho", [web]) == ""


async def test_what_kept_ending_is_well_again_when_it_has_been_up_for_a_while(tmp_path: Path) -> None:
    web = service("echo x >> starts; [ $(wc -l < starts) -gt 3 ] || exit 1; " + FOREVER)
    clock = QuickClock()
    context = release_context(tmp_path)
    async with supervisor(tmp_path, clock) as services:
        await services.start([web], context)
        await until(lambda: pids(context.folder / "pids"), "it runs at last")
        assert "keeps ending: 3 times" in await services.failed("tacho", [web])
        clock.later = STEADY_S
        assert await services.failed("tacho", [web]) == ""


@pytest.mark.parametrize(
    ("restart", "status", "restarts", "says"),
    [
        ("never", 0, False, ""),
        ("never", 2, False, "service web is down: it ended with status 2 and is not to be restarted"),
        ("on-failure", 0, False, ""),
        ("on-failure", 2, True, "keeps ending"),
        ("always", 0, True, "keeps ending"),
    ],
)
async def test_the_restart_rule_is_kept(tmp_path: Path, restart: str, status: int, restarts: bool, says: str) -> None:
    clock = QuickClock()
    context = release_context(tmp_path)
    web = service(f"echo x >> runs; exit {status}", restart=restart)
    async with supervisor(tmp_path, clock) as services:
        await services.start([web], context)
        if restarts:
            await until(lambda: len(clock.delays) > 3, "it is restarted")
        else:
            await until(lambda: not list((tmp_path / "root/run").iterdir()), "that is noticed")
            assert await services.failed("tacho", [web]) == says
            assert (context.folder / "runs").read_text() == "x\n"
            assert not clock.delays
        assert says in await services.failed("tacho", [web])


@pytest.mark.parametrize(
    ("fields", "code", "says"),
    [
        ({"command": ["./absent"]}, "service.start", "'./absent' does not exist"),
        ({"command": ["true", "${settings.x}"]}, "requires.setting", "${settings.x}"),
        ({"command": None, "unit": "a.service"}, "service.unit", "is the unit a.service"),
        ({"user": "no-such-account"}, "service.start", "there is no account 'no-such-account'"),
        ({"environment": {"A-B": "x"}}, "service.start", "variable 'A-B'"),
    ],
)
async def test_what_cannot_be_started_is_told_in_one_line(
    tmp_path: Path, fields: dict[str, object], code: str, says: str
) -> None:
    async with supervisor(tmp_path) as services:
        with pytest.raises(DeviceError) as caught:
            await services.start([service("sleep 1000", **fields)], release_context(tmp_path))
    assert caught.value.code == code
    assert says in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start programs as somebody else")
async def test_a_service_runs_as_its_account_and_still_dies_with_the_agent(tmp_path: Path) -> None:
    context = release_context(tmp_path)
    web = Service(name="web", command=["/bin/sh", "-c", "id -un; sleep 1000"], user="nobody")
    for folder in (*tmp_path.parents, tmp_path, context.folder.parent, context.folder):
        if folder.is_relative_to(tmp_path.parents[2]):
            folder.chmod(folder.stat().st_mode | 0o055)
    async with supervisor(tmp_path) as services:
        await services.start([web], context)
        await until(lambda: services.output("tacho"), "it prints")
        assert services.output("tacho") == "nobody\n"


async def test_two_services_outputs_have_titles(tmp_path: Path) -> None:
    context = release_context(tmp_path)
    both = [service("echo of a; exec sleep 1000", name="a"), service("echo of b; exec sleep 1000", name="b")]
    async with supervisor(tmp_path) as services:
        await services.start(both, context)
        await until(lambda: services.output("tacho").count("of ") == 2, "both print")
        assert services.output("tacho") == "== a ==\nof a\n== b ==\nof b\n"
        assert services.output("other") == ""


AGENT = """\
import asyncio, pathlib, sys
from device_agent.seams import ReleaseContext
from device_agent.services.supervisor import Supervisor
from schemas.manifest import Service
base = pathlib.Path(sys.argv[1])
async def main():
    services = Supervisor(base / "root")
    context = ReleaseContext(package="tacho", version="1.0.0", folder=base, state_folder=base)
    script = "setsid sleep 1000 & sleep 1000 & echo $$$$ $$! > pids; echo $$(pgrep -f 'sleep 1000' | wc -l); wait"
    await services.start([Service(name="web", command=["/bin/sh", "-c", script])], context)
    await asyncio.sleep(1000)
asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent death signal is Linux'")
async def test_what_a_killed_agent_left_is_ended_by_the_next(tmp_path: Path) -> None:
    agent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", AGENT, str(tmp_path), cwd=Path(__file__).parents[3]
    )
    try:
        await until(lambda: len(pids(tmp_path / "pids")) == 2, "the service runs", within_s=30)
    finally:
        agent.kill()
        await agent.wait()
    leader, child = pids(tmp_path / "pids")
    await until(lambda: not is_running(leader), "the service died with the agent")
    marked = _marked_with(tmp_path / "root")
    assert child in marked
    async with supervisor(tmp_path) as services:
        await services.stop("tacho", [])
        assert not [pid for pid in marked if is_running(pid)]


def _marked_with(root: Path) -> list[int]:
    mark = f"{MARK}={root}".encode()
    return [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if mark in _environ(entry)]


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def _environ(entry: Path) -> bytes:
    try:
        return (entry / "environ").read_bytes()
    except OSError:
        return b""


async def test_a_record_of_a_number_that_is_used_again_harms_nobody(tmp_path: Path) -> None:
    stranger = await asyncio.create_subprocess_exec("sleep", "1000", start_new_session=True)
    try:
        records = Records(tmp_path, "no such mark")
        records.write("tacho.web", stranger.pid)
        path = tmp_path / "tacho.web.pid"
        path.write_text(path.read_text().replace(start_of(stranger.pid), "another time"))
        (tmp_path / "broken.pid").write_text("{")
        assert await records.end_leftovers() == []
        assert is_running(stranger.pid)
        assert not _names(tmp_path)
        records.write("tacho.web", stranger.pid)
        ending = asyncio.create_task(records.end_leftovers())
        await stranger.wait()
        assert await ending == [stranger.pid]
    finally:
        if stranger.returncode is None:
            stranger.kill()
            await stranger.wait()


def test_a_log_file_is_bounded(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "logs/a.log", limit=100)
    log.write(b"lost, because nothing is open")
    log.reopen()
    for number in range(50):
        log.write(b"line %02d\n" % number)
    log.close()
    assert (tmp_path / "logs/a.log").read_text().endswith("line 49\n")
    assert sum(path.stat().st_size for path in (tmp_path / "logs").iterdir()) <= 200
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == ["a.log", "a.log.1"]
    log.reopen()
    log.write(b"x" * 1000)
    assert (tmp_path / "logs/a.log").stat().st_size == 100


def test_a_log_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("in the way")
    log = LogFile(tmp_path / "logs/a.log")
    log.reopen()
    log.write(b"x")
    log.close()
    assert (tmp_path / "logs").read_text() == "in the way"


def test_restart_delays_double_up_to_a_bound() -> None:
    assert [restart_delay(n) for n in (0, 1, 2, 3)] == [0.5, 0.5, 1.0, 2.0]
    assert restart_delay(10_000) == MAX_DELAY_S


def test_joined_output_is_bounded() -> None:
    joined = joined_output({"a": "x" * MAX_TAIL, "b": "y" * MAX_TAIL, "c": ""}, MAX_TAIL)
    assert len(joined) <= MAX_TAIL
    assert "== a ==\nxxx" in joined
    assert joined.endswith("yyy\n")
    assert joined_output({}, MAX_TAIL) == ""
    assert len(joined_output({"a": "x" * 2 * MAX_TAIL}, MAX_TAIL)) == MAX_TAIL
