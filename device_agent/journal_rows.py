"""The journal's rows as values. What a newer agent or a broken disk wrote is read as far as it can be.

A row that cannot be understood must not keep the agent from starting: an unfinished update becomes one of an
unknown phase, which is rolled back; an installed package whose row says nothing is left out (and then found again
on the disk, see `adopting`).
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from device_agent import lifecycle
from device_agent.updates import Install, Update, UpdateRequest
from schemas.messages import LAST_WORDS

COLUMNS: Final = "id, package, phase, body"
"""What `decode_update` needs of the table `updates`."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_update_body = msgspec.json.Decoder(Update)
_install_body = msgspec.json.Decoder(Install)

FindInstall = Callable[[str], Install | None]


def encode_update(row: Update) -> str:
    """The body. Its column holds the phase, so that one which this agent does not know can still be read."""
    return msgspec.json.encode(msgspec.structs.replace(row, phase=None)).decode()


def decode_update(columns: tuple[Any, ...], installed: FindInstall) -> Update:
    """A row.

    Args:
        columns: as `COLUMNS` names them.
        installed: what the package's row in `installs` has, for an update that does not say any more what it
            was to go back to.
    """
    ident, package, phase, body = columns
    try:
        return msgspec.structs.replace(_update_body.decode(body), phase=lifecycle.read_phase(phase))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _salvaged(ident, package, phase, _as_table(body), installed)


def encode_install(install: Install) -> str:
    """The body."""
    return msgspec.json.encode(install).decode()


def decode_install(body: str) -> Install | None:
    """A row; None where it cannot be understood."""
    try:
        return _install_body.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _salvaged(ident: str, package: str, phase: str, said: dict[str, Any], installed: FindInstall) -> Update:
    """What can be read of a row; each field by itself, an unfinished update with an unknown phase."""
    word = lifecycle.read_phase(phase)
    wish = said.get("request")
    wish = wish if isinstance(wish, dict) else {}
    parts = _readable(said, Update, without={"id", "request", "phase"})
    request: dict[str, Any] = {"version": "0.0.0", **_readable(wish, UpdateRequest, without={"package"})}
    if not said or ("before" in said and "before" not in parts):
        parts["before"] = _before(installed(package), request["version"])
    return Update(
        id=ident,
        request=UpdateRequest(package=package, **request),
        phase=word if word in LAST_WORDS else None,
        **{"created_at": _EPOCH, "changed_at": _EPOCH, **parts},
    )


def _before(install: Install | None, version: str) -> Install | None:
    """What was installed before an update to `version`, from what is installed now."""
    if install is None or install.current.version != version:
        return install
    return Install(package=install.package, current=install.previous) if install.previous else None


def _readable(said: dict[str, Any], kind: type[msgspec.Struct], *, without: set[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        if field.name in said and field.name not in without:
            try:
                found[field.name] = msgspec.convert(said[field.name], field.type)
            except msgspec.ValidationError:
                continue
    return found


def _as_table(body: str) -> dict[str, Any]:
    try:
        said = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return {}
    return said if isinstance(said, dict) else {}
