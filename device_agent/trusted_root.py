"""The root of trust of this device: taken from the owner's file once, and never replaced silently.

What the owner gives is copied into the metadata folder at the first start. From then on the copy counts:
whoever can change the file, or the configuration, must not get another trust that way unnoticed. Newer
root versions come through TUF itself, each signed by the one before.
"""

from pathlib import Path
from typing import Final

from device_agent.durability import disk_errors, write_file
from device_agent.faults import disk_fault
from schemas.errors import OperatorError, TrustError, one_line
from schemas.layout import MAX_METADATA_BYTES, METADATA

TRUSTED_ROOT: Final = "trusted-root.json"


def trusted_root_file(root: Path) -> Path:
    """Where the device keeps what it trusts."""
    return root / METADATA / TRUSTED_ROOT


def adopt_trusted_root(root: Path, given: Path | None) -> str:
    """Copy the owner's file at the first start.

    Returns:
        Empty, or one line for the log about something that the owner should know.

    Raises:
        OperatorError: `config.missing` or `config.bad`: the file cannot be read or is no root metadata.
        DeviceError: `disk.*`: the copy cannot be written.
    """
    kept = trusted_root_file(root)
    if given is None:
        return "" if kept.exists() else "no trusted_root is set, so nothing can be installed"
    if not kept.exists():
        content = _read_given(given)
        with disk_errors(f"keep the trusted root in {kept.parent}"):
            kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_file(kept, content, mode=0o644)
        return f"trusting {given} from now on"
    try:
        same = given.read_bytes() == kept.read_bytes()
    except OSError:
        return ""  # an installed device does not need the owner's file any more
    if same:
        return ""
    return (
        f"trusted_root {given} is not what this device has trusted since its first start; "
        f"that stays in force (remove {kept.parent} to begin anew)"
    )


def load_trusted_root(root: Path) -> bytes:
    """What the device trusts.

    Raises:
        TrustError: `trust.root`; there is nothing yet.
    """
    kept = trusted_root_file(root)
    try:
        return kept.read_bytes()
    except FileNotFoundError as error:
        raise TrustError(
            "trust.root", "this device trusts nobody yet; set trusted_root in agent.toml (`flotilla root` writes it)"
        ) from error
    except OSError as error:
        raise disk_fault(error, f"read {kept}") from error


def root_problem(content: bytes) -> str:
    """What keeps `content` from being root metadata, or an empty string. Signatures are checked where it is used."""
    import json  # noqa: PLC0415 - the first start and `check` only

    try:
        signed = json.loads(content)["signed"]
        found = signed["_type"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return "is not TUF metadata"
    return "" if found == "root" else f"is TUF metadata of type {one_line(found)!r}, not root"


def _read_given(given: Path) -> bytes:
    try:
        with given.open("rb") as stream:
            content = stream.read(MAX_METADATA_BYTES + 1)
    except OSError as error:
        code = "config.missing" if isinstance(error, FileNotFoundError) else "config.bad"
        raise OperatorError(code, f"trusted_root {given}: cannot be read: {error.strerror}") from error
    problem = "is too large" if len(content) > MAX_METADATA_BYTES else root_problem(content)
    if problem:
        raise OperatorError("config.bad", f"trusted_root {given}: {problem}; `flotilla root` writes it")
    return content
