"""What is wrong with a release on its way to a device, or with the device's surroundings.

One agent goes through all of it: it says what is wrong in one line and ends the update with the right last word, what
it runs stays as it was byte for byte, and the next good release is installed as ever.
"""

import itertools
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from broker_config import free_port
from controller.http.views import ControllerView
from controller.repository.packing import pack
from schemas.codec import encode
from schemas.manifest import Health, LinkEntry
from schemas.messages import Phase, RolloutPolicy, UpdateEvent
from schemas.topics import DEFAULT_ROOT
from tests.support import agents
from tests.support.at_broker import say
from tests.support.broker import new_broker
from tests.support.by_hand import everything_in
from tests.support.disks import small_disk
from tests.support.forger import Forger
from tests.support.shop import PACKAGE, Release, Shop, url_of
from tests.support.world import World, source_tree, tree_of
from tests.unit.agent_leaves.hostile_server import Handler, HostileServer, endless, hostile_server, status
from transport import PublishRefused

pytestmark = [pytest.mark.journey, pytest.mark.broker]

DEVICE, TWIN, MISLED, LONELY = "pi-1", "pi-2", "pi-3", "pi-4"
TOPIC = f"{DEFAULT_ROOT}/release/stable/{PACKAGE}"
ATTEMPTS = 5
"""How often a device asks for the same file before it gives up."""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Shop]:
    """One for all of these tests, as nothing that happens in them may do lasting harm; its one device has a release."""
    folder, failed_before = tmp_path_factory.mktemp("releases"), request.session.testsfailed
    broker = new_broker(folder / "broker")
    with ExitStack() as stack:
        stack.callback(broker.remove)
        broker.start()
        mirror = stack.enter_context(hostile_server())
        disk = stack.enter_context(small_disk(folder / "world/devices" / DEVICE, 48 * 2**20))
        world = stack.enter_context(World(folder / "world", broker))
        assert world.root(DEVICE) == disk.folder
        world.start_controller(public_url=mirror.url)
        world.add_agent(DEVICE)
        world.start_agent(DEVICE)
        made = Shop(world, mirror, disk)
        made.update_well(DEVICE)
        yield made
        if request.session.testsfailed > failed_before:
            print(world.report())


# The repository


@dataclass(frozen=True, kw_only=True)
class Bad:
    """Something wrong on the mirror, the story that comes of it, and the words for it."""

    spoil: Callable[[HostileServer, Release], object]
    story: list[Phase]
    code: str
    line: str


def manifest_of(mirror: HostileServer, release: Release) -> str:
    return next(path for path in mirror.files if f".{PACKAGE}@{release.version}@" in path)


def flip(mirror: HostileServer, path: str) -> None:
    """Change the last byte of what is there."""
    *most, last = mirror.files[path]
    mirror.files[path] = bytes([*most, last ^ 1])


def unsign(mirror: HostileServer, _: Release) -> None:
    """Put a signature that is none in the place of the timestamp's."""
    plain = mirror.files["/metadata/timestamp.json"]
    at = plain.index(b'"sig":"') + 7
    mirror.files["/metadata/timestamp.json"] = plain[:at] + b"0" * 128 + plain[at + 128 :]


AT_ONCE = [Phase.ACCEPTED, Phase.FAILED]
FETCHING = [Phase.ACCEPTED, Phase.FETCHING, Phase.FAILED]
REJECTED = [Phase.ACCEPTED, Phase.REJECTED]
MIRROR: dict[str, Bad] = {
    "a manifest whose digest is wrong": Bad(
        spoil=lambda mirror, release: flip(mirror, manifest_of(mirror, release)),
        story=AT_ONCE,
        code="verify.digest",
        line="{url}: manifest tacho@{version}@any.json.zst does not have the hash that was signed",
    ),
    "an object whose content is wrong": Bad(
        spoil=lambda mirror, release: mirror.files.update({release.contents[0]: pack(b"page x\n")}),
        story=FETCHING,
        code="verify.digest",
        line="content {object}… has another hash: the repository or the way to it is damaged",
    ),
    "an unsigned release": Bad(
        spoil=unsign,
        story=REJECTED,
        code="trust.unsigned",
        line="{url}: is not signed by the keys that this device trusts",
    ),
    "a 404 for a content": Bad(
        spoil=lambda mirror, release: mirror.files.pop(release.contents[0]),
        story=FETCHING,
        code="fetch.not_found",
        line="{url}{content}: not found (HTTP 404)",
    ),
    "a 404 for everything": Bad(
        spoil=lambda mirror, _: mirror.files.clear(),
        story=AT_ONCE,
        code="fetch.not_found",
        line="{url}/metadata/timestamp.json: not found (HTTP 404)",
    ),
}


@pytest.mark.parametrize("wrong", MIRROR)
def test_a_damaged_repository(shop: Shop, wrong: str) -> None:
    bad = MIRROR[wrong]
    with shop.unharmed(DEVICE) as complaints:
        release = shop.store()
        bad.spoil(shop.mirror, release)
        shop.release(release)
        end = shop.world.wait_for_end(DEVICE, release.version)
    assert shop.world.phases(DEVICE, release.version) == bad.story
    assert end.error is not None
    assert end.error.code == bad.code
    (content,) = release.contents
    names = {"url": shop.mirror.url, "version": release.version, "content": content, "object": content[-68:-56]}
    assert end.error.message == bad.line.format(**names)
    assert len(complaints) == 1
    assert f"action={end.phase} " in complaints[0]
    assert f"code={bad.code} " in complaints[0]


def test_a_500_that_never_ends(shop: Shop) -> None:
    """Neither a server that answers nothing else nor an answer that has no end keeps a device busy for ever."""
    with shop.unharmed(DEVICE) as complaints:
        release = shop.store(b"one\n", b"two\n")
        one, two = release.contents
        shop.mirror.tricks.update({one: [status(500)], two: [endless(500)]})
        shop.release(release)
        end = shop.world.wait_for_end(DEVICE, release.version)
        asked = [path for path, _ in shop.mirror.asked]
    assert shop.world.phases(DEVICE, release.version) == FETCHING
    assert end.error is not None
    assert end.error.code == "fetch.refused"
    assert end.error.message.endswith(": the repository answered with HTTP 500")
    assert max(asked.count(one), asked.count(two)) == ATTEMPTS
    assert len(complaints) == 1


# The disk


def test_a_disk_that_runs_full_while_a_content_comes(shop: Shop) -> None:
    with shop.unharmed(DEVICE) as complaints:
        noise = os.urandom(6 * 2**20)
        release = shop.store(noise)
        pause = Pause(shop.mirror, release.contents[0])
        shop.release(release)
        assert pause.reached.wait(30)
        with shop.disk.full(shop.world.processes.pid_of(DEVICE), leaving=2**20):
            pause.over.set()
            end = shop.world.wait_for_end(DEVICE, release.version)
    assert shop.world.phases(DEVICE, release.version) == FETCHING
    assert end.error is not None
    assert end.error.code == "disk.full"
    assert end.error.message.endswith("; free some space on the device")
    assert len(complaints) == 1


class Pause:
    """The mirror sends the first half of a content, and the rest when the test says so."""

    def __init__(self, mirror: HostileServer, path: str) -> None:
        self.reached, self.over = threading.Event(), threading.Event()
        self._content = mirror.files[path]
        mirror.tricks[path] = [self.answer]

    def answer(self, handler: Handler) -> None:
        half = len(self._content) // 2
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(self._content)))
        handler.end_headers()
        handler.wfile.write(self._content[:half])
        self.reached.set()
        self.over.wait(60)
        handler.wfile.write(self._content[half:])


# Announcements


def announcement(package: str = PACKAGE) -> bytes:
    """An announcement of what the device has not."""
    return encode(agents.announce(package, "9.0.0"))


ANNOUNCEMENTS: dict[str, tuple[bytes, str, str]] = {
    "not JSON": (b"{not json", "message.json", "Announcement: JSON is malformed"),
    "of a newer schema": (announcement().replace(b'"schema":1', b'"schema":2'), "message.schema", "schema 2 is newer"),
    "of another package than its topic": (announcement("other"), "message.topic", "announces other on stable"),
    "over the size limit": (announcement().ljust(256 * 1024 + 1), "message.size", "262145 bytes are over the limit"),
}


@pytest.mark.parametrize("wrong", ANNOUNCEMENTS)
def test_a_bad_announcement(shop: Shop, wrong: str) -> None:
    payload, code, words = ANNOUNCEMENTS[wrong]
    log, told = shop.world.processes.log(DEVICE), shop.world.journal(DEVICE).last_seq
    refused = log.read_text().count("action=refused")
    with shop.unharmed(DEVICE) as complaints:
        say(shop.world.broker.url, TOPIC, payload)
        shop.world.wait(lambda: log.read_text().count("action=refused") > refused, "the announcement to be refused")
        assert shop.world.journal(DEVICE).last_seq == told, "nothing was begun"
    assert len(complaints) == 1
    assert f"action=refused topic={TOPIC} code={code} " in complaints[0]
    assert words in complaints[0]


def test_an_announcement_that_no_broker_takes(shop: Shop) -> None:
    with shop.unharmed(DEVICE) as complaints, pytest.raises(PublishRefused, match="the broker takes 266240"):
        say(shop.world.broker.url, TOPIC, announcement().ljust(2**20))
    assert complaints == []


def test_an_announcement_of_a_package_that_does_not_exist(shop: Shop) -> None:
    nothing = agents.announce("nosuch", "1.0.0", repository=[shop.mirror.url], policy=RolloutPolicy(retries=0))
    with shop.unharmed(DEVICE) as complaints:
        say(shop.world.broker.url, f"{DEFAULT_ROOT}/release/stable/nosuch", encode(nothing))
        end = shop.world.wait(lambda: about(shop, DEVICE, "nosuch"), "the last word")[-1]
    assert [event.phase for event in about(shop, DEVICE, "nosuch")] == AT_ONCE
    assert end.error is not None
    assert end.error.code == "fetch.not_found"
    assert end.error.message.startswith(f"{shop.mirror.url}: has no nosuch 1.0.0 for ")
    assert len(complaints) == 1


def about(shop: Shop, device: str, package: str) -> list[UpdateEvent]:
    """What a device said of a package, once it has said the last word."""
    events = [event for event in shop.world.events(device) if event.package == package]
    return events if events and events[-1].phase in (Phase.FAILED, Phase.REJECTED, Phase.SUCCEEDED) else []


# Signatures that are good


class Misled:
    """A device that was talked into trusting a publisher who signs anything; it has a release of theirs."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.forger = Forger(shop.mirror, "/forged", PACKAGE)
        self._numbers = itertools.count()
        trusted = shop.world.folder / "forged-root.json"
        trusted.write_bytes(self.forger.trusted_root)
        shop.world.add_agent(MISLED, trusted_root=str(trusted), channel="forged")
        shop.world.start_agent(MISLED)
        self.update_well()

    def follow(self, files: Mapping[str, str] | None = None, **offer: Any) -> UpdateEvent:
        """Offer and announce the next version; gives how it ends."""
        version = f"1.{next(self._numbers)}.0"
        self.forger.offer(version, files or {"page": version}, health=Health(probation_s=0, start_period_s=0), **offer)
        said = agents.announce(
            PACKAGE, version, channel="forged", repository=[self.forger.url], policy=RolloutPolicy(retries=0)
        )
        say(self.shop.world.broker.url, f"{DEFAULT_ROOT}/release/forged/{PACKAGE}", encode(said))
        return self.shop.world.wait_for_end(MISLED, version)

    def update_well(self) -> None:
        """Bring it a new release with nothing wrong, and see that it runs just that."""
        end = self.follow()
        assert end.phase is Phase.SUCCEEDED, end
        assert self.shop.world.current_tree(MISLED, PACKAGE) == {"page": end.version.encode()}


@pytest.fixture(scope="module")
def misled(shop: Shop) -> Misled:
    return Misled(shop)


FORGED: dict[str, tuple[dict[str, Any], str, str]] = {
    "a member named ../x": (
        {"replace": (b'"path":"page"', b'"path":"../x"')},
        "package.path",
        "path '../x' has a '..' level; it may not lead outside the release",
    ),
    "an absolute path": (
        {"replace": (b'"path":"page"', b'"path":"/etc/passwd"')},
        "package.path",
        "path '/etc/passwd' is absolute; paths in a release are relative to it",
    ),
    "a link that leads outside": (
        {"links": [LinkEntry(path="link", target="page")], "replace": (b'"target":"page"', b'"target":"../../../x"')},
        "package.path",
        "link 'link' to '../../../x' points outside the release",
    ),
    "another release's manifest": (
        {"replace": (b'"package":"tacho"', b'"package":"radio"')},
        "trust.unsigned",
        "what is signed as tacho@{version}@any.json.zst is radio {version} for any; nothing vouches for tacho ",
    ),
    "an expired release": (
        {"valid": timedelta(days=-1)},
        "trust.expired",
        "{url}: the signatures have expired (",
    ),
}


@pytest.mark.parametrize("wrong", FORGED)
def test_what_good_signatures_do_not_make_good(shop: Shop, misled: Misled, wrong: str) -> None:
    offer, code, line = FORGED[wrong]
    with shop.unharmed(MISLED, misled.update_well) as complaints:
        end = misled.follow(**offer)
    assert shop.world.phases(MISLED, end.version) == REJECTED
    assert end.error is not None
    assert end.error.code == code
    assert end.error.message.startswith(line.format(version=end.version, url=misled.forger.url))
    assert len(complaints) == 1


def test_a_release_that_no_disk_has_room_for_is_not_begun(shop: Shop, misled: Misled) -> None:
    """Two thousand files that are said to have 8 GiB each."""
    files = {f"file-{number}": f"{number}" for number in range(1000, 3000)}
    with shop.unharmed(MISLED, misled.update_well) as complaints:
        end = misled.follow(files, replace=(b'"size":4', b'"size":8589934591'))
    assert shop.world.phases(MISLED, end.version) == AT_ONCE
    assert end.error is not None
    assert end.error.code == "disk.full"
    words = r"tacho \S+ needs (\d+) bytes free, there are (\d+); make room and retry"
    found = re.fullmatch(words, end.error.message)
    assert found is not None, end.error
    assert int(found[1]) > 2000 * 8589934591 > int(found[2])
    wanted = {url_of(text.encode()) for text in files.values()}
    assert not wanted & {path.removeprefix("/forged") for path, _ in shop.mirror.asked}
    assert len(complaints) == 1


# The broker


def test_of_two_agents_with_one_id_one_ends_and_the_other_goes_on(shop: Shop) -> None:
    world, twin = shop.world, "its twin"
    roots = {TWIN: world.add_agent(TWIN), twin: world.folder / "devices" / "twin"}
    world.start_agent(TWIN)
    installed = shop.update_well(TWIN)
    world.processes.start(twin, world.agent_command("run", TWIN, "--root", str(roots[twin])))
    loser = first_to_end(world)
    survivor = next(name for name in roots if name != loser)

    said = world.processes.log(loser).read_text()
    assert world.processes.wait(loser, 10) == 1
    assert said.splitlines()[-1] == (
        f"flotilla-agent: another agent with the id {TWIN} connects to {world.broker.url}, "
        "3 times within 60 s; give one of them another id"
    )
    assert "Traceback" not in said
    assert world.current_tree(TWIN, PACKAGE) == source_tree(installed.source)
    release = shop.store()
    shop.release(release)
    assert world.wait_for_end(TWIN, release.version).phase is Phase.SUCCEEDED
    assert tree_of((roots[survivor] / "packages" / PACKAGE / "current").resolve()) == source_tree(release.source)
    assert world.processes.end(survivor) == 0


def first_to_end(world: World) -> str:
    """Wait until one of the processes ends by itself; its name."""
    deadline = time.monotonic() + 60
    while not (ended := world.processes.ended()):
        assert time.monotonic() < deadline, "nobody ended"
        time.sleep(0.05)
    return ended[0]


def test_an_agent_whose_broker_is_not_there_says_so_and_waits(shop: Shop) -> None:
    world, port = shop.world, free_port()
    root = world.add_agent(LONELY, broker=f"mqtt://127.0.0.1:{port}")
    log = world.processes.log(LONELY)
    world.start_agent(LONELY, ready=False)
    world.wait(lambda: log.read_text().count("action=disconnected") > 1, "the agent to try twice")
    lines = log.read_text().splitlines()
    assert all("action=" in line for line in lines), lines
    refused = [line for line in lines if "WARNING action=disconnected" in line]
    reason = f'message="mqtt://127.0.0.1:{port}: no connection: Connection refused"'
    assert all("code=broker.unreachable retry_s=" in line and line.endswith(reason) for line in refused), refused

    checked = world.agent("check", LONELY)
    assert checked.returncode == 1
    assert [line for line in checked.stdout.splitlines() if line.startswith("BAD ")] == [
        f"BAD broker: mqtt://127.0.0.1:{port}: no connection: Connection refused"
    ]
    assert world.agent("status", LONELY).stdout.startswith(f"device {LONELY}, channel stable, agent running, ")
    assert not everything_in(root / "packages")
    assert world.processes.end(LONELY) == 0


def test_a_broker_that_is_gone_for_a_while(shop: Shop) -> None:
    """Nobody ends, and what can be done without it is done: a release is stored, to be announced when it is back."""
    world, installed = shop.world, everything_in(shop.world.root(DEVICE) / "packages")
    log = world.processes.log(DEVICE)
    before = log.read_text().count("action=disconnected")
    world.broker.stop()
    try:
        world.wait(lambda: log.read_text().count("action=disconnected") > before, "the agent to notice")
        world.wait(lambda: not world.client.get(ControllerView, "controller").connected, "the controller to notice")
        release = shop.store()
        shop.release(release)
        assert everything_in(world.root(DEVICE) / "packages") == installed
    finally:
        world.broker.restart()
    assert world.wait_for_end(DEVICE, release.version).phase is Phase.SUCCEEDED
    assert world.current_tree(DEVICE, PACKAGE) == source_tree(release.source)
    for name in (DEVICE, "controller"):
        assert "Traceback" not in world.processes.log(name).read_text()
