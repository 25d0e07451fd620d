"""A fleet service for tests: in this process, or as a process that a test may kill."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sqlalchemy import Engine

from controller.fleet.service import FleetService
from schemas.topics import Topics
from tests.support.database import opened
from tests.support.links import until
from transport import Backoff, LinkSettings

BOUND_S = 30.0


def make_service(engine: Engine, url: str, root: str, client_id: str) -> FleetService:
    """A service that connects again quickly."""
    settings = LinkSettings(url=url, client_id=client_id)
    return FleetService(engine, settings, Topics(root), version="1.0.0", backoff=Backoff(first_s=0.05, limit_s=0.5))


@asynccontextmanager
async def serving(service: FleetService) -> AsyncIterator[FleetService]:
    """The service runs, and is connected, in the block."""
    stop = asyncio.Event()
    running = asyncio.create_task(service.run(stop))
    try:
        await until(lambda: service.connected or running.done())
        yield service
    finally:
        stop.set()
        async with asyncio.timeout(BOUND_S):
            await running


async def main(database: str, url: str, root: str, client_id: str) -> None:
    """Serve until killed."""
    service = make_service(opened(Path(database)), url, root, client_id)
    await service.run(asyncio.Event())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
