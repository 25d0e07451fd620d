"""Small releases in memory, and a device that applies bundles to them."""

import contextlib
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

from controller.bundles import MadeBundle, make_bundle
from device_agent.bundles import BundleReader
from schemas.manifest import FileEntry, Manifest

Tree = dict[str, bytes]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def manifest(tree: Tree, version: str = "1.0.0") -> Manifest:
    files = [FileEntry(path=path, size=len(data), sha256=sha256(data)) for path, data in sorted(tree.items())]
    return Manifest(format=1, package="demo", version=version, platform="any", files=files)


class Step:
    """A step from one tree to another: its bundle, and what a device makes of it."""

    def __init__(self, old: Tree | None, new: Tree, folder: Path, *, inside: bool = True) -> None:
        self.old = manifest(old) if old is not None else None
        self.new = manifest(new, "2.0.0")
        self.contents = {sha256(data): data for tree in (old or {}, new) for data in tree.values()}
        self.has = {sha256(data) for data in (old or {}).values()}
        path = folder / "step.bundle"
        self.made: MadeBundle = make_bundle(self.old, self.new, self.contents.__getitem__, path, inside=inside)
        self.bundle = path.read_bytes()
        self.wanted = {sha256(data) for data in new.values()} - self.has

    def reader(self, device: "Device", stored: frozenset[str] = frozenset()) -> BundleReader:
        return BundleReader(self.old, self.new, open_source=self.open, store=device.store, stored=stored)

    def open(self, name: str) -> io.BytesIO:
        assert name in self.has, "a bundle may only read what the old release has"
        return io.BytesIO(self.contents[name])

    def apply(self, bundle: bytes | None = None, cut: int = 1 << 16) -> "Device":
        device = Device()
        push(self.reader(device), self.bundle if bundle is None else bundle, cut)
        return device


class Device:
    """Keeps what is stored, and checks that it is right when it is put in place."""

    def __init__(self) -> None:
        self.stored: dict[str, bytes] = {}
        self.begun: list[str] = []
        self.undone: list[str] = []

    @contextlib.contextmanager
    def store(self, name: str, size: int) -> Iterator[io.BytesIO]:
        self.begun.append(name)
        file = io.BytesIO()
        try:
            yield file
        except BaseException:
            self.undone.append(name)
            raise
        data = file.getvalue()
        assert sha256(data) == name, "a wrong content was put in place"
        assert len(data) == size
        assert name not in self.stored, "a content was made twice"
        self.stored[name] = data


def push(reader: BundleReader, bundle: bytes, cut: int = 1 << 16) -> None:
    for at in range(0, len(bundle), cut):
        reader.take(bundle[at : at + cut])
    reader.finish()
