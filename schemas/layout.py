"""Where things are: in the repository (as URLs below a base), in package files and in export files.

The repository is a folder that any web server can serve. Everything in it but TUF's timestamp and the lists of
bundles is named by its hash or version and never changes.

A package file and an export file are uncompressed POSIX tar files with these members, in this order:

    flotilla.json            FileHead: format and kind
    metadata/…               export only: the TUF metadata that vouches for the manifest, as served
    manifest.json            package: the plain manifest
    targets/{sha256}.{name}  export: the signed manifest as served (zstd)
    objects/{sha256}         package: each distinct file once, plain, sorted by hash
    objects/{sha256}.zst     export: the same as served (zstd)
"""

from typing import Final

import msgspec

from schemas.names import PACKAGE_PATTERN, PLATFORM_PATTERN, SHA256_PATTERN, Sha256, matches

METADATA: Final = "metadata"
TARGETS: Final = "targets"
OBJECTS: Final = "objects"
BUNDLES: Final = "bundles"

BUNDLE_INDEX: Final = "index.json"
BUNDLE_FILE_PATTERN: Final = (
    r"^(?:(?:from-[0-9a-f]{64}|full)\.[0-9a-f]{16}\.bundle|from-[0-9a-f]{64}\.[0-9a-f]{16}\.manifest)(?!\n)$"
)
"""Bundles and manifest patches: what they start from, and the first 16 digits of their own sha256."""

FILE_FORMAT: Final = 1
HEAD_MEMBER: Final = "flotilla.json"
MANIFEST_MEMBER: Final = "manifest.json"
SUFFIX: Final = ".flotilla"
SITE_KIND: Final = "site"
"""`FileHead.kind` of several releases that `flotilla export` wrote for `flotilla import` of another controller."""

MAX_MANIFEST_BYTES: Final = 64 * 1024 * 1024
"""Plain size of a manifest: about 400 000 files."""
MAX_MANIFEST_PACKED: Final = 16 * 1024 * 1024
"""Size of a manifest as a TUF target (zstd)."""
MAX_FILE_BYTES: Final = 8 * 1024**3 - 1
"""What a plain tar header can say."""
MAX_TARGET_NAME: Final = 175
"""Longest target name, in characters: with its hash before it, and the marks of an unfinished file around it, it
still is the name of a file (255 bytes). Package files and release folders have shorter names."""
MAX_HEAD_BYTES: Final = 4096
MAX_METADATA_BYTES: Final = 8 * 1024 * 1024


class FileHead(msgspec.Struct, frozen=True, kw_only=True):
    """The first member of a package or export file.

    Attributes:
        format: `FILE_FORMAT`.
        kind: `package` (unsigned, for `flotilla push`) or `release` (signed, for `flotilla-agent install`).
        package, version, platform: what is inside; only a hint, the manifest decides.
        manifest: sha256 of the plain manifest.
    """

    format: int
    kind: str
    package: str
    version: str
    platform: str
    manifest: Sha256


def package_role(package: str) -> str:
    """The name of the delegated TUF role that signs a package's manifests.

    The prefix keeps a package called `targets` or `snapshot` apart from TUF's own roles.
    """
    _require(PACKAGE_PATTERN, package)
    return f"package-{package}"


def package_target_pattern(package: str) -> str:
    """The TUF path pattern that a package's role may sign. `@` cannot be part of a name, so none overlap."""
    _require(PACKAGE_PATTERN, package)
    return f"{package}@*"


def target_name(package: str, version: str, platform: str) -> str:
    """The TUF target path of a manifest, e.g. `tacho@1.1.0@linux-aarch64.json.zst`."""
    _require(PACKAGE_PATTERN, package)
    _require(PLATFORM_PATTERN, platform)
    if not version or not set(version) <= _VERSION_CHARACTERS:
        raise ValueError(f"not a version: {version!r}")
    return f"{package}@{version}@{platform}.json.zst"


def target_path(sha256: str, name: str) -> str:
    """The URL of a TUF target below the base, by TUF's consistent-snapshot rule (specification 6.2)."""
    _require(SHA256_PATTERN, sha256)
    return f"{TARGETS}/{sha256}.{name}"


def object_path(sha256: str) -> str:
    """The URL of a file's content below the base; `sha256` is that of the plain content."""
    _require(SHA256_PATTERN, sha256)
    return f"{OBJECTS}/{sha256[:2]}/{sha256}.zst"


def bundle_folder(sha256: str) -> str:
    """The URL below the base under which everything is that leads to the release with this plain manifest."""
    _require(SHA256_PATTERN, sha256)
    return f"{BUNDLES}/{sha256}"


def bundle_index_path(sha256: str) -> str:
    """The URL of the list of bundles that lead to a release. The only file below `bundles/` that changes."""
    return f"{bundle_folder(sha256)}/{BUNDLE_INDEX}"


def bundle_name(start: str | None, sha256: str) -> str:
    """A bundle's file name: `start` is the plain manifest it starts from, None for a full one; `sha256` the file's."""
    return f"{_start_name(start)}.{_own_hash(sha256)}.bundle"


def manifest_patch_name(start: str, sha256: str) -> str:
    """The file name of a manifest's difference from the plain manifest `start`; `sha256` is the file's own."""
    return f"{_start_name(start)}.{_own_hash(sha256)}.manifest"


def bundle_path(to: str, name: str) -> str:
    """The URL of a bundle or manifest patch below the base; raises `ValueError` for a name that can be neither."""
    _require(BUNDLE_FILE_PATTERN, name)
    return f"{bundle_folder(to)}/{name}"


def package_file_name(package: str, version: str, platform: str) -> str:
    """What `flotilla build` calls its result."""
    return f"{package}-{version}-{platform}{SUFFIX}"


def release_folder(version: str, manifest_sha256: str) -> str:
    """A release's folder below `packages/{name}/releases/` on a device."""
    _require(SHA256_PATTERN, manifest_sha256)
    if not version or not set(version) <= _VERSION_CHARACTERS:
        raise ValueError(f"not a version: {version!r}")
    return f"{version}+{manifest_sha256[:8]}" if "+" not in version else f"{version}.{manifest_sha256[:8]}"


def _start_name(start: str | None) -> str:
    if start is None:
        return "full"
    _require(SHA256_PATTERN, start)
    return f"from-{start}"


def _own_hash(sha256: str) -> str:
    _require(SHA256_PATTERN, sha256)
    return sha256[:16]


_VERSION_CHARACTERS: Final = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-+")


def _require(pattern: str, text: str) -> None:
    if not matches(pattern, text):
        raise ValueError(f"{text!r} does not match {pattern}")
