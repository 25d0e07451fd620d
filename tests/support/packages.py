"""Builders for tests: source folders with a `flotilla.toml`, and the packages that the PackageCreator makes of them.

source = make_source(tmp_path / "src", "tacho", "1.0.0", {"bin/run": "#!/bin/sh\\n"}, settings={"port": 80})
package = build(source, tmp_path)
"""

import base64
import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from controller.packaging.package_creator import PackageCreator

Content = bytes | str


def make_source(
    folder: Path,
    name: str = "tacho",
    version: str | None = "1.0.0",
    files: Mapping[str, Content] | None = None,
    **toml: Any,
) -> Path:
    """Write a source folder and return it.

    Args:
        folder: made where it is missing; files that are there stay.
        files: path to content; a file that begins with `#!` becomes executable.
        toml: further content of `flotilla.toml`: tables by name (`settings={...}`, `template=[{...}]`,
            `health={"check": [...]}`); what is in `package={...}` is added to name and version.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in (files or {"hello.txt": "hello\n"}).items():
        write_file(folder / path, content)
    package = {"name": name, **({"version": version} if version is not None else {}), **toml.pop("package", {})}
    (folder / "flotilla.toml").write_text(to_toml({"package": package, **toml}))
    return folder


def write_file(path: Path, content: Content) -> Path:
    """Write a file and the folders above it; executable where it begins with `#!`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = content.encode() if isinstance(content, str) else content
    path.write_bytes(raw)
    path.chmod(0o755 if raw.startswith(b"#!") else 0o644)
    return path


def build(source: Path, out: Path, *, version: str | None = None, platform: str | None = None) -> Path:
    """The package file of a source folder."""
    return PackageCreator(source).build(version=version, platform=platform, out=out).path


def to_toml(value: Mapping[str, Any]) -> str:
    """TOML of plain values, with one line for each key of the top tables and everything below inline."""
    lines: list[str] = []
    for name, table in value.items():
        if isinstance(table, Mapping):
            lines.append(f"[{name}]")
            lines += [f"{_key(key)} = {_inline(item)}" for key, item in table.items()]
        else:
            for item in table:
                lines.append(f"[[{name}]]")
                lines += [f"{_key(key)} = {_inline(below)}" for key, below in item.items()]
        lines.append("")
    return "\n".join(lines)


def _key(key: str) -> str:
    return json.dumps(key)


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(key)} = {_inline(item)}" for key, item in value.items()) + " }"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(_inline(item) for item in value) + "]"
    # JSON's strings, numbers and booleans are TOML's, but that TOML wants DEL escaped.
    return json.dumps(value).replace("\x7f", "\\u007f")


def make_wheel(
    folder: Path,
    name: str,
    version: str,
    files: Mapping[str, str],
    *,
    tag: str = "py3-none-any",
    scripts: Mapping[str, str] | None = None,
) -> Path:
    """A wheel that uv and pip install, made without any build tool.

    Args:
        files: path to content.
        scripts: console scripts, name to `module:function`.
    """
    info = f"{name}-{version}.dist-info"
    content = dict(files)
    content[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    content[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n"
    if scripts:
        lines = "".join(f"{script} = {entry}\n" for script, entry in scripts.items())
        content[f"{info}/entry_points.txt"] = f"[console_scripts]\n{lines}"
    record = "".join(f"{path},sha256={_record_hash(text)},{len(text.encode())}\n" for path, text in content.items())
    content[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n"
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in content.items():
            archive.writestr(path, text)
    return wheel


def _record_hash(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
