"""Whether a release may be installed on this device at all. Pure: values in, an error or nothing out."""

from collections.abc import Mapping

from device_agent.agent_package import check_agent_package
from device_agent.sets import expected
from device_agent.updates import DeviceProfile, Install, UpdateRequest
from schemas.errors import DeviceError
from schemas.manifest import Manifest
from schemas.messages import ReleaseSet
from schemas.requirements import Unmet, unmet_by_age, unmet_by_device, unmet_by_versions, unmet_settings


class MissingPackageError(DeviceError):
    """`requires.packages`: the device lacks `package` in a version within the range `wanted`."""

    def __init__(self, message: str, package: str, wanted: str) -> None:
        super().__init__("requires.packages", message)
        self.package = package
        self.wanted = wanted


def check_downgrade(request: UpdateRequest, install: Install | None) -> None:
    """Raise `DeviceError` `requires.downgrade` where the version is older than the installed one, unless allowed."""
    installed = install.current.version if install else None
    _refuse(
        unmet_by_age(request.package, request.version, installed=installed, allow_downgrade=request.allow_downgrade)
    )


def check_requirements(
    manifest: Manifest, profile: DeviceProfile, installs: Mapping[str, Install], group: ReleaseSet | None = None
) -> None:
    """Raise `DeviceError` `requires.*` for the first requirement that this device does not meet.

    Args:
        group: the set that the release is switched together with.
    """
    model = str(profile.facts.get("model", ""))
    _refuse(unmet_by_device(manifest, platform=profile.platform, agent_version=profile.agent_version, model=model))
    if manifest.package == profile.agent_package:
        check_agent_package(manifest, launched=profile.launched)
    own = installs.get(manifest.package)
    installed = own.current.version if own else None
    _refuse(unmet_by_versions(manifest, installed=installed, beside=expected(group, installs)))
    _refuse(unmet_settings(manifest, profile.settings.get(manifest.package, {}).keys()))


def _refuse(unmet: Unmet | None) -> None:
    if unmet is None:
        return
    if unmet.package is not None:
        raise MissingPackageError(unmet.message, unmet.package, unmet.wanted)
    raise DeviceError(unmet.code, unmet.message)
