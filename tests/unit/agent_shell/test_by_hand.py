"""Work by hand: handed over through the socket, and followed to its end."""

import asyncio
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from device_agent import control
from device_agent.cli.main import main
from device_agent.control import SOCKET, ControlServer, hand_over_to, is_listening
from device_agent.heard import Heard
from device_agent.journal import Journal
from device_agent.local_work import LocalWork
from device_agent.outbox import KeptEvent
from device_agent.updates import Answer, Origin, Submitted, UpdateRequest
from schemas.codec import encode
from schemas.errors import DeviceError, OperatorError
from schemas.layout import FileHead
from schemas.messages import Phase, UpdateEvent
from tests.support.links import until
from tests.unit.agent_shell.fakes import NEWER, NOW, ROLLOUT, MemoryOutbox

HEAD = FileHead(format=1, kind="release", package="tacho", version="1.1.0", platform="any", manifest="0" * 64)


class Updates:
    """Takes a wish and plays the phases it is given; other updates' events come in between."""

    def __init__(self, outbox: MemoryOutbox, phases: list[Phase], answer: Answer = Answer.ACCEPTED) -> None:
        self._outbox = outbox
        self._phases = phases
        self._answer = answer
        self.requests: list[UpdateRequest] = []
        self.held: list[bool] = []

    def hold(self, on: bool) -> None:
        self.held.append(on)

    async def submit(self, request: UpdateRequest) -> Submitted:
        self.requests.append(request)
        self.play()
        return Submitted(answer=self._answer, update=None if self._answer is Answer.INSTALLED else ROLLOUT)

    async def rollback(self, package: str, to: str | None = None) -> str:
        self.to = to
        if package != "tacho":
            raise OperatorError("release.unknown", f"{package} has no previous release to go back to")
        self.play()
        return ROLLOUT

    def play(self) -> None:
        for phase in self._phases:
            for update in (NEWER, ROLLOUT):
                self.tell(update, phase)

    def tell(self, update: str, phase: Phase) -> None:
        seq = self._outbox.last_seq() + 1
        event = UpdateEvent(
            device="pi-1", boot_id="", seq=seq, update=update, rollout=None, attempt=1, package="tacho",
            version="1.1.0", from_version=None, phase=phase, at=NOW,
        )  # fmt: skip
        self._outbox.add()
        self._outbox.events[-1] = KeptEvent(seq, encode(event))


def make_work(
    phases: list[Phase], answer: Answer = Answer.ACCEPTED, *, head: FileHead = HEAD, hold: bool = False
) -> tuple[LocalWork, Updates]:
    outbox = MemoryOutbox()
    updates = Updates(outbox, phases, answer)
    here: list[bool] = [False]
    work = LocalWork(
        journal=outbox,
        updates=updates,
        read_head=lambda _: head,
        on_hold=lambda: hold or here[-1],
        keep_hold=here.append,
        is_file=lambda _: True,
    )
    return work, updates


@asynccontextmanager
async def serving(root: Path, work: LocalWork) -> AsyncIterator[None]:
    task = asyncio.create_task(ControlServer(root, work).serve())
    await until(lambda: is_listening(root))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_a_file_is_installed_and_followed_to_its_last_word() -> None:
    work, updates = make_work([Phase.ACCEPTED, Phase.STAGED, Phase.SUCCEEDED])
    begun = await work.install(Path("/usb/tacho.flotilla"))
    events = [event async for event in work.follow(begun)]
    assert begun.note == "installing tacho 1.1.0"
    assert [(e.update, e.phase) for e in events] == [
        (ROLLOUT, Phase.ACCEPTED),
        (ROLLOUT, Phase.STAGED),
        (ROLLOUT, Phase.SUCCEEDED),
    ]
    (request,) = updates.requests
    assert (request.origin, request.repository, request.retries) == (Origin.FILE, ["/usb/tacho.flotilla"], 0)


async def test_what_is_installed_already_needs_nothing() -> None:
    work, _ = make_work([], Answer.INSTALLED)
    begun = await work.install(Path("/usb/tacho.flotilla"))
    assert begun.note == "tacho 1.1.0 is installed already"
    assert [event async for event in work.follow(begun)] == []


async def test_what_is_under_way_already_is_followed_from_its_beginning() -> None:
    work, updates = make_work([Phase.SUCCEEDED], Answer.UNDER_WAY)
    updates.tell(ROLLOUT, Phase.ACCEPTED)
    begun = await work.install(Path("/usb/tacho.flotilla"))
    assert [e.phase async for e in work.follow(begun)] == [Phase.ACCEPTED, Phase.SUCCEEDED]


async def test_an_unsigned_package_and_a_device_on_hold_are_refused() -> None:
    package = FileHead(format=1, kind="package", package="tacho", version="1.1.0", platform="any", manifest="0" * 64)
    work, updates = make_work([], head=package)
    with pytest.raises(OperatorError, match="is not signed"):
        await work.install(Path("/usb/tacho.flotilla"))
    held, _ = make_work([], hold=True)
    with pytest.raises(OperatorError, match="is on hold"):
        await held.install(Path("/usb/tacho.flotilla"))
    assert updates.requests == []


async def test_somebody_at_the_device_holds_it_and_lets_it_go_on(tmp_path: Path) -> None:
    work, updates = make_work([])
    async with serving(tmp_path, work):
        for on, note in ((True, "on hold: no update is started"), (False, "updates go on")):
            async with hand_over_to(tmp_path) as there:
                assert there is not None
                assert (await there.hold(on)).note.startswith(note)
    assert updates.held == [True, False]
    with pytest.raises(OperatorError, match="is on hold"):
        await work.hold(True)
        await work.install(Path("/usb/tacho.flotilla"))


async def test_what_the_operator_holds_nobody_here_lets_go_on() -> None:
    work, updates = make_work([], hold=True)
    assert (await work.hold(False)).note == "the operator still holds this device"
    assert updates.held == [True]


async def test_the_agent_does_it_for_a_command(tmp_path: Path) -> None:
    work, updates = make_work([Phase.ACCEPTED, Phase.SUCCEEDED])
    async with serving(tmp_path, work), hand_over_to(tmp_path) as there:
        assert there is not None
        begun = await there.install(Path("/usb/tacho.flotilla"))
        phases = [event.phase async for event in there.follow(begun)]
    assert phases == [Phase.ACCEPTED, Phase.SUCCEEDED]
    assert updates.requests[0].repository == ["/usb/tacho.flotilla"]
    assert not (tmp_path / SOCKET).exists()


async def test_why_it_cannot_be_done_comes_back_as_it_is(tmp_path: Path) -> None:
    work, _ = make_work([])
    async with serving(tmp_path, work), hand_over_to(tmp_path) as there:
        assert there is not None
        with pytest.raises(OperatorError, match="other has no previous release") as caught:
            await there.rollback("other")
    assert caught.value.code == "release.unknown"


async def test_a_defect_is_told_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work, updates = make_work([])

    async def broken(_package: str, _to: str | None = None) -> str:
        raise ValueError("two\nlines")

    monkeypatch.setattr(updates, "rollback", broken)
    async with serving(tmp_path, work), hand_over_to(tmp_path) as there:
        assert there is not None
        with pytest.raises(OperatorError, match="ValueError: two lines") as caught:
            await there.rollback("tacho")
    assert caught.value.code == "internal.error"


async def test_an_agent_that_ends_meanwhile_is_said(tmp_path: Path) -> None:
    work, _ = make_work([Phase.ACCEPTED])
    task = asyncio.create_task(ControlServer(tmp_path, work).serve())
    await until(lambda: is_listening(tmp_path))
    async with hand_over_to(tmp_path) as there:
        assert there is not None
        begun = await there.rollback("tacho")
        with pytest.raises(DeviceError, match="goes on with the work when it starts again"):
            async for _ in there.follow(begun):
                task.cancel()


async def test_nobody_there_is_none_and_what_a_killed_agent_left_is_replaced(tmp_path: Path) -> None:
    async with hand_over_to(tmp_path) as there:
        assert there is None
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / SOCKET))
    left.close()
    assert not is_listening(tmp_path)
    async with hand_over_to(tmp_path) as there:
        assert there is None
    work, _ = make_work([Phase.SUCCEEDED])
    async with serving(tmp_path, work):
        assert stat.S_IMODE((tmp_path / SOCKET).stat().st_mode) == 0o600


async def test_a_folder_of_any_depth_will_do(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100) / ("y" * 100)
    deep.mkdir(parents=True)
    work, _ = make_work([Phase.SUCCEEDED])
    async with serving(deep, work), hand_over_to(deep) as there:
        assert there is not None
        begun = await there.rollback("tacho")
        assert [e.phase async for e in there.follow(begun)] == [Phase.SUCCEEDED]


@pytest.mark.parametrize("request_line", [b"{}\n", b"no json\n", b'{"verb":"erase","subject":"x"}\n', b"\xff\n", b""])
async def test_a_request_that_is_not_understood_gets_one_answer(tmp_path: Path, request_line: bytes) -> None:
    work, updates = make_work([])
    async with serving(tmp_path, work):
        reader, writer = await asyncio.open_unix_connection(tmp_path / SOCKET)
        writer.write(request_line)
        writer.write_eof()
        async with asyncio.timeout(5):
            answer = await reader.read()
        writer.close()
        assert b"the request is not understood" in answer
        assert answer.count(b"\n") == 1
    assert updates.requests == []


async def test_too_many_commands_at_once_are_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work, _ = make_work([Phase.ACCEPTED])  # never ends
    async with serving(tmp_path, work), hand_over_to(tmp_path) as one:
        assert one is not None
        await one.rollback("tacho")
        monkeypatch.setattr(control, "MAX_CLIENTS", 1)
        async with hand_over_to(tmp_path) as two:
            assert two is not None
            with pytest.raises(OperatorError, match="too many commands"):
                await two.rollback("tacho")


def test_a_hold_is_written_down_without_an_agent_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Journal(tmp_path).close()
    for state, note, held in (("on", "on hold: no update is started", True), ("off", "updates go on", False)):
        assert main(["hold", state, "--root", str(tmp_path), "--id", "pi-1"]) == 0
        assert capsys.readouterr().out.startswith(note)
        with Journal(tmp_path, read_only=True) as journal:
            assert Heard(journal).on_hold() is held
