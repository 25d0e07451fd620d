"""Makes whole package files wrong in one place: in their bytes, their members, or in what their manifest says."""

import hashlib
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

from controller.packaging import tar

Damage = Callable[[Path], None]
Member = tuple[str, bytes]


def members(package: Path) -> list[Member]:
    """Name and content of each member, in order."""
    with tarfile.open(package) as archive:
        return [(member.name, archive.extractfile(member).read()) for member in archive]  # type: ignore[union-attr]  # all are files


def pack(package: Path, items: Sequence[Member]) -> None:
    """Write a tar file of these members, in the one form that package files have."""
    blocks = [tar.header(name, len(data)) + data + bytes(tar.padding(len(data))) for name, data in items]
    package.write_bytes(b"".join(blocks) + tar.END)


def cut(package: Path) -> None:
    """Leave the last kilobyte out."""
    package.write_bytes(package.read_bytes()[:-1024])


def renamed(name: str) -> Damage:
    """Give the first content another name."""

    def damage(package: Path) -> None:
        head, manifest, first, *others = members(package)
        pack(package, [head, manifest, (name, first[1]), *others])

    return damage


def as_link(target: str) -> Damage:
    """Have the first content's member be a symbolic link."""

    def damage(package: Path) -> None:
        name, content = members(package)[2]
        header = tar.header(name, len(content))
        link = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
        link.type, link.linkname = tarfile.SYMTYPE, target
        package.write_bytes(package.read_bytes().replace(header, link.tobuf(tarfile.USTAR_FORMAT)))

    return damage


def other_content(package: Path) -> None:
    """Change one byte of the first content, and nothing else."""
    head, manifest, (name, content), *others = members(package)
    pack(package, [head, manifest, (name, bytes([content[0] ^ 1]) + content[1:]), *others])


def saying(old: bytes, new: bytes, *, consistent: bool = True) -> Damage:
    """Have the manifest say something else.

    Args:
        consistent: the head names the hash of the changed manifest, so that only its meaning is wrong.
    """

    def damage(package: Path) -> None:
        (head_name, head), (manifest_name, manifest), *contents = members(package)
        assert manifest.count(old) == 1
        changed = manifest.replace(old, new)
        if consistent:
            head = head.replace(_digest(manifest), _digest(changed))
        pack(package, [(head_name, head), (manifest_name, changed), *contents])

    return damage


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()
