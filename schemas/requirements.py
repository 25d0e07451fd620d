"""Whether a device meets what a manifest requires, and how much room it needs.

The agent refuses by these rules, and the controller's preflight says beforehand whom they will refuse.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from schemas.manifest import Manifest
from schemas.names import platform_fits
from schemas.ranges import Range
from schemas.versions import compare

SLACK_BYTES: Final = 16 * 1024 * 1024
"""Room left over for logs, the database and state while an update is under way."""
BLOCK: Final = 4096
"""What a file system allots at a time, where it is not known better, bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmet:
    """A requirement that a device does not meet.

    Attributes:
        code: `requires.*`, as events carry it.
        message: one line for people.
        package: the other package that is missing or does not fit, where it is that.
        wanted: the range it should be in.
    """

    code: str
    message: str
    package: str | None = None
    wanted: str = ""


def unmet_by_device(manifest: Manifest, *, platform: str, agent_version: str, model: str) -> Unmet | None:
    """The first requirement on the device itself that is not met: platform, agent, hardware.

    Args:
        manifest: of what is to be installed.
        platform: e.g. `linux-aarch64`.
        agent_version: SemVer text.
        model: what the device's fact `model` says; empty for nothing.
    """
    name, needs = _name(manifest), manifest.requires
    if not platform_fits(manifest.platform, platform):
        return Unmet(code="requires.platform", message=f"{name} is for {manifest.platform}, this device is {platform}")
    if needs.agent is not None and not Range(needs.agent).contains(agent_version):
        return Unmet(code="requires.agent", message=f"{name} needs agent {needs.agent}, this is {agent_version}")
    if needs.hardware and not any(fnmatchcase(model, pattern) for pattern in needs.hardware):
        kinds = " or ".join(needs.hardware)
        return Unmet(code="requires.hardware", message=f"{name} is for {kinds}, this device is a {model or 'nameless'}")
    return None


def unmet_by_versions(manifest: Manifest, *, installed: str | None, beside: Mapping[str, str]) -> Unmet | None:
    """The first requirement on installed versions that is not met: the own one, then other packages by name.

    Args:
        manifest: of what is to be installed.
        installed: the version of the package itself that is there; None for none.
        beside: package to the version beside which the release will run.
    """
    name, allowed = _name(manifest), manifest.requires.upgrade_from
    if installed is not None and allowed is not None and not Range(allowed).contains(installed):
        return Unmet(
            code="requires.upgrade_from",
            message=f"{name} can be installed over {allowed} only, not over {installed}; "
            "install a version in between first",
        )
    for package, wanted in sorted(manifest.requires.packages.items()):
        there = beside.get(package)
        if there is None or not Range(wanted).contains(there):
            is_there = "which is not installed" if there is None else f"installed is {there}"
            return Unmet(
                code="requires.packages",
                message=f"{name} needs {package} {wanted}, {is_there}",
                package=package,
                wanted=wanted,
            )
    return None


def unmet_by_age(package: str, version: str, *, installed: str | None, allow_downgrade: bool) -> Unmet | None:
    """That the version is older than the installed one, where that is not allowed.

    Build metadata plays no part: versions that differ in nothing else are of the same age.
    """
    if installed is None or allow_downgrade or compare(version, installed) >= 0:
        return None
    return Unmet(
        code="requires.downgrade",
        message=f"{package} {version} is older than the installed {installed}; "
        "release it with --allow-downgrade if that is meant (allow_downgrade in the rollout's policy)",
    )


def unmet_settings(manifest: Manifest, given: Collection[str]) -> Unmet | None:
    """The first setting that the owner of the device has to give and has not. `given`: names of those that are."""
    for key, default in sorted(manifest.settings.items()):
        if default is None and key not in given:
            return Unmet(
                code="requires.setting",
                message=f"{_name(manifest)} needs the setting {key!r}; "
                f"set it under [settings.{manifest.package}] in agent.toml",
            )
    return None


def needed_bytes(manifest: Manifest, missing: Iterable[int], *, plain: int, block: int = BLOCK) -> int:
    """Free bytes that an update asks for: what is missing in whole blocks, its tree, and slack.

    The largest content counts twice: it may lie packed and unpacked for a moment.

    Args:
        manifest: of what is to be installed.
        missing: plain bytes of each content that has to come.
        plain: bytes of the plain manifest.
        block: what the file system allots at a time, bytes.
    """
    sizes = list(missing)
    blocks = sum(-(-size // block) for size in sizes)
    tree = len(manifest.directories) + len(manifest.links) + len(manifest.templates) + len(manifest.state)
    return (blocks + tree) * block + max(sizes, default=0) + 2 * plain + SLACK_BYTES


def _name(manifest: Manifest) -> str:
    return f"{manifest.package} {manifest.version}"
