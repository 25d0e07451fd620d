"""Cuts what a group yields into contents, deflates again what was taken apart, and checks each before it is stored."""

import contextlib
import hashlib
from collections.abc import Callable, Container, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol

from schemas.bundle_format import Piece
from schemas.bundles import Content
from schemas.deflate import compressor
from schemas.errors import DeviceError
from schemas.varints import FormatError


class Writer(Protocol):
    """Where a content goes."""

    def write(self, data: bytes, /) -> object:
        """Take the next bytes."""


Store = Callable[[str, int], AbstractContextManager[Writer]]
"""Opens a place for a content of this sha256 and size; leaving it without an error puts the content in place."""


class NewContents:
    """The contents of one group, in order. `close` undoes one that is not whole yet."""

    def __init__(
        self, pieces: Sequence[Piece], needed: Sequence[Content], store: Store, stored: Container[str]
    ) -> None:
        self._waiting = iter(pieces)
        self._needed, self._store, self._stored = needed, store, stored
        self._one: _Content | None = None
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
            self._one.leave(type(error), error, error.__traceback__)
            self._one = None

    def _next(self) -> None:
        piece = next(self._waiting, None)
        if piece is None:
            self._one = None
            return
        sha256, size = self._needed[piece.position]
        self._one = _Content(piece, sha256, size, None if sha256 in self._stored else self._store)
        self._settle()

    def _settle(self) -> None:
        if self._one is not None and self._one.is_over:
            one = self._one
            one.check()
            self._one = None
            one.leave(None, None, None)
            self._next()


class _Content:
    def __init__(self, piece: Piece, sha256: str, size: int, store: Store | None) -> None:
        self._sha256, self._size = sha256, size
        self._spans = [(size, -1)]
        if piece.sections:
            self._spans = [span for s in piece.sections for span in ((s.literal, -1), (s.plain, s.setting))]
            self._spans.append((piece.tail, -1))
        self._spans.reverse()
        self._deflate = None if self._spans[-1][1] < 0 else compressor(self._spans[-1][1])
        self._left = self._spans[-1][0]
        self._hash = hashlib.sha256()
        self._made = 0
        self._exits = contextlib.ExitStack()
        self._writer = self._exits.enter_context(store(sha256, size)) if store is not None else None
        self._end_spans()

    @property
    def is_over(self) -> bool:
        return not self._spans

    def take(self, data: bytes) -> bytes:
        part = data if len(data) <= self._left else data[: self._left]
        self._left -= len(part)
        self._put(part if self._deflate is None else self._deflate.compress(part))
        self._end_spans()
        return data[len(part) :]

    def check(self) -> None:
        if self._made != self._size:
            raise self._wrong("verify.size", f"has {self._made} bytes instead of {self._size}")
        if self._hash.hexdigest() != self._sha256:
            raise self._wrong("verify.digest", "has another hash")

    def leave(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._exits.__exit__(kind, error, trace)

    def _end_spans(self) -> None:
        while self._spans and not self._left:
            if self._deflate is not None:
                self._put(self._deflate.flush())
            self._spans.pop()
            if self._spans:
                self._left, setting = self._spans[-1]
                self._deflate = None if setting < 0 else compressor(setting)

    def _put(self, data: bytes) -> None:
        self._made += len(data)
        if self._made > self._size:
            raise self._wrong("verify.size", f"has more than its {self._size} bytes")
        self._hash.update(data)
        if self._writer is not None and data:
            self._writer.write(data)

    def _wrong(self, code: str, what: str) -> DeviceError:
        return DeviceError(code, f"content {self._sha256[:12]}… made from a bundle {what}")
