"""Files with releases, and the metadata that vouches for them, to and from places that reach no controller."""

from collections.abc import Callable, Collection
from datetime import datetime
from pathlib import Path

from controller.packaging.package_reader import open_regular
from controller.repository.export import write_export
from controller.repository.files import disk_errors
from controller.repository.metadata import TrustedMetadata
from controller.repository.moving import Arrived, arrived, check_count, write_site
from controller.repository.publishing import Publisher
from controller.repository.records import ReleaseRecord
from controller.repository.storage import Storage
from schemas.errors import one_line


class Exchange:
    """Of one repository; see `PackageRepository`, whose methods these are. Holds no state."""

    def __init__(self, storage: Storage, publisher: Publisher, clock: Callable[[], datetime]) -> None:
        self._storage = storage
        self._publisher = publisher
        self._clock = clock

    def export(self, record: ReleaseRecord, destination: Path, valid_days: int | None) -> Path:
        """One release for devices, as long as the served timestamp or so many days."""
        if valid_days is None:
            trusted = TrustedMetadata(self._storage.metadata)
            timestamp = trusted.timestamp_bytes
        else:
            trusted, timestamp = self._publisher.valid_for([record.package], valid_days)
        return write_export(self._storage, trusted, timestamp, record, destination)

    def export_site(self, records: Collection[ReleaseRecord], destination: Path, valid_days: int) -> None:
        """Several releases for another repository."""
        check_count(records)
        trusted, timestamp = self._publisher.valid_for(sorted({record.package for record in records}), valid_days)
        write_site(self._storage, trusted, timestamp, records, destination)

    def import_site(self, file: Path, trusted_root: str) -> tuple[list[Arrived], list[Arrived]]:
        """Releases of another repository: those that are new here and signed for now, and those that were known."""
        name = one_line(file.name)
        with open_regular(file) as stream, self._storage.staging() as staging:
            reading = arrived(
                stream, name, storage=self._storage, staging=staging, trusted_root=trusted_root, now=self._clock()
            )
            with reading as (found, staged):
                with disk_errors(self._storage.folder):
                    staging.publish(staged)
                return self._publisher.import_all(found, trusted_root)
