"""Reads what the owner of a device says, from `agent.toml` and flags, and says in one line what is wrong with it.

Flags go before the file, the file before the defaults. Whatever is wrong gives one line that names the
file (or the flag) and the key. Nothing here is read from the network.
"""

import contextlib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from device_agent.config import AgentConfig
from device_agent.owner_rules import window_problems
from schemas.errors import ContractError, OperatorError, one_line
from schemas.names import PACKAGE_PATTERN, RESERVED_DEVICES, PackageName, in_words, matches
from schemas.topics import Topics
from transport.errors import SettingsError

MAX_FILE_BYTES: Final = 256 * 1024


class Flag(msgspec.Struct, frozen=True):
    """A value from the command line and how the user wrote it, e.g. `--channel`."""

    name: str
    value: Any


def load_config(file: Path | None, flags: Mapping[str, Flag], *, host_name: str) -> AgentConfig:
    """The configuration from `file` (None: none) and flags.

    Args:
        file: must exist where it is given. Relative paths in it are relative to its folder.
        flags: dotted key (`broker_auth.username`) to value; these go before the file's.
        host_name: the device's id is made from it where neither says one.

    Raises:
        OperatorError: `config.bad` or `config.missing`, one line.
    """
    table = _read(file) if file is not None else {}
    origin = _Origin(file, {key: flag.name for key, flag in flags.items()})
    _refuse_unknown(table, AgentConfig, "", origin)
    if file is not None:
        _anchor_paths(table, file.resolve().parent)
    for key, flag in flags.items():
        _put(table, key.split("."), flag.value)
    if "id" not in table:
        table["id"] = device_id_from(host_name)
    try:
        config = msgspec.convert(table, AgentConfig, dec_hook=_path)
    except msgspec.ValidationError as error:
        raise _translate(error, table, origin) from error
    _check(config, origin)
    return config


def device_id_from(host_name: str) -> str:
    """A device id made from a host name: its first label, lower case, other characters as `-`.

    Raises:
        OperatorError: `config.missing`; nothing usable is left, or every machine has that name.
    """
    label = host_name.partition(".")[0].lower()
    text = "".join(c if c.isascii() and c.isalnum() else "-" for c in label).strip("-")[:63].rstrip("-")
    if text in ("", "localhost"):
        raise OperatorError(
            "config.missing",
            f"id: the host name {one_line(host_name)!r} does not tell devices apart; set id in agent.toml or give --id",
        )
    return text


class _Origin:
    """Says where a key's value came from."""

    def __init__(self, file: Path | None, flags: Mapping[str, str]) -> None:
        self._file = file
        self._flags = flags

    def of(self, key: str) -> str:
        """`--channel`, or `agent.toml: channel`."""
        for flag_key, name in self._flags.items():
            if key == flag_key or key.startswith(flag_key + "."):
                return name
        return f"{self._file}: {key}" if self._file is not None else key


def is_there(file: Path) -> bool:
    """Whether there is such a file, for all that this account may know."""
    try:
        return file.exists()
    except PermissionError:
        return True


def others_can_read(file: Path) -> str:
    """Half a line to add where accounts besides the owner's can read a configuration; its settings may be secrets."""
    try:
        mode = file.stat().st_mode
    except OSError:
        return ""
    return f"; other accounts can read it, `chmod 600 {file}` if it holds secrets" if mode & 0o077 else ""


def _read(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            raw = stream.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise OperatorError(
            "config.missing", f"{file}: no such file; `flotilla-agent install-service` writes one"
        ) from error
    except PermissionError as error:
        raise OperatorError("config.bad", f"{file}: may not be read by this account; use sudo") from error
    except OSError as error:
        raise OperatorError("config.bad", f"{file}: cannot be read: {error.strerror}") from error
    if len(raw) > MAX_FILE_BYTES:
        raise OperatorError("config.bad", f"{file}: is over {MAX_FILE_BYTES} bytes")
    try:
        return tomllib.loads(raw.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise OperatorError("config.bad", f"{file}: is not TOML: {one_line(error)}") from error


def _refuse_unknown(table: Mapping[str, Any], kind: type[msgspec.Struct], prefix: str, origin: _Origin) -> None:
    fields = {f.name: f.type for f in msgspec.structs.fields(kind)}
    for key, value in table.items():
        where = prefix + key
        if key not in fields:
            raise OperatorError("config.bad", f"{origin.of(where)}: no such key{_near(key, fields)}")
        part = fields[key]
        if isinstance(part, type) and issubclass(part, msgspec.Struct) and isinstance(value, dict):
            _refuse_unknown(value, part, f"{where}.", origin)


def _near(key: str, known: Mapping[str, Any]) -> str:
    import difflib  # noqa: PLC0415 - only a wrong key needs it

    close = difflib.get_close_matches(key, known, n=2, cutoff=0.6)
    if close:
        return "; did you mean " + " or ".join(f"`{name}`" for name in close) + "?"
    return "; known keys here: " + ", ".join(sorted(known))


_PATH_KEYS: Final = (
    ("root",),
    ("trusted_root",),
    ("broker_auth", "password_file"),
    ("broker_auth", "ca"),
    ("broker_auth", "cert"),
    ("broker_auth", "key"),
)


def _anchor_paths(table: dict[str, Any], folder: Path) -> None:
    for keys in _PATH_KEYS:
        inner: Any = table
        for key in keys[:-1]:
            inner = inner.get(key) if isinstance(inner, dict) else None
        if isinstance(inner, dict) and isinstance(inner.get(keys[-1]), str):
            with contextlib.suppress(ValueError):  # what it says is said when all values are checked
                inner[keys[-1]] = str(folder / path_from(inner[keys[-1]]))


def _put(table: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        inner = table.get(key)
        table[key] = dict(inner) if isinstance(inner, dict) else {}
        table = table[key]
    table[keys[-1]] = _merged(table.get(keys[-1]), value)


def _merged(old: Any, new: Any) -> Any:
    """`--tag a=b` adds to the file's tags instead of dropping them; whatever is no table is replaced."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    return old | {key: _merged(old.get(key), value) for key, value in new.items()}


def _path(kind: type[Any], value: Any) -> Any:
    """msgspec knows no paths by itself."""
    if kind is not Path:
        raise NotImplementedError(kind)
    return path_from(value if isinstance(value, str) else "")


def path_from(text: str) -> Path:
    """The path that somebody wrote, with `~` filled in; `ValueError` for what can be none."""
    if not text or "\0" in text:
        raise ValueError("Expected the path of a file or folder")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{text!r} names nobody's home folder") from error


def _translate(error: msgspec.ValidationError, table: Mapping[str, Any], origin: _Origin) -> OperatorError:
    text, _, path = str(error).partition(" - at ")
    key = path.strip("`").replace("key` in `", "").removeprefix("$").lstrip(".")
    if "..." in key or "key` in" in path:
        key = _culprit(table, key.replace("[...]", ""))
    return OperatorError("config.bad", f"{origin.of(key)}: {one_line(in_words(text)).replace(_NO_NEWLINE, '')}")


_NO_NEWLINE: Final = repr(r"(?!\n)")[1:-1]
"""What the contract's patterns need besides `$`; nobody wants to read it in a message."""


def _culprit(table: Mapping[str, Any], section: str) -> str:
    """The entry of a table with free keys that is wrong; msgspec says `[...]` there."""
    fields = {f.name: f.type for f in msgspec.structs.fields(AgentConfig)}
    kind: Any = fields.get(section, dict[PackageName, Path])
    inner: Any = table
    for key in section.split("."):
        inner = inner[key]
    for key, value in inner.items():
        try:
            msgspec.convert({key: value}, kind, dec_hook=_path)
        except msgspec.ValidationError:
            return f"{section}.{one_line(key)}"
    return section


def _check(config: AgentConfig, origin: _Origin) -> None:
    """What types cannot say."""
    for key, problem in (*_list_problems(config), *_broker_problems(config)):
        raise OperatorError("config.bad", f"{origin.of(key)}: {one_line(problem)}")


def _list_problems(config: AgentConfig) -> Iterator[tuple[str, str]]:
    if config.id in RESERVED_DEVICES:
        yield "id", f"{config.id!r} is a reserved name and no device's; set another id"
    if not config.packages:
        yield "packages", 'is empty; name packages, or write ["*"] for all'
    for name in sorted(config.named_packages):
        if not matches(PACKAGE_PATTERN, name):
            yield "packages", f"{name!r} is not a package name (a-z, 0-9 and -) and not '*'"
    for url in config.repositories:
        if not url.startswith(("http://", "https://")) or not url.isprintable() or " " in url:
            yield "repositories", f"{url!r} is not an http:// or https:// address"
    for problem in window_problems(config.policy.windows):
        yield "policy.windows", problem
    for package, path in config.policy.install_paths.items():
        if not path.is_absolute() or ".." in path.parts or path == Path("/"):
            yield f"policy.install_paths.{package}", f"{str(path)!r} is not a plain absolute path"


def _broker_problems(config: AgentConfig) -> Iterator[tuple[str, str]]:
    try:
        Topics(config.topic_root)
    except ContractError as error:
        yield "topic_root", str(error)
    auth = config.broker_auth
    if auth.password_file is not None and auth.username is None:
        yield "broker_auth.password_file", "needs a username beside it"
    if (auth.cert is None) != (auth.key is None):
        yield "broker_auth.cert", "cert and key go together"
    try:
        config.link_settings().address()
    except SettingsError as error:
        yield "broker", str(error)
