"""Cuts what a group yields into contents, deflates again what was taken apart, and checks each before it is stored."""

import contextlib
import hashlib
from collections.abc import Callable, Container, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from device_agent.bundles.effort import Effort
from device_agent.bundles.gnu_gzip import GnuGzip
from device_agent.bundles.lanes import Job, Lanes
from schemas.bundle_format import Piece
from schemas.bundles import Content
from schemas.deflate import GNU_GZIP, compressor, gnu_level
from schemas.errors import DeviceError
from schemas.varints import FormatError

if TYPE_CHECKING:
    from zlib import _Compress


class Writer(Protocol):
    """Where a content goes."""

    def write(self, data: bytes, /) -> object:
        """Take the next bytes."""


Store = Callable[[str, int], AbstractContextManager[Writer]]
"""Opens a place for a content of this sha256 and size; leaving it without an error puts the content in place."""


class NewContents:
    """The contents of one group, in order. `close` undoes one that is not whole yet.

    Args:
        pieces: of the group.
        needed: the list of contents.
        store: takes those that are not `stored`.
        lanes: deflate what was taken apart; such contents are put in place by them, and undone.
        effort: counts the time that takes.
    """

    def __init__(
        self,
        pieces: Sequence[Piece],
        needed: Sequence[Content],
        store: Store,
        stored: Container[str],
        *,
        lanes: Lanes,
        effort: Effort,
    ) -> None:
        self._waiting = iter(pieces)
        self._needed, self._store, self._stored = needed, store, stored
        self._lanes, self._effort = lanes, effort
        self._one: _Content | _Handed | None = None
        self._next()

    def write(self, data: bytes) -> None:
        """The next bytes of the group. Raises `DeviceError` `verify.*`, and what storing raises."""
        while data:
            if self._one is None:
                raise FormatError("a group is longer than its contents")
            data = self._one.take(data)
            self._settle()

    def finish(self) -> None:
        """Check that no content is left."""
        if self._one is not None:
            raise FormatError("a group ends before its contents do")

    def close(self, error: BaseException) -> None:
        """Leave nothing of a content that has begun."""
        if self._one is not None:
            one, self._one = self._one, None
            one.leave(error)

    def _next(self) -> None:
        piece = next(self._waiting, None)
        if piece is None:
            self._one = None
            return
        sha256, size = self._needed[piece.position]
        one = _Content(piece, sha256, size, None if sha256 in self._stored else self._store, self._effort)
        self._one = _Handed(self._lanes, one, piece.inner) if piece.sections else one
        self._settle()

    def _settle(self) -> None:
        if self._one is not None and self._one.is_over:
            one = self._one
            one.check()
            self._one = None
            one.leave(None)
            self._next()


class _Handed:
    """A content that goes through a lane."""

    def __init__(self, lanes: Lanes, content: "_Content", size: int) -> None:
        self._lanes = lanes
        self._left = size
        self._job: Job = lanes.begin(content)

    @property
    def is_over(self) -> bool:
        return not self._left

    def take(self, data: bytes) -> bytes:
        part = data[: self._left]
        self._left -= len(part)
        self._lanes.put(self._job, part)
        return data[len(part) :]

    def check(self) -> None:
        """The lane does, when it comes to it."""

    def leave(self, error: BaseException | None) -> None:
        if error is None:
            self._lanes.end(self._job)


class _Content:
    def __init__(self, piece: Piece, sha256: str, size: int, store: Store | None, effort: Effort) -> None:
        self._sha256, self._size = sha256, size
        self._effort = effort
        self._spans = [(size, -1)]
        if piece.sections:
            self._spans = [span for s in piece.sections for span in ((s.literal, -1), (s.plain, s.setting))]
            self._spans.append((piece.tail, -1))
        self._spans.reverse()
        self._left = self._spans[-1][0]
        self._deflate: _Compress | GnuGzip | None = None
        self._hash = hashlib.sha256()
        self._made = 0
        self._is_right = False
        self._exits = contextlib.ExitStack()
        self._writer = self._exits.enter_context(store(sha256, size)) if store is not None else None
        if not piece.sections:
            self._end_spans()

    @property
    def is_over(self) -> bool:
        return not self._spans

    def take(self, data: bytes) -> bytes:
        """The next bytes; gives what is left after its last."""
        self._end_spans()
        while data and self._spans:
            part = data if len(data) <= self._left else data[: self._left]
            data = data[len(part) :]
            self._left -= len(part)
            self._put(part if self._deflate is None else self._deflated(self._deflate, part))
            self._end_spans()
        return data

    def check(self) -> None:
        self._end_spans()
        if self._made != self._size:
            raise self._wrong("verify.size", f"has {self._made} bytes instead of {self._size}")
        if self._hash.hexdigest() != self._sha256:
            raise self._wrong("verify.digest", "has another hash")
        self._is_right = True

    def leave(self, error: BaseException | None) -> None:
        if isinstance(self._deflate, GnuGzip):
            self._deflate.close()
        if error is None and not self._is_right:
            error = self._wrong("verify.digest", "was not checked")
        if error is None:
            self._exits.close()
        else:
            self._exits.__exit__(type(error), error, error.__traceback__)

    def _end_spans(self) -> None:
        while self._spans and not self._left:
            if self._deflate is not None:
                self._put(self._deflated(self._deflate, None))
            self._spans.pop()
            if self._spans:
                self._left, setting = self._spans[-1]
                self._deflate = None if setting < 0 else _deflater(setting)

    def _deflated(self, deflate: "_Compress | GnuGzip", plain: bytes | None) -> bytes:
        with self._effort.spent():
            if plain is not None:
                return deflate.compress(plain)
            rest = deflate.flush()
            if isinstance(deflate, GnuGzip):
                deflate.close()
            return rest

    def _put(self, data: bytes) -> None:
        self._made += len(data)
        if self._made > self._size:
            raise self._wrong("verify.size", f"has more than its {self._size} bytes")
        self._hash.update(data)
        if self._writer is not None and data:
            self._writer.write(data)

    def _wrong(self, code: str, what: str) -> DeviceError:
        return DeviceError(code, f"content {self._sha256[:12]}… made from a bundle {what}")


def _deflater(number: int) -> "_Compress | GnuGzip":
    return compressor(number) if number < GNU_GZIP else GnuGzip(gnu_level(number))
