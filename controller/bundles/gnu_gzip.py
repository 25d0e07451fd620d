"""What GNU gzip makes of bytes. Files by it are common, and its blocks are not those of zlib; see `schemas.deflate`."""

import functools
import shutil
import subprocess
from typing import Final

from schemas.deflate import GNU_HEADER, GNU_TRAILER

_LONGEST_S: Final = 120.0


def deflate_gnu(level: int, plain: bytes) -> bytes | None:
    """The raw deflated stream; None where this machine has no gzip or it does not work."""
    program = _program()
    if program is None:
        return None
    try:
        # no variables: GZIP would add options
        done = subprocess.run(
            [program, f"-{level}", "-n", "-c"], input=plain, capture_output=True, timeout=_LONGEST_S, check=True, env={}
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout[GNU_HEADER:-GNU_TRAILER]


@functools.cache
def _program() -> str | None:
    return shutil.which("gzip")
