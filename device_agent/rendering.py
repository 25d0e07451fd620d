"""Makes a release's configuration files from its templates, and the values that placeholders stand for."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from device_agent.faults import disk_fault
from device_agent.seams import ReleaseContext
from schemas.errors import DeviceError, PublisherError, one_line
from schemas.manifest import Manifest, Template
from schemas.messages import FactValue
from schemas.templates import fill

MAX_TEMPLATE_BYTES: Final = 1024 * 1024


def context_values(
    manifest: Manifest,
    *,
    device_id: str,
    facts: Mapping[str, FactValue],
    tags: Mapping[str, str],
    settings: Mapping[str, str],
    current: Path,
    state: Path,
) -> dict[str, str]:
    """Every placeholder's name to its value, for a `ReleaseContext`.

    Args:
        settings: this device's own for the package; they go before the manifest's defaults.
        current: the link through which the package is used.
        state: the package's state folder.

    Raises:
        DeviceError: `requires.setting` where the manifest has no default and the device no value.
    """
    values = {
        "device.id": device_id,
        "package.name": manifest.package,
        "package.version": manifest.version,
        "package.platform": manifest.platform,
        "path.current": str(current),
        "path.state": str(state),
    }
    values.update({f"facts.{name}": _as_text(fact) for name, fact in facts.items() if fact is not None})
    values.update({f"tags.{name}": tag for name, tag in tags.items()})
    for name, default in manifest.settings.items():
        value = settings.get(name, default)
        if value is None:
            raise DeviceError(
                "requires.setting",
                f"{manifest.package} {manifest.version} needs the setting {one_line(name)!r}; "
                f"set it under [settings.{manifest.package}] in agent.toml",
            )
        values[f"settings.{name}"] = value
    return values


def context_environment(manifest: Manifest, *, device_id: str, current: Path, state: Path) -> dict[str, str]:
    """The variables that hooks, services and command checks get, for a `ReleaseContext`."""
    return {
        "FLOTILLA_DEVICE": device_id,
        "FLOTILLA_PACKAGE": manifest.package,
        "FLOTILLA_VERSION": manifest.version,
        "FLOTILLA_PLATFORM": manifest.platform,
        "FLOTILLA_CURRENT": str(current),
        "FLOTILLA_STATE": str(state),
    }


class FileTemplateRenderer:
    """The `TemplateRenderer` that writes files."""

    def render(self, manifest: Manifest, context: ReleaseContext) -> None:
        """Write every template's target below `context.folder`, or none.

        Raises:
            DeviceError: `requires.setting`, `disk.full` or `disk.io`.
            PublisherError: `manifest.bad` where a source is no text or too long.
        """
        texts = [_filled(template, context) for template in manifest.templates]
        made: list[Path] = []
        try:
            for template, text in zip(manifest.templates, texts, strict=True):
                _write(context.folder, template, text, made)
        except OSError as error:
            for path in reversed(made):
                with contextlib.suppress(OSError):
                    path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
            raise disk_fault(error, f"write the configuration of {manifest.package}") from error


def _filled(template: Template, context: ReleaseContext) -> bytes:
    where = f"template {one_line(template.source)} of {context.package} {context.version}"
    try:
        with (context.folder / template.source).open("rb") as file:
            raw = file.read(MAX_TEMPLATE_BYTES + 1)
    except OSError as error:
        raise disk_fault(error, f"read {where}") from error
    if len(raw) > MAX_TEMPLATE_BYTES:
        raise PublisherError("manifest.bad", f"{where} is over {MAX_TEMPLATE_BYTES} bytes")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise PublisherError("manifest.bad", f"{where} is not UTF-8 text (byte {error.start})") from error
    return fill(text, context.values, where).encode()


def _write(folder: Path, template: Template, text: bytes, made: list[Path]) -> None:
    target = folder / template.target
    missing = [parent for parent in target.parents if parent.is_relative_to(folder) and not parent.exists()]
    for parent in reversed(missing):
        parent.mkdir(mode=0o755)
        made.append(parent)
    unfinished = target.with_name(f".{os.getpid()}.rendering")
    made.append(unfinished)
    # Closed to others from the first byte on: a value may be a password.
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(text)
        os.fchmod(file.fileno(), template.mode)
    unfinished.replace(target)
    made[-1] = target


def _as_text(fact: FactValue) -> str:
    return str(fact).lower() if isinstance(fact, bool) else str(fact)
