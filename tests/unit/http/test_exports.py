"""Files for others: so many at once, only where there is room, and gone whichever way the answer ends."""

import asyncio
import shutil
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.http import transfers
from controller.http.transfers import MOST_EXPORTS, Export, Spool, spooled
from controller.repository.files import SPARE_BYTES
from schemas.errors import OperatorError
from tests.support.in_process import FILE_TOKEN, Application, application, bearer
from tests.support.repository import add_release

CONTENT = b"x" * 100_000
ADMIN = bearer(FILE_TOKEN)
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Application]:
    with application(tmp_path / "data") as made:
        add_release(made.repository, "tacho", "1.0.0", {"a": "a" * 1000, "b": "b" * 1000})
        yield made


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    made = Spool(tmp_path / "spool")
    made.prepare()
    return made


def opened(spool: Spool) -> int:
    """How many files of the spool this process has open, with a name or without."""
    links = (Path(f"/proc/self/fd/{name.name}") for name in Path("/proc/self/fd").iterdir())
    return sum(str(spool.folder) in str(link.readlink()) for link in links if link.is_symlink())


async def begun(spool: Spool) -> Export:
    answer = await spooled(spool, lambda path: path.write_bytes(CONTENT))
    assert isinstance(answer, Export)
    return answer


async def send_to(answer: Export, client: Any) -> None:
    await answer.to_asgi_response(None, None)({"type": "http"}, client.receive, client.send)


class Reader:
    """A client that takes all of it."""

    def __init__(self) -> None:
        self.got = b""
        self.gone = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        self.got += message.get("body", b"")
        if message["type"] == "http.response.body" and not message["more_body"]:
            self.gone.set()


class Still(Reader):
    """A client that takes nothing and then goes."""

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            self.gone.set()
            await asyncio.Event().wait()


async def test_so_many_are_made_and_sent_at_once_and_no_more(spool: Spool) -> None:
    answers = [await begun(spool) for _ in range(MOST_EXPORTS)]
    with pytest.raises(OperatorError, match="try again later") as caught:
        await begun(spool)
    assert caught.value.code == "export.limit"
    reader = Reader()
    await send_to(answers[0], reader)
    assert reader.got == CONTENT
    for answer in [await begun(spool), *answers[1:]]:
        await send_to(answer, Reader())
    assert (spool.exports, list(spool.folder.iterdir())) == (0, [])


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
@pytest.mark.parametrize("client", [Reader, Still])
async def test_the_file_is_closed_whichever_way_the_answer_ends(spool: Spool, client: type[Reader]) -> None:
    answer = await begun(spool)
    assert (opened(spool), spool.exports) == (1, 1)
    await asyncio.wait_for(send_to(answer, client()), 10)
    assert (opened(spool), spool.exports) == (0, 0)


async def test_one_that_cannot_be_made_counts_no_more(spool: Spool) -> None:
    def fail(_: Path) -> None:
        raise OperatorError("data.bad", "no")

    for _ in range(MOST_EXPORTS + 1):
        with pytest.raises(OperatorError, match="no"):
            await spooled(spool, fail)
    assert spool.exports == 0


@pytest.mark.parametrize("path", ["tacho/1.0.0/export", "tacho/1.0.0/export?valid_days=9", "site"])
def test_whoever_asks_for_one_too_many_is_told_so(app: Application, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    def asked() -> tuple[int, str | None]:
        method = "GET" if path.endswith("export") else "POST"
        wish = {"packages": {"tacho": None}}
        answer = app.client.request(method, f"/api/v1/packages/{path}", json=wish, headers=ADMIN)
        return answer.status_code, answer.json()["code"] if answer.status_code != 200 else None

    assert [asked() for _ in range(MOST_EXPORTS + 1)] == [(200, None)] * (MOST_EXPORTS + 1)
    with monkeypatch.context() as patch:
        patch.setattr(transfers, "MOST_EXPORTS", 0)
        assert asked() == (503, "export.limit")
    room_for(monkeypatch, 10)
    assert asked() == (507, "disk.full")
    assert list((app.repository.folder.parent / "spool").iterdir()) == []


def room_for(monkeypatch: pytest.MonkeyPatch, *free: int) -> None:
    """So much room beyond what is always kept free, each time that it is asked for; then none."""
    left = list(free)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, (left.pop(0) if left else 0) + SPARE_BYTES))


def test_one_ends_where_others_have_taken_the_room_meanwhile(
    app: Application, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_for(monkeypatch, 10**6, 10**6)
    with pytest.raises(OperatorError, match="the controller has room for 0 bytes") as caught:
        app.repository.export("tacho", "1.0.0", None, tmp_path / "file")
    assert caught.value.code == "disk.full"
    assert not [one for one in tmp_path.iterdir() if one.is_file()]
