"""Translates what the operating system says about the disk, once, into the errors that events carry."""

import errno

from schemas.errors import DeviceError, one_line

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def disk_fault(error: OSError, what: str) -> DeviceError:
    """The error to raise for `error`: `disk.full` where space has run out, else `disk.io`.

    Args:
        error: as caught; chain it with `from`.
        what: what was being done, e.g. `write the manifest`.
    """
    reason = one_line(error.strerror or error)
    if error.errno in _FULL:
        return DeviceError("disk.full", f"cannot {what}: {reason}; free some space on the device")
    return DeviceError("disk.io", f"cannot {what}: {reason}")
