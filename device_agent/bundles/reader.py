"""Reads a bundle as it arrives: header, index, then one group after the other. See `docs/bundles.md`."""

from collections.abc import Container, Generator, Iterator, Sequence
from typing import Final

from device_agent.bundles.damage import damage
from device_agent.bundles.difference import Difference
from device_agent.bundles.effort import Effort
from device_agent.bundles.gnu_gzip import deflate_gnu
from device_agent.bundles.lanes import Lanes
from device_agent.bundles.new_contents import NewContents, Store
from device_agent.bundles.old_contents import OldContents, OpenSource, read_prefix
from device_agent.bundles.streams import Unpacker
from schemas.bundle_format import MAX_HEADER, ZSTD, Group, Header, Method, Section, Stream, decode_header, decode_index
from schemas.bundles import needed, sources
from schemas.deflate import check_value
from schemas.errors import DeviceError
from schemas.manifest import Manifest
from schemas.varints import FormatError

_CHUNK: Final = 64 * 1024
_Steps = Generator[None, None, None]


class BundleReader:
    """Makes the contents that a device lacks of a release. Push what arrives with `take`; end with `finish` or `close`.

    What cannot be trusted ends in `DeviceError`: `verify.bundle` for a bundle that is damaged or for other releases,
    `verify.digest` and `verify.size` for a content that is not what the manifest names, `verify.deflate` where this
    device's zlib yields other bytes than the bundle counts on (known before anything is made). After an error nothing
    more can be pushed; contents stored before it are right. Errors of `open_source` and `store` are passed on.

    Args:
        old: the manifest of the release whose contents the device has; None for a full bundle.
        new: the signed manifest of the release that is wanted.
        open_source: opens an old content by its sha256, for reading and seeking.
        store: opens a place for a content; leaving it without an error puts the content in place.
        stored: contents that are there already; they are not stored again, and groups of nothing else are skipped.
    """

    def __init__(
        self,
        old: Manifest | None,
        new: Manifest,
        *,
        open_source: OpenSource,
        store: Store,
        stored: Container[str] = frozenset(),
    ) -> None:
        self._needed, self._sources = needed(old, new), sources(old, new)
        self._open_source, self._store, self._stored = open_source, store, stored
        self._pending = memoryview(b"")
        self._offset = 0
        self._to_skip = 0
        self._over = False
        self._lanes, self._effort = Lanes(), Effort(0)
        self._steps = self._read()
        next(self._steps)

    @property
    def restart_at(self) -> int:
        """Offset in the bundle of the next byte that is needed.

        A cut-off download goes on from here with the same reader. Where groups are skipped it is further than what was
        taken: the caller may ask for the rest from there on, and say so with `go_to`.
        """
        return self._offset + self._to_skip

    @property
    def is_complete(self) -> bool:
        """Whether all contents are made."""
        return self._over and not self._to_skip

    def go_to(self, offset: int) -> None:
        """Say that what is pushed next begins at `offset`, which is `restart_at`."""
        if offset != self.restart_at:
            raise ValueError(f"the bundle is needed from {self.restart_at}, not {offset}")
        self._offset, self._to_skip = offset, 0

    def take(self, chunk: bytes) -> None:
        """The next bytes of the bundle. Raises `DeviceError`."""
        view = memoryview(chunk)
        try:
            with damage("the bundle"):
                while view:
                    if used := min(self._to_skip, len(view)):
                        self._to_skip -= used
                    else:
                        used = self._push(view[:_CHUNK])
                    self._offset += used
                    view = view[used:]
        except BaseException:
            self._over = True
            raise

    def finish(self) -> None:
        """Say that the bundle is at its end. Raises `DeviceError` `verify.bundle` where it is not."""
        if not self._over or self._to_skip:
            self.close()
            raise DeviceError("verify.bundle", "the bundle is cut short")

    def close(self) -> None:
        """Give up: nothing stays of a content that is not whole. May be called at any time."""
        self._steps.close()
        self._over = True

    def _push(self, part: memoryview) -> int:
        if self._over:
            raise FormatError("it is followed by something else")
        self._pending = part
        try:
            self._steps.send(None)
        except StopIteration:
            self._over = True
        unused, self._pending = len(self._pending), memoryview(b"")
        return len(part) - unused

    def _read(self) -> _Steps:
        header = yield from self._header()
        self._check(header)
        groups = yield from self._index(header)
        self._effort = Effort(sum(section.plain for section in _sections(groups)))
        try:
            for group in groups:
                if all(self._needed[piece.position][0] in self._stored for piece in group.targets):
                    self._to_skip += sum(stream.packed for stream in group.streams)
                else:
                    yield from self._group(group)
            self._lanes.drain()
        except BaseException as error:
            self._lanes.abandon(error)
            raise

    def _header(self) -> Generator[None, None, Header]:
        start = b""
        while (found := decode_header(start)) is None:
            start += yield from self._next(MAX_HEADER - len(start))
        header, length = found
        # what came with it is the beginning of the index
        self._pending = memoryview(start[length:] + bytes(self._pending))
        return header

    def _check(self, header: Header) -> None:
        if (header.needed, header.sources) != (len(self._needed), len(self._sources)):
            raise FormatError("it is for another pair of releases")
        self._deflate_check = header.deflate_check

    def _index(self, header: Header) -> Generator[None, None, list[Group]]:
        unpacker = Unpacker(Stream(ZSTD, header.index_packed, header.index_plain))
        plain = bytearray()
        left = header.index_packed
        while left:
            part = yield from self._next(left)
            left -= len(part)
            unpacker.feed(part)
            while fresh := unpacker.read():
                plain += fresh
        unpacker.finish()
        groups = decode_index(bytes(plain), self._needed, self._sources)
        if check_value({section.setting for section in _sections(groups)}, deflate_gnu) != self._deflate_check:
            raise DeviceError("verify.deflate", "this device deflates in another way than the bundle counts on")
        return groups

    def _group(self, group: Group) -> _Steps:
        made = NewContents(
            group.targets, self._needed, self._store, self._stored, lanes=self._lanes, effort=self._effort
        )
        try:
            if group.method is Method.DIFFERENCE:
                yield from self._difference(group, made)
            else:
                yield from self._whole(group, made)
            made.finish()
        except BaseException as error:
            made.close(error)
            raise

    def _whole(self, group: Group, made: NewContents) -> _Steps:
        prefix = b""
        if group.method is Method.PREFIX:
            prefix = read_prefix(group.sources, self._sources, self._open_source, group.prefix)
        unpacker = Unpacker(group.streams[0], prefix)
        del prefix
        left = group.streams[0].packed
        while left:
            part = yield from self._next(left)
            left -= len(part)
            unpacker.feed(part)
            while plain := unpacker.read():
                made.write(plain)
        unpacker.finish()

    def _difference(self, group: Group, made: NewContents) -> _Steps:
        *first_ones, stream = group.streams
        held = []
        for first in first_ones:
            unpacker = Unpacker(first)
            unpacker.feed((yield from self._all(first.packed)))
            held.append(unpacker)
        old = OldContents(group.sources, self._sources, self._open_source)
        try:
            difference = Difference(old, columns=held[:3], extra=held[3], write=made.write)
            unpacker = Unpacker(stream)
            left = stream.packed
            while left:
                part = yield from self._next(left)
                left -= len(part)
                unpacker.feed(part)
                while plain := unpacker.read():
                    difference.feed(plain)
            unpacker.finish()
            difference.finish()
        finally:
            old.close()

    def _all(self, count: int) -> Generator[None, None, bytes]:
        parts = bytearray()
        while len(parts) < count:
            parts += yield from self._next(count - len(parts))
        return bytes(parts)

    def _next(self, at_most: int) -> Generator[None, None, bytes]:
        while not self._pending or self._to_skip:
            yield
        part = bytes(self._pending[:at_most])
        self._pending = self._pending[len(part) :]
        return part


def _sections(groups: Sequence[Group]) -> Iterator[Section]:
    """What the device is to deflate."""
    return (section for group in groups for piece in group.targets for section in piece.sections)
