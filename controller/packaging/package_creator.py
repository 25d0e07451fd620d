"""The PackageCreator: from a source folder with its `flotilla.toml` to one package file."""

import hashlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO

import msgspec

from controller.packaging.package_file import write_package
from controller.packaging.package_reader import CHUNK
from controller.packaging.project import Project, octal, read_project
from controller.packaging.project_checks import MAX_TEMPLATE_BYTES, check_project
from controller.packaging.python_requirements import install_requirements
from controller.packaging.source_tree import FoundFile, Tree, TreeRules, scan
from controller.packaging.tar import MAX_MEMBER_BYTES
from controller.packaging.version_source import find_version
from schemas.errors import OperatorError, PublisherError, one_line
from schemas.layout import package_file_name
from schemas.manifest import MANIFEST_FORMAT, FileEntry, Health, Manifest, Template, decode_manifest, encode_manifest
from schemas.names import PLATFORM_PATTERN, matches, wrong_platform
from schemas.paths import check_path

BuildProgress = Callable[[str, int, int], None]
"""Called now and then with a step (`requirements`, `reading`, `writing`), bytes done and bytes in all."""


class BuiltPackage(msgspec.Struct, frozen=True, kw_only=True):
    """A package file that was built: where, what, the sha256 of its plain manifest, and its size in bytes."""

    path: Path
    manifest: Manifest
    manifest_sha256: str
    size: int


class PackageCreator:
    """Builds the package of one source folder. The same input gives the same bytes on every machine.

    Args:
        source: the folder that holds `flotilla.toml`.
    """

    def __init__(self, source: Path) -> None:
        self._source = source

    def build(
        self,
        version: str | None = None,
        platform: str | None = None,
        out: Path = Path(),
        progress: BuildProgress | None = None,
    ) -> BuiltPackage:
        """Make `NAME-VERSION-PLATFORM.flotilla` in `out`; it appears whole, or nothing was made.

        Args:
            version: goes before the one of `flotilla.toml`.
            platform: goes before the one of `flotilla.toml`.
            out: the folder for the result, made where it is missing.
            progress: told how far it is.

        Raises:
            PublisherError: one line on what is wrong with the source.
            OperatorError: `disk.full` or `disk.io`, when the result cannot be written.
        """
        tell = progress or _nobody
        project = read_project(self._source)
        version = find_version(self._source, project.package.version, version)
        platform = project.package.platform if platform is None else platform
        if not matches(PLATFORM_PATTERN, platform):
            raise PublisherError("package.source", f"--platform: {one_line(platform)!r} is no name of a platform")
        if (wrong := wrong_platform(platform)) is not None:
            raise PublisherError("package.source", f"platform: {wrong}")
        with _scratch_folder() as scratch:
            tree = self._tree(project, platform, Path(scratch), tell)
            entries = _hash_files(tree.files, partial(tell, "reading"))
            manifest = _manifest(project, version, platform, tree, entries)
            by_path = {file.path: file.source for file in tree.files}
            check_project(manifest, lambda path: _read_start(by_path[path], path))
            # Once through the reader's own door, so that nothing is built that no device would take.
            manifest = decode_manifest(encode_manifest(manifest))
            by_hash = {entry.sha256: by_path[entry.path] for entry in entries}
            path = out / package_file_name(manifest.package, version, platform)
            with _folder_made(out):
                written = write_package(path, manifest, lambda sha256: _open(by_hash[sha256]), partial(tell, "writing"))
        return BuiltPackage(path=path, manifest=manifest, manifest_sha256=written.manifest_sha256, size=written.size)

    def _tree(self, project: Project, platform: str, scratch: Path, tell: BuildProgress) -> Tree:
        package = project.package
        modes = {pattern: octal(mode) for pattern, mode in package.modes.items()}
        rules = TreeRules(package.include, package.exclude, modes)
        tree = scan(self._source, rules)
        if project.python is not None:
            check_path(project.python.target, "python.target")
            tell("requirements", 0, 0)
            install_requirements(self._source, project.python, platform, scratch)
            tree = _merged(tree, scan(scratch, rules, below=project.python.target, takes_all=True))
        rules.check_used()
        return tree


def _manifest(project: Project, version: str, platform: str, tree: Tree, files: list[FileEntry]) -> Manifest:
    package, health = project.package, project.health
    return Manifest(
        format=MANIFEST_FORMAT,
        package=package.name,
        version=version,
        platform=platform,
        description=package.description,
        tags=sorted(set(package.tags)),
        requires=project.requires,
        install_path=package.install_path,
        files=files,
        links=tree.links,
        directories=tree.directories,
        state=sorted({path.rstrip("/") for path in package.state}),
        state_snapshot=package.state_snapshot,
        templates=sorted(
            (Template(source=t.source, target=t.target, mode=octal(t.mode)) for t in project.template),
            key=lambda template: template.target,
        ),
        settings=project.setting_defaults(),
        hooks=project.hooks,
        services=project.service,
        health=Health(
            checks=health.checks,
            start_period_s=health.start_period_s,
            interval_s=health.interval_s,
            retries=health.retries,
            probation_s=health.probation_s,
        ),
    )


def _merged(own: Tree, added: Tree) -> Tree:
    """The source's tree with the requirements' in it. Raises `PublisherError` where both have a path."""
    taken = {file.path for file in own.files} | {link.path for link in own.links}
    for path in (*(file.path for file in added.files), *(link.path for link in added.links)):
        if path in taken:
            raise PublisherError(
                "package.source",
                f"{one_line(path)!r} is in the source folder and among the Python requirements; "
                "set python.target to a folder of its own",
            )
    directories = {entry.path: entry for entry in (*own.directories, *added.directories)}
    return Tree(
        files=sorted((*own.files, *added.files), key=lambda file: file.path),
        links=sorted((*own.links, *added.links), key=lambda link: link.path),
        directories=[directories[path] for path in sorted(directories)],
    )


def _hash_files(files: list[FoundFile], tell: Callable[[int, int], None]) -> list[FileEntry]:
    total = sum(file.size for file in files)
    done = 0
    entries: list[FileEntry] = []
    for file in files:
        hashed = hashlib.sha256()
        size = 0
        try:
            with _open(file.source) as content:
                while chunk := content.read(CHUNK):
                    hashed.update(chunk)
                    size += len(chunk)
                    if size > MAX_MEMBER_BYTES:
                        raise PublisherError(
                            "package.limit", f"{one_line(file.path)!r} is over {MAX_MEMBER_BYTES} bytes"
                        )
                    tell(done + size, max(total, done + size))
        except OSError as error:
            raise PublisherError(
                "package.source", f"{one_line(file.path)!r} cannot be read: {error.strerror}"
            ) from error
        done += size
        entries.append(FileEntry(path=file.path, size=size, sha256=hashed.hexdigest(), mode=file.mode))
    return entries


def _read_start(source: Path, path: str) -> bytes:
    try:
        with _open(source) as content:
            return content.read(MAX_TEMPLATE_BYTES + 1)
    except OSError as error:
        raise PublisherError("package.source", f"{one_line(path)!r} cannot be read: {error.strerror}") from error


def _open(path: Path) -> BinaryIO:
    """A regular file, though something else may have taken its place since it was found."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "it is no longer a regular file")
    return os.fdopen(descriptor, "rb", buffering=0)


def _scratch_folder() -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix="flotilla-build-", ignore_cleanup_errors=True)
    except OSError as error:
        raise OperatorError("disk.io", f"no temporary folder can be made: {error.strerror}") from error


@contextmanager
def _folder_made(folder: Path) -> Iterator[None]:
    """Make `folder` and those above it; when the block raises, those that were made go again."""
    missing = [level for level in (folder, *folder.parents) if not level.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OperatorError("disk.io", f"folder {one_line(folder)} cannot be made: {error.strerror}") from error
    try:
        yield
    except BaseException:
        for level in missing:
            with suppress(OSError):
                level.rmdir()
        raise


def _nobody(step: str, done: int, total: int) -> None:
    """Tells nobody."""
