"""The releases of a version, as somebody wrote it."""

from controller.repository.package_repository import PackageRepository
from controller.repository.records import ReleaseRecord
from schemas.versions import parse


def releases_of(repository: PackageRepository, name: str, version: str) -> list[ReleaseRecord]:
    """The releases of a version, one for each platform, of yanked ones too: devices that need one have it still.

    Raises:
        PublisherError: `version.bad`, or `release.unknown` where there is none.
    """
    wanted = str(parse(version))
    found = repository.records(name, wanted)
    if not found:
        raise repository.unknown(name, wanted)
    return found
