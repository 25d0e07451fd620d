"""Whether a release may be installed on this device at all. Pure: values in, an error or nothing out."""

from collections.abc import Mapping
from fnmatch import fnmatchcase

from device_agent.agent_package import check_agent_package
from device_agent.sets import expected
from device_agent.updates import DeviceProfile, Install, UpdateRequest
from schemas.errors import DeviceError
from schemas.manifest import Manifest
from schemas.messages import ReleaseSet
from schemas.names import platform_fits
from schemas.ranges import Range
from schemas.versions import compare


class MissingPackageError(DeviceError):
    """`requires.packages`: the device lacks `package` in a version within the range `wanted`."""

    def __init__(self, message: str, package: str, wanted: str) -> None:
        super().__init__("requires.packages", message)
        self.package = package
        self.wanted = wanted


def check_downgrade(request: UpdateRequest, install: Install | None) -> None:
    """Raise `DeviceError` `requires.downgrade` where the version is older than the installed one, unless allowed.

    Build metadata plays no part: versions that differ in nothing else are of the same age.
    """
    if install is None or request.allow_downgrade:
        return
    if compare(request.version, install.current.version) < 0:
        raise DeviceError(
            "requires.downgrade",
            f"{request.package} {request.version} is older than the installed {install.current.version}; "
            "allow the downgrade in the rollout's policy if it is meant",
        )


def check_requirements(
    manifest: Manifest, profile: DeviceProfile, installs: Mapping[str, Install], group: ReleaseSet | None = None
) -> None:
    """Raise `DeviceError` `requires.*` for the first requirement that this device does not meet.

    Args:
        group: the set that the release is switched together with.
    """
    name = f"{manifest.package} {manifest.version}"
    needs = manifest.requires
    if not platform_fits(manifest.platform, profile.platform):
        raise DeviceError("requires.platform", f"{name} is for {manifest.platform}, this device is {profile.platform}")
    if needs.agent is not None and not Range(needs.agent).contains(profile.agent_version):
        raise DeviceError("requires.agent", f"{name} needs agent {needs.agent}, this is {profile.agent_version}")
    model = str(profile.facts.get("model", ""))
    if needs.hardware and not any(fnmatchcase(model, pattern) for pattern in needs.hardware):
        raise DeviceError(
            "requires.hardware", f"{name} is for {' or '.join(needs.hardware)}, this device is a {model or 'nameless'}"
        )
    if manifest.package == profile.agent_package:
        check_agent_package(manifest, launched=profile.launched)
    _check_versions(manifest, name, installs, expected(group, installs))
    _check_settings(manifest, name, profile)


def _check_versions(manifest: Manifest, name: str, installs: Mapping[str, Install], beside: Mapping[str, str]) -> None:
    own = installs.get(manifest.package)
    allowed = manifest.requires.upgrade_from
    if own is not None and allowed is not None and not Range(allowed).contains(own.current.version):
        raise DeviceError(
            "requires.upgrade_from",
            f"{name} can be installed over {allowed} only, not over {own.current.version}; "
            "install a version in between first",
        )
    for package, wanted in sorted(manifest.requires.packages.items()):
        there = beside.get(package)
        if there is None:
            raise MissingPackageError(f"{name} needs {package} {wanted}, which is not installed", package, wanted)
        if not Range(wanted).contains(there):
            raise MissingPackageError(f"{name} needs {package} {wanted}, installed is {there}", package, wanted)


def _check_settings(manifest: Manifest, name: str, profile: DeviceProfile) -> None:
    given = profile.settings.get(manifest.package, {})
    for key, default in sorted(manifest.settings.items()):
        if default is None and key not in given:
            raise DeviceError(
                "requires.setting",
                f"{name} needs the setting {key!r}; set it under [settings.{manifest.package}] in agent.toml",
            )
