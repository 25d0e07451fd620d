"""Live views end with the session or token that they were opened with, and there are only so many of them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import TimeoutError as PoolTimeout

from controller.accounts.people import digest_of
from controller.accounts.roles import Role
from controller.accounts.tokens import Tokens
from controller.fleet.intake_store import IntakeStore
from controller.http.guard import COOKIE
from controller.rollouts.store import RolloutStore
from schemas.errors import OperatorError
from tests.support.in_process import HOST, PASSWORD, Application, application
from tests.unit.fleet.builders import NOW, presence_in, reported_in

BOUND_S = 20.0
ENDS_S = 10.0
MOST = 3
ROLLOUT = "ROLLOUT"
VIEWS = ("/live", "/devices/pi-1/live", f"/rollouts/{ROLLOUT}/live", "/api/v1/watch")


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Application]:
    with application(tmp_path, most=MOST, ask_again_s=0.01) as made:
        made.people.add("anna", Role.VIEWER, PASSWORD)
        IntakeStore(made.engine).take_in([presence_in("pi-1"), reported_in("pi-1")], NOW)
        yield made


class View:
    """An answer that goes on: its status, and what has come of it."""

    def __init__(self) -> None:
        self.status = 0
        self.body = b""
        self.whole = asyncio.Event()
        self.begun = asyncio.Event()
        self.left = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            return
        self.body += message["body"]
        if self.body:
            self.begun.set()
        if not message.get("more_body", False):
            self.begun.set()
            self.whole.set()


@asynccontextmanager
async def looking(app: Application, path: str, **headers: str) -> AsyncIterator[View]:
    """Open a view, and wait for its beginning; it is left at the end of the block."""
    view = View()
    scope: Any = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", HOST.encode()), *((name.encode(), value.encode()) for name, value in headers.items())],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8420),
        "state": {},
    }
    serving = asyncio.create_task(app.litestar(scope, view.receive, view.send))  # type: ignore[arg-type]  # as a server
    try:
        async with asyncio.timeout(BOUND_S):
            await view.begun.wait()
        yield view
    finally:
        view.left.set()
        async with asyncio.timeout(BOUND_S):
            with contextlib.suppress(Exception):
                await serving


def session(app: Application) -> tuple[dict[str, str], str]:
    """Headers of a browser in which anna has logged in, and the session's name."""
    secret, _ = app.people.log_in("anna", PASSWORD, "127.0.0.1")
    return {"cookie": f"{COOKIE}={secret}"}, digest_of(secret)


def path_of(app: Application, view: str) -> str:
    made = RolloutStore(app.engine).create(
        package="tacho", version="1.0.0", channel="stable", repository=["http://127.0.0.1:1/repo"], now=NOW
    )
    return view.replace(ROLLOUT, made.id)


@pytest.mark.parametrize("view", VIEWS)
async def test_logging_out_ends_what_was_watched(app: Application, view: str) -> None:
    headers, name = session(app)
    async with looking(app, path_of(app, view), **headers) as seen:
        assert (seen.status, seen.whole.is_set()) == (200, False)
        app.people.log_out(name)
        async with asyncio.timeout(ENDS_S):
            await seen.whole.wait()


@pytest.mark.parametrize("view", VIEWS)
async def test_a_token_that_is_revoked_watches_no_longer(app: Application, view: str) -> None:
    headers = app.token(Role.VIEWER, "screen")
    async with looking(app, path_of(app, view), authorization=headers["Authorization"]) as seen:
        assert (seen.status, seen.whole.is_set()) == (200, False)
        app.tokens.revoke("screen")
        async with asyncio.timeout(ENDS_S):
            await seen.whole.wait()


async def test_a_view_goes_on_as_long_as_its_session_does(app: Application) -> None:
    headers, _ = session(app)
    asked = asyncio.Event()
    who = app.people.who
    looks = 0

    def note(secret: str, **more: Any) -> Any:
        nonlocal looks
        looks += 1
        if looks > 3:
            asked.set()
        return who(secret, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app.people, "who", note)
        async with looking(app, "/live", **headers) as seen:
            async with asyncio.timeout(BOUND_S):
                await asked.wait()
            assert not seen.whole.is_set()


@pytest.mark.parametrize(
    "error", [OperatorError("data.bad", "the database is gone"), PoolTimeout("no connection is free")]
)
async def test_a_view_ends_in_one_line_when_nobody_can_tell_who_watches(
    app: Application, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    headers = app.token(Role.VIEWER, "screen")
    async with looking(app, "/live", authorization=headers["Authorization"]) as seen:
        with pytest.MonkeyPatch.context() as patch:

            def broken(self: Tokens, secret: str) -> None:
                raise error

            patch.setattr(Tokens, "who", broken)
            async with asyncio.timeout(BOUND_S):
                await seen.whole.wait()
    assert "a live view of token:screen ends, as nobody can tell" in caplog.text


async def test_only_so_many_watch_at_once_and_the_next_one_is_told_so(app: Application) -> None:
    headers, _ = session(app)
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(contextlib.AsyncExitStack())
        await first.enter_async_context(looking(app, "/live", **headers))
        for view in ("/api/v1/watch", "/devices/pi-1/live"):
            assert (await stack.enter_async_context(looking(app, view, **headers))).status == 200
        for view in ("/live", "/api/v1/watch"):
            async with looking(app, view, **headers) as refused:
                assert refused.status == 503
                assert (b'"code":"watch.limit"' in refused.body) == view.startswith("/api/")
                assert f"{MOST} live views are open".encode() in refused.body
        await first.aclose()
        async with looking(app, "/live", **headers) as again:
            assert again.status == 200
