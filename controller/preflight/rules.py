"""What a device would do about a release, by the rules that its agent has. Pure: values in, values out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from controller.preflight.views import ForeseenDevice, Obstacle
from schemas.bundles import BundleIndex, contents
from schemas.errors import PublisherError
from schemas.manifest import Manifest
from schemas.messages import FactValue
from schemas.names import platform_fits
from schemas.requirements import Unmet, needed_bytes, unmet_by_age, unmet_by_device, unmet_by_versions
from schemas.routes import Route, Start, route_to

INSTALLED: Final = "installed"
OFFLINE: Final = "offline"
PINNED: Final = "pinned"
HELD: Final = "held"

There = tuple[tuple[str, str, str], ...]
"""Package, version and sha256 of the plain manifest of each release on a device."""

_SIMULATED: Final = "simulated"
"""The fact that devices of `flotilla simulate` have."""

_NO_AGENT: Final = "0.0.0"
"""Of a device that has not said which agent it runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A release that is to be announced, for one platform.

    Attributes:
        sha256: of its plain manifest.
        plain: bytes of that; `packed` as it is sent.
        index: the bundles that lead to it, if any.
    """

    manifest: Manifest
    sha256: str
    plain: int
    packed: int
    index: BundleIndex | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """A package as a device runs it. `manifest` is the sha256 of its plain manifest."""

    version: str
    manifest: str
    previous: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownDevice:
    """A device by what it last reported, and what it was told.

    Attributes:
        failed: the error code with which the release failed there the last time that it was tried; None for none.
    """

    id: str
    online: bool
    last_seen: datetime
    agent_version: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, FactValue] = field(default_factory=dict)
    packages: Mapping[str, Runs] = field(default_factory=dict)
    pin: str | None = None
    hold: bool = False
    failed: str | None = None

    def fact(self, name: str) -> str:
        """A fact as text; empty for none."""
        value = self.facts.get(name)
        return "" if value is None else str(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be announced.

    Attributes:
        allow_downgrade: whether it may be older than what a device runs.
        beside: package to version of what would be switched to together with it.
    """

    package: str
    version: str
    allow_downgrade: bool = False
    beside: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """The route from what a device has. `missing` is plain bytes of each content that it lacks."""

    route: Route
    bytes: int
    missing: Sequence[int]


class Foresight:
    """Foresees one device after the other. Devices that have the same releases get the same route, worked out once.

    Args:
        wanted: what is to be announced.
        candidates: its releases, one for each platform.
        old: gives the manifest with this sha256 of its plain bytes; None for one that is not in the repository.
        older: gives the sha256 of a version's manifest for a platform; None likewise.
    """

    def __init__(
        self,
        wanted: Wanted,
        candidates: Sequence[Candidate],
        *,
        old: Callable[[str, str, str], Manifest | None],
        older: Callable[[str, str, str], str | None],
    ) -> None:
        self._wanted = wanted
        self._candidates = candidates
        self._old = old
        self._older = older
        self._ways: dict[tuple[str, There], Way] = {}

    def look(self, device: KnownDevice) -> ForeseenDevice:
        """What the device would do now."""
        own = device.packages.get(self._wanted.package)
        candidate = self._candidate(device.fact("platform"))
        foreseen: dict[str, Any] = {
            "device": device.id,
            "online": device.online,
            "last_seen": device.last_seen,
            "installed": own.version if own else None,
        }
        if candidate is not None and own is not None and self._is_there(device, own, candidate):
            runs_it = Obstacle(code=INSTALLED, message=f"it runs {own.version} already")
            return ForeseenDevice(**foreseen, obstacles=[runs_it])
        obstacles = [*_waits(device), *self._refusals(device, own, candidate)]
        if candidate is None or any("." in one.code for one in obstacles):
            return ForeseenDevice(**foreseen, obstacles=obstacles)
        there = self._there(device)
        way = self._ways.get((candidate.sha256, there))
        if way is None:
            way = self._ways[candidate.sha256, there] = self._find_way(candidate, there)
        obstacles += _room(device, candidate, way)
        offer = way.route.offer
        return ForeseenDevice(
            **foreseen,
            route=way.route.kind if way.missing else None,
            from_version=offer.version if offer else None,
            bytes=way.bytes,
            obstacles=obstacles,
        )

    def _is_there(self, device: KnownDevice, own: Runs, candidate: Candidate) -> bool:
        """Whether a device runs the release: the very one, as a version may have been deleted and pushed anew."""
        if device.facts.get(_SIMULATED) is True:  # it fetches nothing, so the manifest that it reports is made up
            return own.version == self._wanted.version
        return own.manifest == candidate.sha256

    def _candidate(self, platform: str) -> Candidate | None:
        """The release for a platform: its own goes before one for any."""
        fitting = [one for one in self._candidates if platform_fits(one.manifest.platform, platform)]
        return max(fitting, key=lambda one: one.manifest.platform == platform, default=None)

    def _refusals(self, device: KnownDevice, own: Runs | None, candidate: Candidate | None) -> Iterator[Obstacle]:
        wanted, installed = self._wanted, own.version if own else None
        if candidate is None:
            platforms = ", ".join(one.manifest.platform for one in self._candidates)
            platform = device.fact("platform") or "of an unknown platform"
            yield Obstacle(
                code="requires.platform",
                message=f"{wanted.package} {wanted.version} is for {platforms}, this device is {platform}",
            )
            return
        if device.failed is not None and device.facts.get(_SIMULATED) is not True:  # that one forgets
            yield Obstacle(
                code="conflict.failed_before",
                message=f"it failed there before ({device.failed}); after `flotilla ask {device.id} retry --package "
                f"{wanted.package}`, or as another version, it is tried",
            )
        manifest = candidate.manifest
        beside = {name: runs.version for name, runs in device.packages.items()} | dict(wanted.beside)
        agent = device.agent_version or device.fact("agent_version") or _NO_AGENT
        yield from _unmet(
            lambda: unmet_by_age(
                wanted.package, wanted.version, installed=installed, allow_downgrade=wanted.allow_downgrade
            )
        )
        yield from _unmet(
            lambda: unmet_by_device(
                manifest, platform=device.fact("platform"), agent_version=agent, model=device.fact("model")
            )
        )
        yield from _unmet(lambda: unmet_by_versions(manifest, installed=installed, beside=beside))

    def _there(self, device: KnownDevice) -> There:
        """Package, version and manifest of each release that is on the device, to all that is known."""
        found = {(name, runs.version, runs.manifest) for name, runs in device.packages.items()}
        platform = device.fact("platform")
        for name, runs in device.packages.items():
            sha256 = self._older(name, runs.previous, platform) if runs.previous else None
            if runs.previous and sha256:
                found.add((name, runs.previous, sha256))
        return tuple(sorted(found))

    def _find_way(self, candidate: Candidate, there: There) -> Way:
        manifests = [(one, self._old(*one)) for one in there]
        old = [(one, manifest) for one, manifest in manifests if manifest is not None]
        here = {entry.sha256 for _, manifest in old for entry in manifest.files}
        missing = [content for content in contents(candidate.manifest) if content[0] not in here]
        own = [
            Start(sha256=sha256, manifest=manifest)
            for (name, _, sha256), manifest in old
            if name == candidate.manifest.package
        ]
        route = route_to(candidate.manifest, candidate.index, missing, own)
        return Way(
            route=route,
            bytes=route.cost + _manifest_bytes(candidate, own),
            missing=[size for _, size in missing],
        )


def _manifest_bytes(candidate: Candidate, starts: Sequence[Start]) -> int:
    """Of the manifest on the wire: a difference where one leads from what is there, else all of it."""
    here = {start.sha256 for start in starts}
    entries = candidate.index.bundles if candidate.index else []
    patches = [entry.manifest.size for entry in entries if entry.source in here and entry.manifest is not None]
    return min([candidate.packed, *patches])


def _waits(device: KnownDevice) -> Iterator[Obstacle]:
    if not device.online:
        seen = device.last_seen.isoformat(timespec="seconds").replace("+00:00", "Z")
        yield Obstacle(code=OFFLINE, message=f"offline, last heard of at {seen}")
    if device.pin is not None:
        yield Obstacle(code=PINNED, message=f"pinned to {device.pin}")
    if device.hold:
        yield Obstacle(code=HELD, message="on hold: it starts no update")


def _unmet(question: Callable[[], Unmet | None]) -> Iterator[Obstacle]:
    try:
        unmet = question()
    except PublisherError as error:  # a device may report any text as a version
        yield Obstacle(code=error.code, message=str(error))
    else:
        if unmet is not None:
            yield Obstacle(code=unmet.code, message=unmet.message)


def _room(device: KnownDevice, candidate: Candidate, way: Way) -> Iterator[Obstacle]:
    free = device.facts.get("disk_free")
    needed = needed_bytes(candidate.manifest, way.missing, plain=candidate.plain)
    if isinstance(free, int) and not isinstance(free, bool) and free < needed:
        name = f"{candidate.manifest.package} {candidate.manifest.version}"
        yield Obstacle(code="disk.full", message=f"{name} needs {needed} bytes free, there were {free}")
