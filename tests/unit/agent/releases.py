"""Builds small releases for tests: a manifest and its contents, and what its tree must look like."""

import hashlib
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from device_agent.layout import installed_mode
from schemas.manifest import (
    DirectoryEntry,
    FileEntry,
    Health,
    Hook,
    Hooks,
    LinkEntry,
    Manifest,
    Service,
    Template,
    encode_manifest,
)

PLATFORM = "linux-aarch64"


def files_of(version: str) -> dict[str, tuple[bytes, int]]:
    """Path to content and mode: some the same in every version, some not, one content in two modes."""
    return {
        "bin/run": (f"#!/bin/sh\necho {version}\n".encode(), 0o755),
        "lib/common.txt": (b"the same in every version\n", 0o644),
        "lib/again.sh": (b"the same in every version\n", 0o755),
        f"lib/only-{version}.txt": (f"only in {version}\n".encode() * 50, 0o644),
        "lib/empty.py": (b"", 0o644),
        "etc/app.conf.in": (b"device=${device.id}\nversion=${package.version}\n", 0o644),
        "data/seed.txt": (b"first content\n", 0o644),
    }


@dataclass(frozen=True, kw_only=True)
class Built:
    """A release as a repository would hold it."""

    manifest: Manifest
    contents: dict[str, bytes]
    plain: bytes = field(init=False)
    sha256: str = field(init=False)

    def __post_init__(self) -> None:
        plain = encode_manifest(self.manifest)
        object.__setattr__(self, "plain", plain)
        object.__setattr__(self, "sha256", hashlib.sha256(plain).hexdigest())

    @property
    def package(self) -> str:
        return self.manifest.package

    @property
    def version(self) -> str:
        return self.manifest.version


def build(
    package: str = "tacho",
    version: str = "1.0.0",
    *,
    files: dict[str, tuple[bytes, int]] | None = None,
    hooks: tuple[str, ...] = (),
    services: tuple[str, ...] = ("web",),
    health: Health | None = None,
    **more: Any,
) -> Built:
    """A release with files, a folder, a link, state, a template, a service and whatever else is asked for."""
    held = files_of(version) if files is None else files
    contents = {hashlib.sha256(content).hexdigest(): content for content, _ in held.values()}
    entries = [
        FileEntry(path=path, size=len(content), sha256=hashlib.sha256(content).hexdigest(), mode=mode)
        for path, (content, mode) in sorted(held.items())
    ]
    commands: dict[str, Any] = {name: Hook(command=["bin/run", name]) for name in hooks}
    parts: dict[str, Any] = {
        "format": 1,
        "package": package,
        "version": version,
        "platform": "any",
        "files": entries,
        "links": [LinkEntry(path="lib/latest", target=f"only-{version}.txt")] if files is None else [],
        "directories": [DirectoryEntry(path="spool", mode=0o750)],
        "state": ["data"] if files is None else [],
        "templates": [Template(source="etc/app.conf.in", target="etc/app.conf")] if files is None else [],
        "hooks": Hooks(**commands),
        "services": [Service(name=name, command=["bin/run"]) for name in services],
        "health": health or Health(start_period_s=4, interval_s=1, retries=3, probation_s=10),
    }
    return Built(manifest=Manifest(**{**parts, **more}), contents=contents)


Looks = dict[str, tuple[str, bytes | str, int]]
"""Path to kind, content (or a link's target) and mode."""


def tree_of(folder: Path) -> Looks:
    """What there is in a folder, without following links; folders too."""
    found: Looks = {}
    for path in sorted(folder.rglob("*")):
        name, looks = str(path.relative_to(folder)), path.lstat()
        if stat.S_ISLNK(looks.st_mode):
            found[name] = ("link", str(path.readlink()), 0)
        elif stat.S_ISDIR(looks.st_mode):
            found[name] = ("folder", b"", stat.S_IMODE(looks.st_mode))
        else:
            found[name] = ("file", path.read_bytes(), stat.S_IMODE(looks.st_mode))
    return found


def expected_tree(built: Built, device: str) -> Looks:
    """What the release's tree must look like, worked out without the code under test."""
    manifest = built.manifest
    looks: Looks = {}
    for entry in manifest.files:
        if not any(entry.path.startswith(f"{path}/") for path in manifest.state):
            looks[entry.path] = ("file", built.contents[entry.sha256], installed_mode(entry.mode))
    for link in manifest.links:
        looks[link.path] = ("link", link.target, 0)
    for path in manifest.state:
        looks[path] = ("link", f"../../state/{path}", 0)
    for template in manifest.templates:
        rendered = f"device={device}\nversion={manifest.version}\n".encode()
        looks[template.target] = ("file", rendered, template.mode)
    for path in list(looks):
        for parent in Path(path).parents[:-1]:
            looks[str(parent)] = ("folder", b"", 0o755)
    looks |= {entry.path: ("folder", b"", entry.mode) for entry in manifest.directories}
    return dict(sorted(looks.items()))
