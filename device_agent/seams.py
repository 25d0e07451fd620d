"""The contracts between the update engine and what it works with. Fakes in tests implement the same."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from schemas.manifest import Health, Hook, Manifest, Service

OnBytes = Callable[[int, int], None]
"""Called as content arrives, from any thread: (plain bytes, wire bytes) since the last call."""


def unheard(_plain: int, _wire: int) -> None:
    """Where nobody counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedManifest:
    """A manifest that the trusted root vouches for.

    Attributes:
        manifest: the decoded manifest; package, version and platform are those that were asked for.
        sha256: of the plain bytes; the release's identity.
        plain: the plain bytes, to be kept beside the release.
        wire_bytes: what it cost to get it, metadata included.
        index: the list of bundles that lead to it, as it was fetched: nobody has signed it. Empty where there is none.
    """

    manifest: Manifest
    sha256: str
    plain: bytes
    wire_bytes: int
    index: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class AtHand:
    """What helps in finding out about a release.

    Attributes:
        manifests: files with plain manifests of releases that are here, best first.
        max_bytes: most that may be fetched; None: as much as it takes.
        on_bytes: told what arrives: none of it is content.
    """

    manifests: tuple[Path, ...] = ()
    max_bytes: int | None = None
    on_bytes: OnBytes = unheard


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedBundle:
    """A bundle to take contents from.

    Attributes:
        path: below a repository's base URL.
        size: its bytes.
        old: file with the plain manifest of the release that it starts from; None for a full one.
        new: sha256 of the plain manifest that it leads to, which `resolve` gave before.
    """

    path: str
    size: int
    old: Path | None
    new: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How contents are to be fetched.

    Attributes:
        bundle: where to take them from before anything is fetched one by one.
        max_bytes: most that may be fetched; None: as much as it takes.
    """

    bundle: WantedBundle | None = None
    max_bytes: int | None = None


NOTHING_AT_HAND = AtHand()
ONE_BY_ONE = Way()


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedObject:
    """A content that the device lacks. The source writes it to `destination`, whole and verified, or not at all."""

    sha256: str
    size: int
    destination: Path


class ReleaseSource(Protocol):
    """Where releases come from: HTTP repositories in order, or an exported file. Nothing unsigned gets through."""

    async def resolve(
        self, package: str, version: str, platform: str, at_hand: AtHand = NOTHING_AT_HAND
    ) -> SignedManifest:
        """The signed manifest for the platform, else the one for `any`.

        Raises:
            TrustError: no valid, unexpired signature vouches for it.
            NetworkError: `fetch.*`; `fetch.not_found` is final, the others may pass.
            DeviceError: `fetch.limit`: it would have taken more than `at_hand.max_bytes`.
            PublisherError: the manifest itself breaks a rule.
        """
        ...

    async def fetch(self, wanted: Sequence[WantedObject], on_bytes: OnBytes, way: Way = ONE_BY_ONE) -> str:
        """Get each object to its destination (mode and mtime are the caller's business).

        Partial downloads are kept and resumed by a later call. Destinations appear by rename, only with
        the right size and hash. Cancelling the call stops within a second. What a bundle does not yield, for
        whatever reason, is fetched one by one.

        Returns:
            Empty, or why the bundle did not yield everything (`code: message`).

        Raises:
            NetworkError: `fetch.*`.
            DeviceError: `verify.*`, `disk.*`; `fetch.limit`: it would have taken more than `way.max_bytes`.
        """
        ...

    async def close(self) -> None:
        """Let go of connections and files."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseContext:
    """One release on this device, as hooks, services, templates and checks see it.

    Attributes:
        folder: the release's own folder; for running services it is the `current` link.
        values: every placeholder name to its value (see `schemas.templates`).
        environment: FLOTILLA_* variables for hooks and services.
    """

    package: str
    version: str
    folder: Path
    state_folder: Path
    values: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class HookResult:
    """What a hook that succeeded printed: the last lines, at most 16 KiB."""

    seconds: float
    output: str


class HookRunner(Protocol):
    """Runs hooks with their time limits."""

    async def run(self, name: str, hook: Hook, context: ReleaseContext) -> HookResult:
        """Run one hook to its end.

        Raises `DeviceError` `hook.failed` or `hook.timeout` with the output as `log_tail`; the whole
        process group is gone then.
        """
        ...


class ServiceManager(Protocol):
    """Starts and stops a package's services: by systemd where that is init, by the agent itself elsewhere."""

    async def start(self, services: Sequence[Service], context: ReleaseContext) -> None:
        """Make all of them run with this release, restarting what runs with another. Idempotent.

        Raises `DeviceError` `service.start` or `service.unit`. That a service stays up is for `failed` to tell.
        """
        ...

    async def stop(self, package: str, services: Sequence[Service]) -> None:
        """Stop those that Flotilla started for the package. Idempotent; bounded.

        Units that exist independently of Flotilla are left running.
        """
        ...

    async def remove(self, package: str, services: Sequence[Service]) -> None:
        """As `stop`, and nothing of them is left (unit files)."""
        ...

    async def failed(self, package: str, services: Sequence[Service]) -> str:
        """Empty while all is well, else one line: which service is down or keeps ending, and why."""
        ...

    def output(self, package: str) -> str:
        """The last lines that the package's services printed, at most 16 KiB; for `log_tail`."""
        ...

    async def close(self) -> None:
        """The agent ends: supervised processes end too, systemd's units live on."""
        ...


class HealthProbe(Protocol):
    """Runs a release's health checks once."""

    async def check(self, health: Health, context: ReleaseContext) -> None:
        """One round of all checks, each within its time limit.

        Raises `DeviceError` `health.command|http|tcp|systemd` for the first that does not pass.
        """
        ...


class TemplateRenderer(Protocol):
    """Makes the configuration files of a release from its templates."""

    def render(self, manifest: Manifest, context: ReleaseContext) -> None:
        """Write each template's target below `context.folder` with its mode.

        Raises `DeviceError` `requires.setting` where the device lacks a value; nothing is left then.
        """
        ...


Whence = Path | Sequence[str]
"""Where a release comes from: an exported file that somebody here has chosen, or base URLs. A string is no file."""

SourceFactory = Callable[[Whence], ReleaseSource]
"""Makes a source for an exported file, or the base URLs of an announcement (configured ones go first)."""

Sleep = Callable[[float], Awaitable[None]]
