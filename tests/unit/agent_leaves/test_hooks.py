"""Hooks: their time limit, their output, where they are looked up, and that nothing of them is left."""

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from device_agent.hooks import ProcessHookRunner
from device_agent.processes import MAX_TAIL, Tail, base_environment, describe_exit
from schemas.errors import DeviceError
from schemas.manifest import Hook
from tests.unit.agent_leaves.builders import is_running, release_context, script
from tests.unit.agent_leaves.waiting import until

SH = "/bin/sh"


def shell(text: str, timeout_s: float = 20) -> Hook:
    return Hook(command=[SH, "-c", text], timeout_s=timeout_s)


async def test_a_hook_runs_in_the_release_and_its_output_is_kept(tmp_path: Path) -> None:
    context = release_context(tmp_path)
    script(context.folder, "bin/prepare", 'echo "$PWD"; echo "$1" >&2; echo "v$FLOTILLA_VERSION"\n')
    result = await ProcessHookRunner().run("pre_switch", Hook(command=["bin/prepare", "a b"]), context)
    assert result.output == f"{context.folder}\na b\nv1.0.0\n"
    assert result.seconds > 0


async def test_a_failing_hook_says_so_with_its_output(tmp_path: Path) -> None:
    with pytest.raises(DeviceError) as caught:
        await ProcessHookRunner().run("pre_switch", shell("echo no disk; exit 3"), release_context(tmp_path))
    assert caught.value.code == "hook.failed"
    assert caught.value.message == "hook pre_switch of tacho 1.0.0 ended with status 3"
    assert caught.value.log_tail == "no disk\n"


async def test_a_hook_over_its_time_is_ended_with_its_whole_group(tmp_path: Path) -> None:
    context = release_context(tmp_path)
    pids = context.folder / "pids"
    text = f"trap '' TERM; sleep 100 & echo $$ $! > {pids}; echo begun; wait; sleep 100"
    with pytest.raises(DeviceError) as caught:
        await ProcessHookRunner(grace_s=0.1).run("post_switch", shell(text, timeout_s=1), context)
    assert caught.value.code == "hook.timeout"
    assert caught.value.log_tail == "begun\n"
    assert not [pid for pid in map(int, pids.read_text().split()) if is_running(pid)]


async def test_what_a_hook_leaves_in_the_background_is_ended_and_does_not_hold_it_up(tmp_path: Path) -> None:
    context = release_context(tmp_path)
    result = await ProcessHookRunner().run("pre_switch", shell("sleep 100 & echo $!"), context)
    assert not is_running(int(result.output))
    assert result.seconds < 10


async def test_a_cancelled_hook_is_gone(tmp_path: Path) -> None:
    context = release_context(tmp_path)
    pid_file = context.folder / "pid"
    running = asyncio.create_task(
        ProcessHookRunner().run("pre_switch", shell(f"echo $$ > {pid_file}; sleep 100"), context)
    )
    await until(lambda: pid_file.exists() and pid_file.read_text().strip(), "the hook runs")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not is_running(int(pid_file.read_text()))


async def test_a_hook_gets_few_variables_and_none_of_the_agents_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKER_PASSWORD", "secret")
    result = await ProcessHookRunner().run("pre_switch", Hook(command=["env"]), release_context(tmp_path))
    names = {line.partition("=")[0] for line in result.output.splitlines()}
    assert "FLOTILLA_VERSION" in names
    assert "BROKER_PASSWORD" not in names
    assert names <= {*base_environment(), "FLOTILLA_VERSION"}


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["./absent"], "'./absent' does not exist"),
        (["../outside"], "'../outside' leads outside the release"),
        (["link/outside"], "'link/outside' leads outside the release"),
        (["./plain"], "'./plain' is not executable"),
        (["no-such-program-here"], "'no-such-program-here' is not a program on this device"),
        (["/bin/sh", "a\0b"], "NUL character"),
    ],
)
async def test_a_hook_that_cannot_be_started_says_why(tmp_path: Path, command: list[str], says: str) -> None:
    context = release_context(tmp_path)
    script(tmp_path, "releases/outside", "echo escaped\n")
    (context.folder / "link").symlink_to("..")
    (context.folder / "plain").write_text("x")
    with pytest.raises(DeviceError) as caught:
        await ProcessHookRunner().run("pre_switch", Hook(command=command), context)
    assert caught.value.code == "hook.failed"
    assert says in caught.value.message
    assert "\n" not in caught.value.message


async def test_a_script_without_an_interpreter_fails_with_the_reason_in_its_output(tmp_path: Path) -> None:
    context = release_context(tmp_path)
    broken = context.folder / "broken"
    broken.write_text("#!/no/such/interpreter\n")
    broken.chmod(0o755)
    with pytest.raises(DeviceError) as caught:
        await ProcessHookRunner().run("pre_switch", Hook(command=["./broken"]), context)
    assert caught.value.code == "hook.failed"
    assert "No such file" in caught.value.log_tail + caught.value.message


async def test_endless_output_is_bounded(tmp_path: Path) -> None:
    result = await ProcessHookRunner().run(
        "pre_switch", shell("yes 0123456789 | head -c 5000000; echo; echo last"), release_context(tmp_path)
    )
    assert len(result.output) <= MAX_TAIL
    assert result.output.endswith("\nlast\n")
    assert result.output.startswith("0123456789\n")


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent death signal is Linux'")
async def test_children_die_with_an_agent_that_is_killed(tmp_path: Path) -> None:
    context = release_context(tmp_path)
    pid_file = context.folder / "pid"
    program = (
        "import asyncio, pathlib\n"
        "from device_agent.processes import run\n"
        f"command = ['/bin/sh', '-c', 'echo $$ > {pid_file}; exec sleep 100']\n"
        "asyncio.run(run(command, folder=pathlib.Path('/'), environment={'PATH': '/bin:/usr/bin'}, timeout_s=60))\n"
    )
    agent = await asyncio.create_subprocess_exec(sys.executable, "-c", program, cwd=Path(__file__).parents[3])
    try:
        await until(lambda: pid_file.exists() and pid_file.read_text().strip(), "the child runs")
    finally:
        agent.kill()
        await agent.wait()
    child = int(pid_file.read_text())
    await until(lambda: not is_running(child), "the child is gone")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_children_do_not_inherit_ignored_signals(tmp_path: Path) -> None:
    result = await ProcessHookRunner().run(
        "pre_switch", Hook(command=["grep", "SigIgn", "/proc/self/status"]), release_context(tmp_path)
    )
    ignored = int(result.output.split()[1], 16)
    # Python ignores these two; whatever else the agent was started with is its starter's business
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        assert not ignored & 1 << (number - 1), number


def test_a_tail_keeps_whole_printable_lines() -> None:
    tail = Tail(limit=10)
    for chunk in (b"first\nsecond\n", b"th\x1bird\xff\n"):
        tail.add(chunk)
    assert tail.text() == "th?ird�\n"
    assert tail.text(0) == ""
    one_long_line = Tail(limit=4)
    one_long_line.add(b"abcdefgh")
    assert one_long_line.text() == "efgh"


def test_exits_are_described_in_words() -> None:
    assert describe_exit(0) == "ended with status 0"
    assert describe_exit(-signal.SIGSEGV) == "was ended by SIGSEGV"
    assert describe_exit(-250) == "was ended by signal 250"
    assert describe_exit(None) == "ran out of time"
