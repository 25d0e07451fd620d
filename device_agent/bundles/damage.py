"""One place in which what decompressors and parsers say about bad bytes becomes the error that events carry."""

import contextlib
import lzma
import zlib
from collections.abc import Iterator

from device_agent.zstd import ZstdError
from schemas.errors import DeviceError
from schemas.varints import FormatError


@contextlib.contextmanager
def damage(what: str) -> Iterator[None]:
    """Raise `DeviceError` `verify.bundle` in place of anything that says that bytes are not as they must be."""
    try:
        yield
    except (FormatError, ZstdError, lzma.LZMAError, zlib.error, EOFError) as error:
        raise DeviceError("verify.bundle", f"{what} is damaged or not for these releases: {error}") from error
