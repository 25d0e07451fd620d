"""What the signed metadata makes the agent believe, and what it refuses."""

import errno
import fcntl
import json
import os
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # public, but not marked so

from device_agent import trust
from device_agent.trust import LAST_SEEN, SIGNED_AT, SignedTarget, TrustStore, check_root
from schemas.errors import DeviceError, FlotillaError, NetworkError, TrustError
from schemas.layout import MAX_MANIFEST_PACKED
from tests.unit.agent_leaves.signed_repository import DAY, NOW, SignedRepository, reader

NAME = "tacho@1.0.0@any.json.zst"


class Device:
    """A device's view of a repository; its folder outlives the `TrustStore`s."""

    def __init__(self, folder: Path, repository: SignedRepository) -> None:
        self.folder = folder / "metadata"
        self.trusted = repository.trusted
        self.clock = NOW
        self.asked: list[str] = []

    def store(self) -> TrustStore:
        return TrustStore(self.folder, self.trusted, lambda: self.clock)

    def find(self, files: dict[str, bytes], *names: str) -> SignedTarget | None:
        self.asked.clear()
        return self.store().find(names or [NAME], reader(files, self.asked), "repo")

    def problem(self, files: dict[str, bytes], *names: str) -> FlotillaError:
        with pytest.raises(FlotillaError) as caught:
            self.find(files, *names)
        assert "\n" not in caught.value.message
        return caught.value


@pytest.fixture
def repository() -> SignedRepository:
    made = SignedRepository()
    made.add("tacho", NAME, b"manifest")
    made.publish()
    return made


@pytest.fixture
def device(tmp_path: Path, repository: SignedRepository) -> Device:
    return Device(tmp_path, repository)


def test_a_signed_target_is_found(repository: SignedRepository, device: Device) -> None:
    found = device.find(repository.files)
    assert found is not None
    assert (found.name, found.length) == (NAME, 8)


def test_the_first_of_several_names_that_is_signed_is_taken(repository: SignedRepository, device: Device) -> None:
    special = "tacho@1.0.0@linux-aarch64.json.zst"
    found = device.find(repository.files, special, NAME)
    assert found is not None
    assert found.name == NAME
    repository.add("tacho", special, b"other")
    repository.publish()
    found = device.find(repository.files, special, NAME)
    assert found is not None
    assert found.name == special


def test_what_nobody_signed_is_not_found(repository: SignedRepository, device: Device) -> None:
    assert device.find(repository.files, "tacho@2.0.0@any.json.zst") is None
    assert device.find(repository.files, "unknown@1.0.0@any.json.zst") is None


def test_one_package_cannot_sign_for_another(repository: SignedRepository, device: Device) -> None:
    repository.package("other")
    repository.add("tacho", "other@1.0.0@any.json.zst", b"mixed up")
    repository.publish()
    assert device.find(repository.files, "other@1.0.0@any.json.zst") is None


def test_only_the_timestamp_is_fetched_again_while_nothing_changes(
    repository: SignedRepository, device: Device
) -> None:
    device.find(repository.files)
    assert "timestamp.json" in device.asked
    assert len(device.asked) == 5
    device.find(repository.files)
    assert device.asked == ["2.root.json", "timestamp.json"]


def test_a_new_root_is_followed(repository: SignedRepository, device: Device) -> None:
    device.find(repository.files)
    for _ in range(2):
        repository.rotate_root()
        repository.publish()
    assert device.find(repository.files) is not None
    assert "3.root.json" in device.asked


def test_a_root_that_the_old_keys_did_not_sign_is_refused(repository: SignedRepository, device: Device) -> None:
    device.find(repository.files)
    repository.rotate_root(signed_by=CryptoSigner.generate_ed25519())
    repository.publish()
    assert device.problem(repository.files).code == "trust.unsigned"


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "package-tacho"])
def test_metadata_that_is_not_signed_by_the_right_key_is_refused(
    repository: SignedRepository, device: Device, role: str
) -> None:
    repository.keys[role] = CryptoSigner.generate_ed25519()
    repository.publish()
    error = device.problem(repository.files)
    assert isinstance(error, TrustError)
    assert error.code == "trust.unsigned"
    assert error.message == "repo: is not signed by the keys that this device trusts"


def test_metadata_without_signatures_is_refused(repository: SignedRepository, device: Device) -> None:
    for name, content in repository.files.items():
        repository.files[name] = json.dumps({**json.loads(content), "signatures": []}).encode()
    assert device.problem(repository.files).code in {"trust.unsigned", "trust.root"}


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "package-tacho"])
def test_expired_metadata_is_refused(repository: SignedRepository, device: Device, role: str) -> None:
    repository.expires[role] = -DAY
    repository.publish()
    error = device.problem(repository.files)
    assert isinstance(error, TrustError)
    assert error.code == "trust.expired"
    assert "this device takes it to be 2030-01-01T00:00Z" in error.message


def test_an_expired_root_is_refused(tmp_path: Path) -> None:
    repository = SignedRepository(now=NOW - 20 * DAY)
    repository.add("tacho", NAME, b"manifest")
    repository.now = NOW
    repository.publish()
    assert Device(tmp_path, repository).problem(repository.files).code == "trust.expired"


def test_metadata_that_was_good_expires_with_time(repository: SignedRepository, device: Device) -> None:
    device.find(repository.files)
    device.clock += 11 * DAY
    assert device.problem(repository.files).code == "trust.expired"
    repository.now = device.clock
    repository.root_bytes = repository._sign("root", repository.root)
    repository.trusted = repository.root_bytes
    repository.publish()
    device.trusted = repository.trusted
    assert device.find(repository.files) is not None


def test_older_metadata_is_refused_also_by_an_agent_that_was_restarted(
    repository: SignedRepository, device: Device
) -> None:
    old = dict(repository.files)
    repository.add("tacho", "tacho@1.1.0@any.json.zst", b"newer")
    repository.publish()
    assert device.find(repository.files) is not None
    error = device.problem(old)
    assert isinstance(error, TrustError)
    assert error.code == "trust.rollback"
    assert error.message.startswith("repo: is older than what this device has already seen")
    assert device.find(repository.files, "tacho@1.1.0@any.json.zst") is not None


def test_a_single_role_cannot_go_back_either(repository: SignedRepository, device: Device) -> None:
    repository.publish()
    device.find(repository.files)
    repository.packages["tacho"].version = 1
    repository.publish()
    assert device.problem(repository.files).code == "trust.rollback"


def test_another_controllers_repository_is_told_apart(repository: SignedRepository, device: Device) -> None:
    stranger = SignedRepository()
    stranger.add("tacho", NAME, b"manifest")
    stranger.publish()
    error = device.problem(stranger.files)
    assert error.code == "trust.root"
    assert "begins with another root" in error.message
    assert device.find(repository.files) is not None


@pytest.mark.parametrize("name", ["timestamp.json", "1.snapshot.json", "1.targets.json", "1.package-tacho.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"signed": {}, "signatures": []}', b"[" * 100])
def test_malformed_metadata_is_refused(repository: SignedRepository, device: Device, name: str, content: bytes) -> None:
    repository.files[name] = content
    error = device.problem(repository.files)
    assert isinstance(error, TrustError)
    assert error.code == "trust.metadata"


def test_metadata_that_is_nested_without_end_is_refused(repository: SignedRepository, device: Device) -> None:
    repository.files["timestamp.json"] = b"[" * 10_000
    assert device.problem(repository.files).code == "trust.metadata"


def test_metadata_that_is_missing_or_too_long_is_the_networks_fault(
    repository: SignedRepository, device: Device
) -> None:
    files = dict(repository.files)
    files["timestamp.json"] += b" " * 100_000
    assert device.problem(files).code == "fetch.limit"
    del files["timestamp.json"]
    error = device.problem(files)
    assert isinstance(error, NetworkError)
    assert error.code == "fetch.not_found"


def test_other_failures_of_reading_come_through_as_they_are(device: Device) -> None:
    def read(name: str, limit: int) -> bytes:
        raise NetworkError("fetch.timeout", "too slow")

    with pytest.raises(NetworkError) as caught:
        device.store().find([NAME], read, "repo")
    assert caught.value.code == "fetch.timeout"


@pytest.mark.parametrize(
    "fields",
    [
        {"hashes": {"sha512": "0" * 128}},
        {"hashes": {"sha256": "../../x"}},
        {"length": MAX_MANIFEST_PACKED + 1},
        {"length": 0},
    ],
)
def test_a_target_that_cannot_be_fetched_safely_is_refused(
    repository: SignedRepository, device: Device, fields: dict[str, object]
) -> None:
    repository.add("tacho", NAME, b"manifest", **fields)
    repository.publish()
    assert device.problem(repository.files).code == "trust.metadata"


# Time: boards without a clock battery


def test_a_clock_that_falls_back_does_not_bring_expired_metadata_back(
    repository: SignedRepository, device: Device
) -> None:
    """The time that is compared is set in python-tuf by a private attribute: this fails should it move."""
    device.find(repository.files)
    device.clock = NOW + 9 * DAY
    device.find(repository.files)
    frozen = dict(repository.files)
    device.clock = datetime(1970, 1, 1, tzinfo=NOW.tzinfo)
    assert device.store().time() == NOW + 9 * DAY
    assert device.find(frozen) is not None
    (device.folder / LAST_SEEN).write_text((NOW + 11 * DAY).isoformat())
    assert device.problem(frozen).code == "trust.expired"


def test_a_clock_that_is_far_ahead_is_never_noted(repository: SignedRepository, device: Device) -> None:
    device.find(repository.files)
    device.clock = NOW + 5000 * DAY
    assert device.problem(repository.files).code == "trust.expired"
    device.clock = NOW + timedelta(hours=1)
    assert device.find(repository.files) is not None
    assert device.store().time() == device.clock


def test_a_signed_time_is_proof_for_a_clock_that_is_behind(repository: SignedRepository, device: Device) -> None:
    repository.timestamp.unrecognized_fields[SIGNED_AT] = NOW.isoformat()
    repository.publish()
    device.clock = datetime(1970, 1, 1, tzinfo=NOW.tzinfo)
    device.find(repository.files)
    assert device.store().time() == NOW


@pytest.mark.parametrize("signed_at", ["2999-01-01T00:00:00+00:00", "2030-01-01T00:00:00", "soon", 5, None])
def test_a_signed_time_is_believed_within_reason(
    repository: SignedRepository, device: Device, signed_at: object
) -> None:
    repository.timestamp.unrecognized_fields[SIGNED_AT] = signed_at
    repository.publish()
    device.find(repository.files)
    assert NOW <= device.store().time() <= NOW + 10 * DAY


@pytest.mark.parametrize("content", ["", "yesterday", "2030-01-01T00:00:00", "\0"])
def test_a_damaged_note_of_the_time_is_no_error(repository: SignedRepository, device: Device, content: str) -> None:
    device.folder.mkdir()
    (device.folder / LAST_SEEN).write_text(content)
    assert device.find(repository.files) is not None
    assert device.store().time() == NOW


# A file that travels slowly


def test_a_timestamp_that_was_signed_for_longer_takes_the_place_of_its_twin(
    repository: SignedRepository, device: Device
) -> None:
    for role in ("root", "snapshot", "targets", "package-tacho"):
        repository.expires[role] = 100 * DAY
    repository.root_bytes = repository._sign("root", repository.root)
    device.trusted = repository.root_bytes
    repository.publish()
    device.find(repository.files)
    travelling = {**repository.files, "timestamp.json": repository.twin_of_timestamp(60 * DAY)}
    device.clock = NOW + 30 * DAY
    assert device.problem(repository.files).code == "trust.expired"
    assert device.find(travelling) is not None
    assert device.find(repository.files) is not None


def test_an_unsigned_twin_is_refused(repository: SignedRepository, device: Device) -> None:
    for role in ("root", "snapshot", "targets", "package-tacho"):
        repository.expires[role] = 100 * DAY
    repository.root_bytes = repository._sign("root", repository.root)
    device.trusted = repository.root_bytes
    repository.publish()
    device.find(repository.files)
    repository.keys["timestamp"] = CryptoSigner.generate_ed25519()
    travelling = {**repository.files, "timestamp.json": repository.twin_of_timestamp(60 * DAY)}
    device.clock = NOW + 30 * DAY
    before = (device.folder / "timestamp.json").read_bytes()
    assert device.problem(travelling).code in {"trust.unsigned", "trust.expired"}
    assert (device.folder / "timestamp.json").read_bytes() == before


def test_a_twin_that_is_swapped_in_between_two_reads_is_refused(repository: SignedRepository, device: Device) -> None:
    for role in ("root", "snapshot", "targets", "package-tacho"):
        repository.expires[role] = 100 * DAY
    repository.root_bytes = repository._sign("root", repository.root)
    device.trusted = repository.root_bytes
    repository.publish()
    device.find(repository.files)
    before = (device.folder / "timestamp.json").read_bytes()
    repository.keys["timestamp"] = CryptoSigner.generate_ed25519()
    answers = [repository.files["timestamp.json"], repository.twin_of_timestamp(60 * DAY)]
    device.clock = NOW + 30 * DAY

    def read(name: str, limit: int) -> bytes:
        if name == "timestamp.json":
            return answers.pop(0) if len(answers) > 1 else answers[0]
        return reader(repository.files)(name, limit)

    with pytest.raises(TrustError) as caught:
        device.store().find([NAME], read, "repo")
    assert caught.value.code == "trust.unsigned"
    assert (device.folder / "timestamp.json").read_bytes() == before


# The trusted root and the disk


def test_a_trusted_root_must_be_a_signed_root(repository: SignedRepository) -> None:
    check_root(repository.trusted)
    for wrong in (b"", b"{}", repository.files["timestamp.json"], repository.trusted.replace(b'"version"', b'"other"')):
        with pytest.raises(TrustError) as caught:
            check_root(wrong)
        assert caught.value.code == "trust.root"
        assert "`flotilla root`" in caught.value.message


def test_a_disk_that_refuses_is_told(repository: SignedRepository, device: Device) -> None:
    device.folder.parent.mkdir(exist_ok=True)
    device.folder.write_text("in the way")
    error = device.problem(repository.files)
    assert isinstance(error, DeviceError)
    assert error.code == "disk.io"


def test_a_disk_that_refuses_while_metadata_is_read_says_nothing_of_whom_to_trust(
    repository: SignedRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:  # as loading a module does that is needed first then
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(json, "loads", refuse)
    with pytest.raises(DeviceError) as caught:
        check_root(repository.trusted)
    assert caught.value.code == "disk.full"


def test_metadata_is_kept_from_others_and_durable(
    repository: SignedRepository, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: set[int] = set()
    real = os.fsync

    def fsync(descriptor: int) -> None:
        flushed.add(os.fstat(descriptor).st_ino)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    device.find(repository.files)
    assert device.folder.stat().st_mode & 0o077 == 0
    files = [path for path in device.folder.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"timestamp.json", "snapshot.json", "package-tacho.json", LAST_SEEN}
    assert {path.stat().st_ino for path in files} <= flushed


def test_of_two_that_ask_at_once_one_waits_for_the_other(repository: SignedRepository, device: Device) -> None:
    order: list[str] = []
    second: list[Future[SignedTarget | None]] = []
    read = reader(repository.files, [])

    def slowly(name: str, limit: int) -> bytes:
        if not second:
            second.append(pool.submit(device.store().find, [NAME], quickly, "repo"))
            assert not wait(second, timeout=0.3).done, "the second did not wait"
        order.append("first")
        return read(name, limit)

    def quickly(name: str, limit: int) -> bytes:
        order.append("second")
        return read(name, limit)

    with ThreadPoolExecutor(1) as pool:
        first = device.store().find([NAME], slowly, "repo")
        assert first is not None
        assert second[0].result(timeout=30) == first
    assert order == sorted(order)


def test_a_folder_that_another_keeps_for_too_long_is_told(
    repository: SignedRepository, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert device.find(repository.files) is not None
    monkeypatch.setattr(trust, "_LOCK_WAIT_S", 0.05)
    descriptor = os.open(device.folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        assert device.problem(repository.files).code == "conflict.busy"
    finally:
        os.close(descriptor)
    assert device.find(repository.files) is not None
