"""Who is to be told of what: `notify.toml`. It holds secrets, so nothing of a target but its name is ever logged."""

import base64
import binascii
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import msgspec

from controller.notify import words
from controller.notify.kinds import KINDS, Kind
from controller.packaging.toml_keys import unknown_key
from controller.packaging.toml_words import no_text
from schemas.errors import OperatorError, one_line

MAX_FILE_BYTES: Final = 256 * 1024
MAX_TARGETS: Final = 20
SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - what a secret begins with
MIN_SECRET_BYTES: Final = 24
MAX_SECRET_BYTES: Final = 64
_NO_NAME: Final = {"url": re.compile(r".*[:@].*", re.DOTALL), "secret": re.compile(r"\s*(?!/)[\w+/-]{16,}=*\s*")}
"""What may be an address, or bytes in base64, where a file is to be named."""
_MAKE_SECRET: Final = f'echo "{SECRET_PREFIX}$(openssl rand -base64 32)"'

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
    data = _toml(path)
    if problem := unknown_key(data, _File):
        raise OperatorError("config.bad", f"{path}: {words.unknown(problem)}")
    try:
        read = msgspec.convert(data, type=_File)
    except msgspec.ValidationError as error:
        raise OperatorError("config.bad", f"{path}: {words.why(error, data)}") from error
    entries = [(entry, False) for entry in read.apprise] + [(entry, True) for entry in read.webhook]
    names = [entry.name for entry, _ in entries]
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        raise OperatorError("config.bad", f"{path}: two targets are called {doubled}; give one of them another name")
    if not entries:
        raise OperatorError(
            "config.bad",
            f"{path} names nobody to tell: each target begins with a line [[apprise]] or [[webhook]];"
            " docs/guides/watching.md shows one",
        )
    if len(entries) > MAX_TARGETS:
        raise OperatorError("config.bad", f"{path} names {len(entries)} targets; {MAX_TARGETS} can be at most")
    targets = tuple(_target(path, entry, signed=signed) for entry, signed in entries)
    return NotifyConfig(silent_after_s=read.silent_after_hours * 3600, targets=targets)


def _toml(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise OperatorError("config.bad", f"{path} is over {MAX_FILE_BYTES} bytes")
        return tomllib.loads(path.read_bytes().decode())
    except FileNotFoundError as error:
        raise OperatorError("config.missing", f"there is no {path}; docs/guides/watching.md shows one") from error
    except OSError as error:
        raise OperatorError("config.bad", f"{path} cannot be read: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise OperatorError("config.bad", f"{path} {words.no_toml(error)}") from error
    except UnicodeDecodeError as error:
        raise OperatorError("config.bad", f"{path} {no_text(error)}") from error
    except RecursionError as error:
        raise OperatorError("config.bad", f"{path}: lists within lists, too many of them") from error


def _target(path: Path, entry: _Entry, *, signed: bool) -> Target:
    where = f"{path}: target {entry.name}"
    url = _one_of(where, "url", entry.url, path, entry.url_file)
    given = next((key for key in ("secret", "secret_file") if getattr(entry, key) is not None), None)
    if not signed and given is not None:
        raise OperatorError(
            "config.bad", f"{where}: only a webhook has a secret; take {given} out, or make it a [[webhook]]"
        )
    try:
        parts = urlsplit(url)
        good = bool(parts.scheme) and url.isprintable() and (not signed or parts.scheme in ("http", "https"))
        good = good and (not signed or bool(parts.hostname))
    except ValueError:
        good = False
    if not good:
        its = "its url" if entry.url_file is None else f"the url in url_file {one_line(entry.url_file, 200)}"
        must = (
            "a whole address to POST to, such as https://ci.example/flotilla"
            if signed
            else f"one that Apprise knows, such as mailtos://user:password@mail.example; {words.WIKI} lists them"
        )
        raise OperatorError("config.bad", f"{where}: {its} must be {must}")
    key = _key(where, _one_of(where, "secret", entry.secret, path, entry.secret_file)) if signed else None
    if entry.events == []:
        raise OperatorError("config.bad", f"{where}: its events are none; leave them out for all, or name some")
    kinds = frozenset(KINDS if entry.events is None else entry.events)
    return Target(name=entry.name, url=url, key=key, kinds=kinds)


def _one_of(where: str, what: str, value: str | None, config: Path, file: str | None) -> str:
    if value is not None and file is not None:
        raise OperatorError("config.bad", f"{where}: it has both {what} and {what}_file; take one of them out")
    if value is None and file is None:
        made = f"; make one with: {_MAKE_SECRET}" if what == "secret" else ""
        raise OperatorError("config.bad", f"{where}: it has no {what}; give either {what} or {what}_file{made}")
    if file is None:
        return value or ""
    if "://" in file or file.strip().startswith(SECRET_PREFIX):
        # it may be a secret, and is not to be told
        raise OperatorError("config.bad", f"{where}: {what}_file names a file; the {what} itself is written as {what}")
    named = f"{what}_file" if _NO_NAME[what].fullmatch(file) else f"{what}_file {one_line(file, 200)}"
    try:
        # relative to the configuration, wherever the controller is started
        lines = (config.parent / file).read_text().strip().splitlines()
    except OSError as error:
        raise OperatorError(
            "config.bad",
            f"{where}: {named} cannot be read: {error.strerror}; it is looked for from the folder of {config.name} on",
        ) from error
    except ValueError as error:
        raise OperatorError("config.bad", f"{where}: {named} holds no text, or is no name of a file") from error
    if len(lines) != 1:
        raise OperatorError("config.bad", f"{where}: {named} has to hold one line, the {what}, and has {len(lines)}")
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
            f"make one with: {_MAKE_SECRET}",
        )
    return key
