"""Thousands of devices in one process act on a release a few at a time."""

import asyncio

from device_agent.simulator.turns import AT_ONCE, Turns


async def test_those_that_began_go_on_before_all_others_begin() -> None:
    turns = Turns()
    order: list[str] = []

    async def device(number: int) -> None:
        await turns.take()
        order.append(f"{number} begins")
        await asyncio.sleep(0)
        order.append(f"{number} goes on")

    async with asyncio.timeout(10), asyncio.TaskGroup() as devices:
        for number in range(10 * AT_ONCE):
            devices.create_task(device(number))
    begun = [int(one.split()[0]) for one in order if one.endswith("begins")]
    assert begun == list(range(10 * AT_ONCE))
    assert order.index("0 goes on") < order.index(f"{2 * AT_ONCE} begins")
    under_way, most = 0, 0
    for one in order:
        under_way += 1 if one.endswith("begins") else -1
        most = max(most, under_way)
    assert most <= 2 * AT_ONCE


async def test_a_device_that_is_gone_before_its_turn_keeps_nobody_waiting() -> None:
    turns = Turns()
    asking = [asyncio.create_task(turns.take()) for _ in range(AT_ONCE + 2)]
    await asyncio.sleep(0)
    asking[AT_ONCE].cancel()
    async with asyncio.timeout(10):
        await asyncio.wait(asking)
    assert [one.cancelled() for one in asking].count(True) == 1
    async with asyncio.timeout(10):
        await turns.take()


async def test_a_single_device_does_not_wait() -> None:
    taking = Turns().take()
    try:
        taking.send(None)
    except StopIteration:
        return
    raise AssertionError("it waited")
