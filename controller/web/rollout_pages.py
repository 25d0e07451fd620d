"""`/rollouts`: what was released, and each rollout live: a cell for each device, pace, failures, actions."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from anyio import to_thread
from litestar import Response, get, post
from litestar.exceptions import NotFoundException
from litestar.params import FromPath, FromQuery
from litestar.response import Redirect, Stream, Template

from controller.database import utc_now
from controller.http.noting import ending_of, who_of
from controller.rollouts.advising import STOPPED
from controller.rollouts.board import Board, device_at, read_board
from controller.rollouts.explaining import already, goes_back
from controller.rollouts.plan import ENDED, RolloutState
from controller.rollouts.reader import ID_LENGTH
from controller.rollouts.taking_back import may_retry
from controller.rollouts.views import Failure, Rollout, WaveState
from controller.web.actions import (
    APPROVE,
    CANCEL,
    ON_ROLLOUT,
    RETRY,
    Action,
    Move,
    move_named,
    moves_from,
    named,
    notice,
)
from controller.web.asking import ask, done, may_act
from controller.web.desk import Desk
from controller.web.fleet_reading import rollout_lines
from controller.web.given import Text, TheDesk, TheEnvironment, TheVisitor
from controller.web.live import live
from controller.web.models import cells_of, chart, legend, rollout_card, segments, wave_card
from controller.web.rendering import Asked, away_part, have_it, page
from controller.web.rollout_reading import device_rows
from controller.web.visitor import Visitor
from schemas.errors import FlotillaError, OperatorError

ROLLOUTS_A_PAGE: Final = 15
DEVICES_A_PAGE: Final = 25
MAX_PLACE: Final = 10_000_000


@get("/rollouts")
async def rollouts(
    request: Asked, desk: TheDesk, visitor: TheVisitor, package: Text = "", after: Text = ""
) -> Template:
    """The newest first."""
    found = await to_thread.run_sync(
        lambda: rollout_lines(desk.engine, package=package, before=after, limit=ROLLOUTS_A_PAGE + 1)
    )
    return page(
        request,
        visitor,
        "rollouts.html",
        rollouts=[rollout_card(line) for line in found[:ROLLOUTS_A_PAGE]],
        package=package,
        after=after,
        following=found[ROLLOUTS_A_PAGE - 1].id if len(found) > ROLLOUTS_A_PAGE else None,
    )


@get("/rollouts/{rollout_id:str}")
async def rollout(
    request: Asked,
    desk: TheDesk,
    visitor: TheVisitor,
    rollout_id: FromPath[str],
    did: FromQuery[str | None] = None,
    show: Text = "",
    after: Text = "",
) -> Template | Redirect:
    """One rollout; `show` keeps the devices of the list that are shown by this letter.

    The beginning of an id, as lines of advice have it, leads to the address with the whole one.
    """
    if len(rollout_id) < ID_LENGTH:
        whole = await to_thread.run_sync(desk.fleet.rollouts.id_of, rollout_id)
        query = f"?{request.url.query}" if request.url.query else ""
        return Redirect(f"/rollouts/{whole}{query}", status_code=302, headers={"Cache-Control": "no-store"})
    values = await _look(desk, rollout_id)
    # as fresh as the cells beside it, and a page that was asked for a moment ago needs no thread
    listed = await desk.fresh.get(
        ("rollout devices", rollout_id, show[:1], after),
        lambda: device_rows(desk.engine, rollout_id, code=show[:1], after=after, limit=DEVICES_A_PAGE + 1),
    )
    rows = listed.value
    return page(
        request,
        visitor,
        "rollout.html",
        **values,
        rows=rows[:DEVICES_A_PAGE],
        following=rows[DEVICES_A_PAGE - 1].device if len(rows) > DEVICES_A_PAGE else None,
        after=after,
        show=show[:1],
        notice=notice(did),
    )


@get("/rollouts/{rollout_id:str}/live")
async def rollout_live(
    request: Asked, desk: TheDesk, visitor: TheVisitor, environment: TheEnvironment, rollout_id: FromPath[str]
) -> Stream:
    """Its cells and numbers as they change."""
    await _look(desk, rollout_id)
    names = ("summary", "legend", "timeline", "failures", "actions", "waves")
    templates = {name: environment.get_template(f"rollout_{name}.html") for name in names}

    def drawn() -> dict[str, str]:
        values = {"now": utc_now(), "visitor": visitor, **_read(desk, rollout_id)}
        found = {name: template.render(values) for name, template in templates.items()}
        return found | {"cells": values["cells"]}

    async def parts() -> tuple[int, dict[str, str]]:
        # drawn once for all who may do the same
        read = await desk.fresh.get(("rollout live", rollout_id, visitor.may_act), drawn)
        return read.generation, read.value | away_part(environment)

    return live(parts, lambda: desk.fleet.feed.published, ending_of(request))


@get("/rollouts/{rollout_id:str}/cell/{place:int}")
async def cell(
    request: Asked, desk: TheDesk, visitor: TheVisitor, rollout_id: FromPath[str], place: FromPath[int]
) -> Template:
    """Which device a cell stands for, and how it is."""
    if not 0 <= place <= MAX_PLACE:
        raise NotFoundException
    found = await to_thread.run_sync(device_at, desk.engine, rollout_id, place)
    rows = await to_thread.run_sync(lambda: device_rows(desk.engine, rollout_id, only=found)) if found else []
    return page(request, visitor, "cell.html", row=rows[0] if rows else None)


@get("/rollouts/{rollout_id:str}/do/{name:str}")
async def ask_rollout(
    request: Asked, desk: TheDesk, visitor: TheVisitor, rollout_id: FromPath[str], name: FromPath[str]
) -> Template:
    """What is asked before a rollout is steered."""
    action = _action(name)
    may_act(visitor)
    if isinstance(action, Move):
        await _not_already(desk, rollout_id, action)
    board = await _board(desk, rollout_id)
    reverts = isinstance(action, Move) and action.state is RolloutState.REVERTED
    takers = await to_thread.run_sync(desk.fleet.rollouts.takers, board.rollout) if reverts else []
    return _ask(request, visitor, action, board, facts=[goes_back(board.package, one) for one in takers])


@post("/rollouts/{rollout_id:str}/do/{name:str}", status_code=200)
async def steer(
    request: Asked, desk: TheDesk, visitor: TheVisitor, rollout_id: FromPath[str], name: FromPath[str]
) -> Template | Response[None]:
    """Steer it."""
    action = _action(name)
    may_act(visitor)
    by = who_of(request).actor
    try:
        if isinstance(action, Move):
            state = action.state
            await _not_already(desk, rollout_id, action)
            await to_thread.run_sync(lambda: desk.fleet.steering.set_state(rollout_id, state, by=by))
        elif action is CANCEL:
            await to_thread.run_sync(lambda: desk.fleet.steering.cancel(rollout_id, by=by))
        else:
            await to_thread.run_sync(
                desk.fleet.steering.approve if action is APPROVE else desk.fleet.steering.retry, rollout_id
            )
    except FlotillaError as error:
        if error.code == "rollout.unknown":
            raise
        return _ask(request, visitor, action, await _board(desk, rollout_id), error)
    desk.fresh.forget()
    return done(request, f"/rollouts/{rollout_id}", action)


async def _not_already(desk: Desk, rollout_id: str, move: Move) -> None:
    """Raise `OperatorError` (`rollout.state`) where the page that asks is older than the rollout's state."""
    there = await to_thread.run_sync(desk.fleet.rollouts.rollout, rollout_id)
    if already(there.state, move.state):
        raise OperatorError("rollout.state", f"rollout {rollout_id} is {there.state} already: nothing changed")


async def _board(desk: Desk, rollout_id: str) -> Board:
    board: Board = (await _look(desk, rollout_id))["board"]
    return board


async def _look(desk: Desk, rollout_id: str) -> dict[str, Any]:
    return (await desk.fresh.get(("rollout", rollout_id), lambda: _read(desk, rollout_id))).value


def _read(desk: Desk, rollout_id: str) -> dict[str, Any]:
    """All that the page shows of a rollout; blocks."""
    board = read_board(desk.engine, rollout_id, utc_now())
    return _shown(board, desk.fleet.rollouts.rollout(rollout_id), desk.fleet.rollouts.failures(rollout_id))


def _shown(board: Board, view: Rollout, failures: list[Failure]) -> dict[str, Any]:
    counted = board.counts
    waits = any(wave.state is WaveState.AWAITING_APPROVAL for wave in view.waves)
    return {
        "board": board,
        "rollout": view,
        "waves": [wave_card(wave) for wave in view.waves],
        "counts": counted,
        "segments": segments(counted),
        "legend": legend(board.letters),
        "chart": chart(board.tallies, len(board.cells)),
        "failures": failures,
        "moves": _offered(board, view, waits=waits),
        "retry": RETRY,
        "retry_later": board.state in STOPPED and may_retry(RolloutState.ACTIVE, view.verdicts),
        "cells": msgspec.json.encode(cells_of(board, view.waves)).decode(),
    }


def _offered(board: Board, view: Rollout, *, waits: bool) -> list[Action]:
    """What makes sense to ask of a rollout as it is."""
    offered: list[Action] = [APPROVE] if waits else []
    offered += moves_from(board.state)
    if board.state not in ENDED and board.state is not RolloutState.REVERTED:
        offered += [RETRY] if may_retry(board.state, view.verdicts) else []
        busy = board.counts["working"] + board.counts["waiting"]
        offered += [CANCEL] if busy and view.cancel_asked_at is None else []
    return offered


def _ask(
    request: Asked,
    visitor: Visitor,
    action: Action,
    board: Board,
    error: FlotillaError | None = None,
    *,
    facts: Sequence[str] = (),
) -> Template:
    counted = board.counts
    fact = (
        f"{have_it(counted['good'], len(board.cells))}; at it: {counted['working']}, waiting: {counted['waiting']}, "
        f"failed or gone back: {counted['bad']}."
    )
    return ask(
        request,
        visitor,
        action,
        back=f"/rollouts/{board.rollout}",
        subject=f"{board.package} {board.version} on {board.channel}",
        facts=[fact, *facts],
        error=error,
    )


def _action(name: str) -> Action:
    found = named(ON_ROLLOUT, name) or move_named(name)
    if found is None:
        raise NotFoundException
    return found
