"""The change feed: everybody sees everything in order, and whoever is too slow is told so."""

import asyncio
from collections.abc import Iterator

from controller.fleet.feed import Change, ChangeFeed, EventTaken, Item, TooSlow, Watcher
from tests.unit.fleet.builders import event


def change(number: int) -> Change:
    return EventTaken(number, event(seq=number))


async def read(watcher: Watcher, count: int) -> list[Item]:
    async with asyncio.timeout(5):
        found: list[Item] = []
        async for item in watcher:
            found.append(item)
            if len(found) == count:
                break
        return found


async def test_every_watcher_sees_every_change_in_order() -> None:
    feed = ChangeFeed()
    with feed.watch() as one, feed.watch() as other:
        for number in (1, 2, 3):
            feed.publish(change(number))
        assert await read(one, 3) == await read(other, 3) == [change(1), change(2), change(3)]
    assert feed.watchers == 0


async def test_a_watcher_sees_nothing_from_before() -> None:
    feed = ChangeFeed()
    feed.publish(change(1))
    with feed.watch() as watcher:
        feed.publish(change(2))
        assert await read(watcher, 1) == [change(2)]


async def test_a_slow_watcher_is_dropped_told_so_and_holds_up_nobody() -> None:
    feed = ChangeFeed()
    with feed.watch(backlog=2) as slow, feed.watch(backlog=10) as quick:
        for number in range(1, 6):
            feed.publish(change(number))
        assert (slow.dropped, quick.dropped, feed.watchers) == (True, False, 1)
        assert await read(slow, 99) == [change(1), change(2), TooSlow()]
        assert await read(quick, 5) == [change(number) for number in range(1, 6)]


async def test_what_nobody_watches_is_counted_and_not_made() -> None:
    made: list[int] = []

    def changes() -> Iterator[Change]:
        for number in (1, 2, 3):
            made.append(number)
            yield change(number)

    feed = ChangeFeed()
    feed.publish_all(changes(), 3)
    assert (made, feed.published) == ([], 3)
    with feed.watch() as watcher:
        feed.publish_all(changes(), 3)
        assert (made, feed.published) == ([1, 2, 3], 6)
        assert await read(watcher, 3) == [change(1), change(2), change(3)]
