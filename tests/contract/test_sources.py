"""What every release source keeps to, over HTTP and from an exported file, with a real repository behind it."""

import hashlib
import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from controller.repository.package_repository import PackageRepository
from device_agent.seams import ReleaseSource, SignedManifest, WantedObject
from device_agent.sources import exported_head, read_trusted_root, source_factory
from schemas.errors import DeviceError, FlotillaError, NetworkError, PublisherError, TrustError
from schemas.layout import object_path
from schemas.manifest import Manifest
from tests.support.repository import add_release, make_package, make_repository, serve_folder, tree_of

FILES: dict[str, bytes | str] = {
    "bin/run": "#!/bin/sh\n",
    "empty": b"",
    "same": "#!/bin/sh\n",
    "data.bin": hashlib.shake_256(b"data").digest(3_000_000),
}
MakeSource = Callable[[], ReleaseSource]


class Fleet:
    """A repository and one device that takes from it."""

    def __init__(self, folder: Path) -> None:
        self.now = datetime(2030, 1, 1, tzinfo=UTC)
        self.folder = folder
        self.root = folder / "device"
        self.repository: PackageRepository = make_repository(folder / "data", clock=lambda: self.now)
        self.trusted_root = self.repository.trusted_root()
        self.record = add_release(self.repository, "tacho", "1.0.0", FILES)

    def source(self, *addresses: str) -> ReleaseSource:
        """From addresses, or from the one file that somebody chose."""
        make = source_factory(
            root=self.root, trusted_root=lambda: self.trusted_root, repositories=[], now=lambda: self.now
        )
        return make(Path(addresses[0]) if addresses[0].startswith("/") else addresses)

    def export(self, version: str = "1.0.0") -> Path:
        exports = self.folder / "exports"
        exports.mkdir(exist_ok=True)
        return self.repository.export("tacho", version, "any", exports, valid_days=30)

    @contextmanager
    def serving(self) -> Iterator[str]:
        with serve_folder(self.repository.folder) as url:
            yield url

    def wanted(self, manifest: Manifest) -> list[WantedObject]:
        return [
            WantedObject(sha256=sha256, size=size, destination=self.root / "objects" / sha256)
            for sha256, size in {entry.sha256: entry.size for entry in manifest.files}.items()
        ]

    def has_nothing(self) -> bool:
        return not (self.root / "objects").exists() and not tree_of(self.root / "downloads")


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


@pytest.fixture(params=["http", "file"])
def source(request: pytest.FixtureRequest, fleet: Fleet) -> Iterator[MakeSource]:
    """Makes sources for the repository as it is at that moment."""
    with ExitStack() as stack:
        if request.param == "http":
            url = stack.enter_context(fleet.serving())
            yield lambda: fleet.source(url)
        else:
            yield lambda: fleet.source(str(fleet.export()))


async def problem(source: ReleaseSource, package: str = "tacho", version: str = "1.0.0") -> FlotillaError:
    with pytest.raises(FlotillaError) as caught:
        await source.resolve(package, version, "linux-aarch64")
    await source.close()
    assert "\n" not in caught.value.message
    return caught.value


async def resolved(source: ReleaseSource) -> SignedManifest:
    return await source.resolve("tacho", "1.0.0", "linux-aarch64")


async def test_a_release_comes_whole(fleet: Fleet, source: MakeSource) -> None:
    taken = source()
    signed = await resolved(taken)
    assert signed.sha256 == fleet.record.manifest == hashlib.sha256(signed.plain).hexdigest()
    assert (signed.manifest.package, signed.manifest.version, signed.manifest.platform) == ("tacho", "1.0.0", "any")
    assert signed.wire_bytes > 0
    counted: list[tuple[int, int]] = []
    wanted = fleet.wanted(signed.manifest)
    await taken.fetch(wanted, lambda plain, wire: counted.append((plain, wire)))
    await taken.close()
    for want in wanted:
        assert hashlib.sha256(want.destination.read_bytes()).hexdigest() == want.sha256
    assert sum(plain for plain, _ in counted) == sum(want.size for want in wanted)
    assert sum(wire for _, wire in counted) == fleet.record.packed
    assert not [name for name in tree_of(fleet.root / "downloads") if not name.endswith(".manifest.zst")]


async def test_a_source_can_be_asked_again(fleet: Fleet, source: MakeSource) -> None:
    first = await resolved(source())
    taken = source()
    assert (await resolved(taken)).sha256 == first.sha256
    assert (await resolved(taken)).sha256 == first.sha256


async def test_the_platforms_own_release_goes_before_the_one_for_any(fleet: Fleet) -> None:
    add_release(fleet.repository, "tacho", "1.0.0", {"x": "for arm"}, platform="linux-aarch64")
    with fleet.serving() as url:
        signed = await resolved(fleet.source(url))
        assert signed.manifest.platform == "linux-aarch64"
        other = await fleet.source(url).resolve("tacho", "1.0.0", "linux-x86_64")
        assert other.manifest.platform == "any"


@pytest.mark.parametrize(("package", "version"), [("tacho", "9.9.9"), ("unknown", "1.0.0")])
async def test_what_the_repository_does_not_have_is_not_found(
    fleet: Fleet, source: MakeSource, package: str, version: str
) -> None:
    error = await problem(source(), package, version)
    assert isinstance(error, NetworkError)
    assert error.code == "fetch.not_found"
    assert f"{package} {version}" in error.message


@pytest.mark.parametrize("version", ["1.0", "../../x", "1.0.0/..", "1.0.0\n"])
async def test_what_is_no_version_asks_nobody(fleet: Fleet, source: MakeSource, version: str) -> None:
    error = await problem(source(), "tacho", version)
    assert isinstance(error, PublisherError)
    assert error.code == "version.bad"


async def test_a_content_that_is_not_there_is_not_found(fleet: Fleet, source: MakeSource) -> None:
    want = WantedObject(sha256="0" * 64, size=1, destination=fleet.root / "objects/x")
    with pytest.raises(NetworkError) as caught:
        await source().fetch([want], lambda _plain, _wire: None)
    assert caught.value.code == "fetch.not_found"
    assert fleet.has_nothing()


async def test_a_size_that_is_not_the_signed_one_is_refused(fleet: Fleet, source: MakeSource) -> None:
    signed = await resolved(source())
    want = next(w for w in fleet.wanted(signed.manifest) if w.size == 10)
    for size in (9, 11):
        wrong = WantedObject(sha256=want.sha256, size=size, destination=want.destination)
        with pytest.raises(DeviceError) as caught:
            await source().fetch([wrong], lambda _plain, _wire: None)
        assert caught.value.code == "verify.size"
        assert not want.destination.exists()


async def test_expired_signatures_are_refused(fleet: Fleet, source: MakeSource) -> None:
    taken = source()
    fleet.now += timedelta(days=400)
    error = await problem(taken)
    assert isinstance(error, TrustError)
    assert error.code == "trust.expired"


async def test_another_controllers_release_is_refused(fleet: Fleet, source: MakeSource, tmp_path: Path) -> None:
    fleet.trusted_root = make_repository(tmp_path / "other").trusted_root()
    error = await problem(source())
    assert isinstance(error, TrustError)
    assert error.code == "trust.root"
    assert fleet.has_nothing()


async def test_what_is_no_root_is_refused(fleet: Fleet, source: MakeSource) -> None:
    fleet.trusted_root = b"{}"
    error = await problem(source())
    assert isinstance(error, TrustError)
    assert error.code == "trust.root"


async def test_a_repository_that_steps_back_is_refused(fleet: Fleet, source: MakeSource) -> None:
    old = fleet.export()
    await resolved(source())
    add_release(fleet.repository, "tacho", "1.1.0", {"x": "newer"})
    with fleet.serving() as url:
        await fleet.source(url).resolve("tacho", "1.1.0", "any")
    error = await problem(fleet.source(str(old)))
    assert isinstance(error, TrustError)
    assert error.code == "trust.rollback"


async def test_a_device_goes_from_file_to_network_and_back(fleet: Fleet) -> None:
    first = fleet.export()
    assert (await resolved(fleet.source(str(first)))).sha256 == fleet.record.manifest
    with fleet.serving() as url:
        assert (await resolved(fleet.source(url))).sha256 == fleet.record.manifest
        fleet.now += timedelta(days=20)
        # The file's timestamp is signed for longer than the one that is served with the same version.
        assert (await resolved(fleet.source(str(first)))).sha256 == fleet.record.manifest


async def test_a_device_that_saw_the_served_twin_of_a_files_timestamp_takes_the_file(fleet: Fleet) -> None:
    file = fleet.export()
    with fleet.serving() as url:
        assert (await resolved(fleet.source(url))).sha256 == fleet.record.manifest
        fleet.now += timedelta(days=20)
        assert (await problem(fleet.source(url))).code == "trust.expired"
    assert (await resolved(fleet.source(str(file)))).sha256 == fleet.record.manifest


# Over HTTP


async def test_a_restart_needs_only_the_timestamp_again(fleet: Fleet) -> None:
    with fleet.serving() as url:
        first = await resolved(fleet.source(url))
        again = await resolved(fleet.source(url))
    assert again == SignedManifest(
        manifest=first.manifest, sha256=first.sha256, plain=first.plain, wire_bytes=again.wire_bytes
    )
    timestamp = (fleet.repository.folder / "metadata/timestamp.json").stat().st_size
    assert again.wire_bytes == timestamp < first.wire_bytes


async def test_a_manifest_with_another_digest_is_refused(fleet: Fleet) -> None:
    for path in (fleet.repository.folder / "targets").rglob("*tacho*"):
        content = path.read_bytes()
        path.chmod(0o644)
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with fleet.serving() as url:
        error = await problem(fleet.source(url))
    assert isinstance(error, DeviceError)
    assert error.code == "verify.digest"
    assert fleet.has_nothing()


async def test_a_content_with_another_hash_is_refused(fleet: Fleet) -> None:
    with fleet.serving() as url:
        signed = await resolved(fleet.source(url))
        wanted = fleet.wanted(signed.manifest)
        here, there = (fleet.repository.folder / object_path(want.sha256) for want in wanted[:2])
        there.chmod(0o644)
        there.write_bytes(here.read_bytes())
        with pytest.raises(DeviceError) as caught:
            await fleet.source(url).fetch([wanted[1]], lambda _plain, _wire: None)
    assert caught.value.code in {"verify.digest", "verify.size"}
    assert not wanted[1].destination.exists()


async def test_a_stale_mirror_does_not_keep_the_next_from_being_asked(fleet: Fleet, tmp_path: Path) -> None:
    with serve_folder(tmp_path) as empty, fleet.serving() as url:
        assert (await resolved(fleet.source(empty, url))).sha256 == fleet.record.manifest


async def test_an_unsigned_repository_is_refused(fleet: Fleet) -> None:
    timestamp = fleet.repository.folder / "metadata/timestamp.json"
    timestamp.chmod(0o644)
    text = timestamp.read_bytes()
    timestamp.write_bytes(text[: text.index(b'"sig":"') + 7] + b"00" * 64 + text[text.index(b'"sig":"') + 135 :])
    with fleet.serving() as url:
        error = await problem(fleet.source(url))
    assert isinstance(error, TrustError)
    assert error.code == "trust.unsigned"
    assert fleet.has_nothing()


# From a file


async def test_an_unsigned_package_file_is_refused(fleet: Fleet, tmp_path: Path) -> None:
    package = make_package(tmp_path, "tacho", "1.0.0", FILES)
    error = await problem(fleet.source(str(package)))
    assert isinstance(error, TrustError)
    assert error.code == "trust.unsigned"
    assert "is an unsigned package" in error.message
    with pytest.raises(TrustError):
        exported_head(package)


async def test_the_head_says_what_to_ask_for(fleet: Fleet) -> None:
    head = exported_head(fleet.export())
    assert (head.package, head.version, head.platform) == ("tacho", "1.0.0", "any")


def changed(file: Path, change: Callable[[tarfile.TarInfo, bytes], tuple[tarfile.TarInfo, bytes] | None]) -> Path:
    """The file with its members passed through `change`; None leaves one out."""
    result = file.with_name("changed.flotilla")
    with tarfile.open(file) as old, tarfile.open(result, "w", format=tarfile.PAX_FORMAT) as new:
        for member in old:
            content = old.extractfile(member)
            made = change(member, content.read() if content else b"")
            if made is not None:
                made[0].size = len(made[1])
                made[0].pax_headers = {}
                new.addfile(made[0], io.BytesIO(made[1]))
    return result


@pytest.mark.parametrize("part", [0, 1, 100, 512, 700, 5_000, -1_000_000, -20_000])
async def test_a_file_that_was_cut_short_is_told(fleet: Fleet, part: int) -> None:
    file = fleet.export()
    content = file.read_bytes()
    file.write_bytes(content[:part])
    error = await problem(fleet.source(str(file)))
    assert isinstance(error, PublisherError)
    assert error.code == "package.format"
    assert fleet.has_nothing()


@pytest.mark.parametrize("content", [b"x" * 5000, b"PK\3\4" + b"x" * 5000, bytes(10_240)])
async def test_a_file_of_another_kind_is_told(fleet: Fleet, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.flotilla"
    file.write_bytes(content)
    error = await problem(fleet.source(str(file)))
    assert error.code == "package.format"


async def test_an_address_is_never_a_file(fleet: Fleet) -> None:
    make = source_factory(
        root=fleet.root, trusted_root=lambda: fleet.trusted_root, repositories=[], now=lambda: fleet.now
    )
    file = fleet.export()
    for address in (str(file), f"file://{file}"):
        error = await problem(make([address]))
        assert (type(error), error.code) == (NetworkError, "fetch.unreachable")


READ_HEAD = """
import sys
from pathlib import Path
from device_agent.sources import exported_head
from schemas.errors import PublisherError
try:
    exported_head(Path(sys.argv[1]))
except PublisherError as error:
    print(error.code, error.message)
"""


def test_what_is_no_regular_file_is_told_without_waiting(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.flotilla"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path, Path("/dev/null")):
        # in a process, because opening a pipe that nobody writes to would never end
        reading = subprocess.run(
            [sys.executable, "-c", READ_HEAD, str(path)], capture_output=True, text=True, timeout=15, check=True
        )
        assert reading.stdout == f"package.format {path.name}: is not a regular file\n"


async def test_a_file_that_is_not_there_is_told(fleet: Fleet, tmp_path: Path) -> None:
    error = await problem(fleet.source(str(tmp_path / "absent.flotilla")))
    assert error.code == "disk.io"
    assert "absent.flotilla" in error.message


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, b"S", b"L"])
async def test_only_regular_members_are_read(fleet: Fleet, kind: bytes) -> None:
    def change(member: tarfile.TarInfo, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
        if member.name.startswith("objects/"):
            member.type, member.linkname = kind, "/etc/passwd"
            return member, b""
        return member, content

    error = await problem(fleet.source(str(changed(fleet.export(), change))))
    assert error.code == "package.format"


@pytest.mark.parametrize("size", ["9" * 5000, "0" * 21, "\N{ARABIC-INDIC DIGIT ONE}", "\N{SUPERSCRIPT TWO}", "-1", ""])
async def test_a_size_that_is_none_is_a_damaged_header(tmp_path: Path, size: str) -> None:
    record = f" size={size}\n".encode()
    length = len(record) + 1
    while len(str(length)) + len(record) != length:
        length += 1
    extended = tarfile.TarInfo("pax")
    extended.type, extended.size = tarfile.XHDTYPE, length
    content = f"{length}".encode() + record
    file = tmp_path / "x.flotilla"
    head = tarfile.TarInfo("flotilla.json").tobuf(tarfile.USTAR_FORMAT)
    padding = bytes(-length % 512)
    file.write_bytes(extended.tobuf(tarfile.USTAR_FORMAT) + content + padding + head + bytes(1024))
    with pytest.raises(PublisherError) as caught:
        exported_head(file)
    assert (caught.value.code, caught.value.message) == ("package.format", "x.flotilla: has a damaged header")


async def test_names_that_lead_elsewhere_lead_nowhere(fleet: Fleet) -> None:
    """Nothing is written by a member's name, so one that is not asked for has no effect."""

    def change(member: tarfile.TarInfo, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
        if member.name.startswith("objects/"):
            member.name = f"../../{member.name[8:20]}"
        return member, content

    file = changed(fleet.export(), change)
    before = set(tree_of(fleet.folder)) | {"device"}
    signed = await resolved(fleet.source(str(file)))
    with pytest.raises(NetworkError) as caught:
        await fleet.source(str(file)).fetch(fleet.wanted(signed.manifest), lambda _plain, _wire: None)
    assert caught.value.code == "fetch.not_found"
    assert {name for name in tree_of(fleet.folder) if not name.startswith("device/")} <= before


@pytest.mark.parametrize(
    ("beginning", "codes"),
    [
        ("metadata/timestamp", {"fetch.not_found"}),
        ("metadata/1.root", set()),
        ("metadata/", {"fetch.not_found"}),
        ("targets/", {"fetch.not_found"}),
        ("flotilla.json", {"package.format"}),
    ],
)
async def test_a_file_that_lacks_a_part_is_refused(fleet: Fleet, beginning: str, codes: set[str]) -> None:
    file = changed(fleet.export(), lambda m, content: None if m.name.startswith(beginning) else (m, content))
    if codes:
        assert (await problem(fleet.source(str(file)))).code in codes
    else:
        assert (await resolved(fleet.source(str(file)))).sha256 == fleet.record.manifest


async def test_a_manifest_from_another_file_is_refused(fleet: Fleet) -> None:
    add_release(fleet.repository, "tacho", "1.1.0", {"x": "newer"})
    with tarfile.open(fleet.export("1.1.0")) as other:
        target = next(m for m in other if m.name.startswith("targets/"))
        stream = other.extractfile(target)
        assert stream is not None
        foreign = stream.read()
    file = changed(fleet.export(), lambda m, content: (m, foreign if m.name.startswith("targets/") else content))
    assert (await problem(fleet.source(str(file)))).code in {"verify.digest", "verify.size"}


async def test_a_newer_format_is_told(fleet: Fleet) -> None:
    def change(member: tarfile.TarInfo, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
        return member, content.replace(b'"format":1', b'"format":9') if member.name == "flotilla.json" else content

    error = await problem(fleet.source(str(changed(fleet.export(), change))))
    assert error.code == "package.format"
    assert "newer" in error.message


# The trusted root file


def test_a_trusted_root_is_read(tmp_path: Path) -> None:
    path = tmp_path / "root.json"
    with pytest.raises(TrustError) as caught:
        read_trusted_root(path)
    assert caught.value.code == "trust.root"
    assert "`flotilla root`" in caught.value.message
    path.write_bytes(b"x" * 600_000)
    with pytest.raises(TrustError):
        read_trusted_root(path)
    path.write_bytes(b"content")
    assert read_trusted_root(path) == b"content"
