"""Who is to be told of what: `notify.toml`. It holds secrets, so nothing of a target but its name is ever logged."""

import base64
import binascii
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

import msgspec

from controller.notify.kinds import KINDS, Kind
from schemas.errors import OperatorError, one_line
from schemas.names import wrong

MAX_FILE_BYTES: Final = 256 * 1024
MAX_TARGETS: Final = 20
SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - what a secret begins with
MIN_SECRET_BYTES: Final = 24
MAX_SECRET_BYTES: Final = 64

_Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]


class _Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: _Name
    url: str | None = None
    url_file: str | None = None
    secret: str | None = None
    secret_file: str | None = None
    events: list[Kind] | None = None


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    silent_after_hours: Annotated[float, msgspec.Meta(ge=0.01, le=24 * 366)] = 24
    apprise: list[_Entry] = []
    webhook: list[_Entry] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Whom to tell.

    Attributes:
        name: what logs and metrics call it.
        url: an Apprise URL, or for a webhook where to POST.
        key: what a webhook's requests are signed with; None for Apprise.
        kinds: what it is told of.
    """

    name: str
    url: str = field(repr=False)
    key: bytes | None = field(repr=False)
    kinds: frozenset[Kind]


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifyConfig:
    """All of the file. `silent_after_s`: a device that was not heard of for so many seconds is silent."""

    silent_after_s: float
    targets: tuple[Target, ...]


def read_config(path: Path) -> NotifyConfig:
    """The file's content.

    Raises:
        OperatorError: `config.missing` or `config.bad`, in one line that names the target and quotes no secret.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise OperatorError("config.bad", f"{path} is over {MAX_FILE_BYTES} bytes")
        read = msgspec.convert(tomllib.loads(path.read_text()), type=_File)
    except FileNotFoundError as error:
        raise OperatorError("config.missing", f"there is no {path}; docs/guides/watching.md shows one") from error
    except OSError as error:
        raise OperatorError("config.bad", f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        # what stands there may be a secret, so only the place is told
        place = re.search(r"\(at .*\)$", str(error))
        raise OperatorError("config.bad", f"{path} is no TOML {place.group() if place else ''}".rstrip()) from error
    except msgspec.ValidationError as error:
        raise OperatorError("config.bad", f"{path}: {one_line(wrong(error))}") from error
    entries = [(entry, False) for entry in read.apprise] + [(entry, True) for entry in read.webhook]
    names = [entry.name for entry, _ in entries]
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        raise OperatorError("config.bad", f"{path}: two targets are called {doubled}")
    if not 1 <= len(entries) <= MAX_TARGETS:
        raise OperatorError("config.bad", f"{path} names {len(entries)} targets; 1 to {MAX_TARGETS} can be")
    targets = tuple(_target(path, entry, signed=signed) for entry, signed in entries)
    return NotifyConfig(silent_after_s=read.silent_after_hours * 3600, targets=targets)


def _target(path: Path, entry: _Entry, *, signed: bool) -> Target:
    where = f"{path}: target {entry.name}"
    url = _one_of(where, "url", entry.url, path, entry.url_file)
    if not signed and (entry.secret is not None or entry.secret_file is not None):
        raise OperatorError("config.bad", f"{where}: only a webhook has a secret")
    try:
        parts = urlsplit(url)
        good = bool(parts.scheme) and url.isprintable() and (not signed or parts.scheme in ("http", "https"))
        good = good and (not signed or bool(parts.hostname))
    except ValueError:
        good = False
    if not good:
        raise OperatorError(
            "config.bad", f"{where}: its url is none that {'http can ask' if signed else 'Apprise knows'}"
        )
    key = _key(where, _one_of(where, "secret", entry.secret, path, entry.secret_file)) if signed else None
    kinds = frozenset(KINDS if entry.events is None else entry.events)
    return Target(name=entry.name, url=url, key=key, kinds=kinds)


def _one_of(where: str, what: str, value: str | None, config: Path, file: str | None) -> str:
    if (value is None) == (file is None):
        raise OperatorError("config.bad", f"{where}: give either {what} or {what}_file")
    if file is None:
        return value or ""
    try:
        # relative to the configuration, wherever the controller is started
        lines = (config.parent / file).read_text().strip().splitlines()
    except (OSError, ValueError) as error:
        raise OperatorError("config.bad", f"{where}: {what}_file {file} cannot be read") from error
    if len(lines) != 1:
        raise OperatorError("config.bad", f"{where}: {what}_file {file} does not hold one line")
    return lines[0]


def _key(where: str, secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(SECRET_PREFIX) or not MIN_SECRET_BYTES <= len(key) <= MAX_SECRET_BYTES:
        raise OperatorError(
            "config.bad",
            f"{where}: its secret is not {SECRET_PREFIX} and {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes in base64; "
            f'make one with: echo "{SECRET_PREFIX}$(openssl rand -base64 32)"',
        )
    return key
