"""A controller whose releases reach devices through a web server that can be tampered with.

with hostile_server() as mirror, World(folder, broker) as world:
    world.start_controller(public_url=mirror.url)
    shop = Shop(world, mirror, disk)
    with shop.unharmed("pi-1") as complaints:
        release = shop.store()
        mirror.files.pop(release.contents[0])
        shop.release(release)
        assert world.wait_for_end("pi-1", release.version).phase is Phase.FAILED
"""

import hashlib
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from controller.cli.releases import announce
from schemas.codec import decode
from schemas.layout import object_path
from schemas.messages import Phase, Reported, RolloutPolicy, Verb
from schemas.topics import DEFAULT_ROOT
from tests.support.at_broker import retained
from tests.support.by_hand import everything_in
from tests.support.disks import SmallDisk
from tests.support.packages import build, make_source
from tests.support.repository import tree_of
from tests.support.world import World, source_tree
from tests.unit.agent_leaves.hostile_server import HostileServer

PACKAGE: Final = "tacho"
_QUICK: Final = {"probation_s": 0, "start_period_s": 0}


@dataclass(frozen=True, kw_only=True)
class Release:
    """A release in the repository: where its source is, and where the mirror has its contents, in the given order."""

    version: str
    source: Path
    contents: list[str]


class Shop:
    """A controller whose repository devices see through a mirror, which can be tampered with, and its releases.

    Args:
        disk: of the device that suffers.
    """

    def __init__(self, world: World, mirror: HostileServer, disk: SmallDisk) -> None:
        self.world = world
        self.mirror = mirror
        self.disk = disk
        self._numbers = itertools.count()

    def store(self, *texts: bytes) -> Release:
        """Push the next version; the mirror has it then. Made of `texts`, by default of one that is new."""
        number = next(self._numbers)
        version, files = f"1.{number}.0", dict(enumerate(texts or [f"page {number}\n".encode()]))
        source = make_source(
            self.world.folder / "sources" / version,
            PACKAGE,
            version,
            {f"file-{name}": content for name, content in files.items()},
            health=_QUICK,
        )
        self.world.push(build(source, self.world.folder / "built"))
        stored = tree_of(self.world.data / "repository")
        self.mirror.files.update({f"/{path}": content for path, content in stored.items()})
        return Release(version=version, source=source, contents=[url_of(content) for content in files.values()])

    def release(self, release: Release) -> None:
        """Announce it; devices try once."""
        announce(
            self.world.client,
            name=PACKAGE,
            version=release.version,
            channel="stable",
            policy=RolloutPolicy(retries=0),
        )

    def update_well(self, device: str) -> Release:
        """Bring a device a new release, and see that it runs just that."""
        self.mirror.tricks.clear()
        release = self.store()
        self.release(release)
        end = self.world.wait_for_end(device, release.version)
        assert end.phase is Phase.SUCCEEDED, end
        assert self.world.current_tree(device, PACKAGE) == source_tree(release.source)
        return release

    def condition(self, device: str) -> dict[str, object]:
        """What must not change when something goes wrong: what is installed, how it is reported, the connection."""
        world, topics = self.world, f"{DEFAULT_ROOT}/devices/{device}"
        if self.reported(device).seq != world.journal(device).last_seq:
            world.command(device, Verb.REPORT)
        world.wait(lambda: self.reported(device).seq == world.journal(device).last_seq, f"{device} to report")
        return {
            "packages": everything_in(world.root(device) / "packages"),
            "objects": tree_of(world.root(device) / "objects"),
            "installs": world.journal(device).installs,
            "reported": {name: (p.version, p.manifest) for name, p in self.reported(device).packages.items()},
            "status": retained(world.broker.url, f"{topics}/status"),
        }

    def reported(self, device: str) -> Reported:
        """The retained report."""
        (payload,) = retained(self.world.broker.url, f"{DEFAULT_ROOT}/devices/{device}/reported").values()
        return decode(payload, Reported)

    @contextmanager
    def unharmed(self, device: str, then: Callable[[], object] | None = None) -> Iterator[list[str]]:
        """The block leaves the device as it was, and the next good release works; gives what it complained of.

        Args:
            then: brings the next good release and sees that it runs; `update_well` unless given.
        """
        before, log = self.condition(device), self.world.processes.log(device)
        said, complaints = len(log.read_text()), list[str]()
        yield complaints
        self.world.wait(lambda: self.condition(device) == before, f"{device} to be as it was")
        new = log.read_text()[said:]
        assert "Traceback" not in new
        complaints += [line for line in new.splitlines() if "WARNING" in line or "ERROR" in line]
        assert all("action=" in line for line in new.splitlines()), new
        (then or (lambda: self.update_well(device)))()


def url_of(content: bytes) -> str:
    """Where the mirror has a content."""
    return f"/{object_path(hashlib.sha256(content).hexdigest())}"
