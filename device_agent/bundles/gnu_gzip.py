"""Deflates as GNU gzip does, by the program itself: every Debian has it, and no library ends blocks where it does."""

import contextlib
import os
import select
import shutil
import subprocess
from typing import Final

from schemas.deflate import GNU_HEADER, GNU_TRAILER
from schemas.errors import DeviceError

_STALL_S: Final = 30.0
"""The longest that the program may neither take nor give a byte."""
_END_S: Final = 5.0
_BLOCK: Final = 64 * 1024


class GnuGzip:
    """One raw deflated stream, with the methods of zlib's compressors; to be closed. For one thread at a time.

    All methods raise `DeviceError` `verify.deflate` where the program is missing or does not do its work.
    """

    def __init__(self, level: int) -> None:
        program = shutil.which("gzip")
        if program is None:
            raise DeviceError("verify.deflate", "this device has no gzip, which the bundle counts on")
        try:
            # no variables: GZIP would add options
            self._process = subprocess.Popen(
                [program, f"-{level}", "-n", "-c"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={},
                bufsize=0,
            )
        except OSError as error:
            raise _failed(f"cannot be started: {error.strerror}") from error
        if self._process.stdin is None or self._process.stdout is None:
            raise _failed("has no pipes")
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        for pipe in (self._stdin, self._stdout):
            os.set_blocking(pipe.fileno(), False)
        self._poll = select.poll()
        self._poll.register(self._stdin, select.POLLOUT)
        self._poll.register(self._stdout, select.POLLIN)
        self._to_drop = GNU_HEADER
        self._held = b""

    def compress(self, data: bytes) -> bytes:
        """Take plain bytes; gives what is deflated by now."""
        out = bytearray()
        left = memoryview(data)
        while left:
            ready = self._ready()
            if self._stdout.fileno() in ready and not self._take(out):
                raise _failed("ended early")
            if self._stdin.fileno() in ready:
                try:
                    left = left[os.write(self._stdin.fileno(), left[:_BLOCK]) :]
                except BlockingIOError:
                    continue
                except OSError as error:
                    raise _failed(f"takes nothing more: {error.strerror}") from error
        return bytes(out)

    def flush(self) -> bytes:
        """The rest, after the last plain bytes."""
        self._poll.unregister(self._stdin)
        self._stdin.close()
        out = bytearray()
        while self._ready() and self._take(out):
            pass
        try:
            status = self._process.wait(_END_S)
        except subprocess.TimeoutExpired as error:
            raise _failed("does not end") from error
        if status or len(self._held) != GNU_TRAILER:
            raise _failed(f"failed with status {status}")
        return bytes(out)

    def close(self) -> None:
        """End the program, whatever it is doing. May be called twice."""
        for pipe in (self._stdin, self._stdout):
            with contextlib.suppress(OSError):
                pipe.close()
        if self._process.poll() is None:
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_S)

    def _ready(self) -> set[int]:
        ready = {descriptor for descriptor, _ in self._poll.poll(_STALL_S * 1000)}
        if not ready:
            raise _failed(f"did nothing for {_STALL_S:g} s")
        return ready

    def _take(self, out: bytearray) -> bool:
        """Move what it wrote to `out`, without its header and what may be its trailer; False at its end."""
        fresh = os.read(self._stdout.fileno(), _BLOCK)
        dropped = min(self._to_drop, len(fresh))
        self._to_drop -= dropped
        whole = self._held + fresh[dropped:]
        at = max(0, len(whole) - GNU_TRAILER)
        out += whole[:at]
        self._held = whole[at:]
        return bool(fresh)


def deflate_gnu(level: int, plain: bytes) -> bytes:
    """A whole stream at once, for samples. Raises as `GnuGzip`."""
    with contextlib.closing(GnuGzip(level)) as squeeze:
        return squeeze.compress(plain) + squeeze.flush()


def _failed(how: str) -> DeviceError:
    return DeviceError("verify.deflate", f"this device's gzip {how}")
