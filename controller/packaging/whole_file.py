"""Files that appear whole or not at all."""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from schemas.errors import OperatorError, one_line


@contextmanager
def whole_file(destination: Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of `destination` when the block ends well.

    It is flushed to the disk before it is renamed, and its folder after. When the block raises, nothing is
    left of it and a file that was there stays.

    Raises:
        OperatorError: `disk.full` or `disk.io`, for every OSError in making the file.
    """
    # An own name and not `tempfile`, whose files ignore the umask and would stay unreadable to others.
    part = destination.with_name(f".{destination.name}.{secrets.token_hex(4)}.part")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            with os.fdopen(descriptor, "wb", buffering=256 * 1024) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            part.replace(destination)
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise
        _flush_folder(destination.parent)
    except OSError as error:
        code = "disk.full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "disk.io"
        raise OperatorError(code, f"{one_line(destination)}: cannot be written: {error.strerror}") from error


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
