"""Reads a Flotilla file (a plain tar) where it lies: nothing is ever extracted by its name."""

import os
import re
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from device_agent.faults import disk_fault
from device_agent.unpacking import CHUNK
from schemas.errors import NetworkError, PublisherError, TrustError, one_line
from schemas.layout import FILE_FORMAT, HEAD_MEMBER, MAX_HEAD_BYTES, FileHead

MAX_MEMBERS: Final = 500_000
_BLOCK: Final = 512
_MAX_EXTENDED: Final = 64 * 1024
_MAX_DIGITS: Final = 20
"""Enough for the size of any file. Python refuses to read a number of thousands of digits, with an error of its own."""
_RECORD: Final = re.compile(rb"([0-9]{1,6}) ([A-Za-z0-9._]{1,64})=")
_REGULAR: Final = (tarfile.REGTYPE, tarfile.AREGTYPE)


class Archive:
    """An open Flotilla file with the places of its members. Used by one thread at a time.

    Raises (the constructor):
        PublisherError: `package.format`: it is no whole Flotilla file, or no regular file at all.
        TrustError: `trust.unsigned`: it is a package file, which carries no signatures.
        DeviceError: `disk.io`.
    """

    def __init__(self, path: Path) -> None:
        self.name: Final = one_line(path.name, 100)
        try:
            # a pipe would wait here for its writer, for ever
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError as error:
            raise disk_fault(error, f"open {self.name}") from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise self._bad("is not a regular file")
        self._file: BinaryIO = os.fdopen(descriptor, "rb")
        try:
            self._members = self._index(os.fstat(descriptor).st_size)
            self.head = self._read_head()
        except OSError as error:
            self._file.close()
            raise disk_fault(error, f"read {self.name}") from error
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def read(self, member: str, limit: int) -> bytes:
        """A small member's content.

        Raises:
            NetworkError: `fetch.not_found`, `fetch.limit`.
            DeviceError: `disk.io`.
        """
        _, size = self._place(member)
        if size > limit:
            raise NetworkError("fetch.limit", f"{self.name}: {one_line(member)} is over the limit of {limit} bytes")
        return b"".join(self.chunks(member))

    def chunks(self, member: str) -> Iterator[bytes]:
        """A member's content, piece by piece. Raises as `read` does."""
        offset, left = self._place(member)
        while left:
            try:
                self._file.seek(offset)
                chunk = self._file.read(min(CHUNK, left))
            except OSError as error:
                raise disk_fault(error, f"read {self.name}") from error
            if not chunk:
                raise self._bad("has become shorter while it was read")
            offset, left = offset + len(chunk), left - len(chunk)
            yield chunk

    def _place(self, member: str) -> tuple[int, int]:
        place = self._members.get(member)
        if place is None:
            raise NetworkError("fetch.not_found", f"{self.name}: does not hold {one_line(member)}")
        return place

    def _index(self, total: int) -> dict[str, tuple[int, int]]:
        members: dict[str, tuple[int, int]] = {}
        offset, extended = 0, dict[str, str]()
        while True:
            header = self._header(offset)
            if header is None:
                return members
            size = int(extended.get("size", header.size))
            start, offset = offset + _BLOCK, offset + _BLOCK + -(-size // _BLOCK) * _BLOCK
            if size < 0 or offset > total:
                raise self._bad("is cut short")
            if header.type in (tarfile.XHDTYPE, tarfile.XGLTYPE):
                extended = self._extended(start, size) if header.type == tarfile.XHDTYPE else {}
                continue
            name = extended.get("path", header.name)
            if header.type not in _REGULAR:
                raise self._bad(f"holds {one_line(name)!r}, which is no regular file")
            if name in members or len(members) >= MAX_MEMBERS:
                raise self._bad(f"holds {one_line(name)!r} twice, or too much")
            if not members and name != HEAD_MEMBER:
                raise self._bad(f"does not begin with {HEAD_MEMBER}")
            members[name] = (start, size)
            extended = {}

    def _header(self, offset: int) -> tarfile.TarInfo | None:
        self._file.seek(offset)
        block = self._file.read(_BLOCK)
        if len(block) == _BLOCK and not any(block):
            return None
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        except (tarfile.HeaderError, ValueError) as error:
            raise self._bad("is cut short" if offset else "is not a Flotilla file") from error

    def _extended(self, offset: int, size: int) -> dict[str, str]:
        """The records of a pax header (POSIX.1-2001): `LENGTH KEY=VALUE\\n` each."""
        if size > _MAX_EXTENDED:
            raise self._bad("has a header that is too long")
        self._file.seek(offset)
        rest, found = self._file.read(size), dict[str, str]()
        while rest:
            record = _RECORD.match(rest)
            length = int(record[1]) if record is not None else 0
            if record is None or length <= record.end() or rest[length - 1 : length] != b"\n":
                raise self._bad("has a damaged header")
            found[record[2].decode("ascii")] = rest[record.end() : length - 1].decode(errors="replace")
            rest = rest[length:]
        size_text = found.get("size", "0")
        if not (size_text.isascii() and size_text.isdigit() and len(size_text) <= _MAX_DIGITS):
            raise self._bad("has a damaged header")
        return found

    def _read_head(self) -> FileHead:
        try:
            head = msgspec.json.decode(self.read(HEAD_MEMBER, MAX_HEAD_BYTES), type=FileHead)
        except (msgspec.MsgspecError, UnicodeDecodeError, NetworkError) as error:
            raise self._bad("is not a Flotilla file") from error
        if head.format > FILE_FORMAT:
            raise self._bad(f"has format {head.format}, which is newer than {FILE_FORMAT}; update the agent first")
        if head.kind == "package":
            raise TrustError(
                "trust.unsigned",
                f"{self.name}: is an unsigned package; push it to a controller and install what "
                "`flotilla export` makes of it",
            )
        if head.kind != "release":
            raise self._bad(f"is of the unknown kind {one_line(head.kind, 40)!r}")
        return head

    def _bad(self, what: str) -> PublisherError:
        return PublisherError("package.format", f"{self.name}: {what}")
