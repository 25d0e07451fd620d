"""How often the repository's size is looked up."""

import asyncio

import pytest

from controller.signals import upkeep
from controller.signals.upkeep import Upkeep, pause_s
from tests.support.links import until


@pytest.mark.parametrize(("took_s", "pause"), [(0.001, 15.0), (0.1, 90.0), (1.0, 900.0), (60.0, 900.0)])
def test_the_longer_a_look_takes_the_more_seldom_it_is(took_s: float, pause: float) -> None:
    assert pause_s(took_s) == pytest.approx(pause)


async def test_what_was_pushed_since_the_start_is_seen_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[None] = []
    monkeypatch.setattr(Upkeep, "look", lambda _self: looks.append(None))
    monkeypatch.setattr(upkeep, "LEAST_S", 0.01)
    stop = asyncio.Event()
    running = asyncio.create_task(Upkeep(None).run(stop))  # type: ignore[arg-type]  # it does not look here
    await until(lambda: len(looks) > 1)
    stop.set()
    await running
