"""What hooks, services, templates and checks are told about a release on this device."""

from collections.abc import Callable
from pathlib import Path

from device_agent.layout import DeviceFolders
from device_agent.rendering import context_environment, context_values
from device_agent.seams import ReleaseContext
from device_agent.updates import DeviceProfile
from schemas.manifest import Manifest


class Contexts:
    """Makes a `ReleaseContext` from a manifest and what is true of the device now."""

    def __init__(self, folders: DeviceFolders, profile: Callable[[], DeviceProfile]) -> None:
        self._folders = folders
        self._profile = profile

    def of_tree(self, manifest: Manifest, folder: Path) -> ReleaseContext:
        """For hooks and templates: `folder` is the release's own tree, switched to or not.

        Raises:
            DeviceError: `requires.setting`.
        """
        package = self._folders.package(manifest.package)
        profile = self._profile()
        return ReleaseContext(
            package=manifest.package,
            version=manifest.version,
            folder=folder,
            state_folder=package.state,
            values=context_values(
                manifest,
                device_id=profile.device,
                facts=profile.facts,
                tags=profile.tags,
                settings=profile.settings.get(manifest.package, {}),
                current=package.current,
                state=package.state,
            ),
            environment=context_environment(
                manifest, device_id=profile.device, current=package.current, state=package.state
            ),
        )

    def of_running(self, manifest: Manifest) -> ReleaseContext:
        """For services and health checks: the folder is the current link. Raises as `of_tree` does."""
        return self.of_tree(manifest, self._folders.package(manifest.package).current)
