"""Templates: what is written, with which mode, and that a failure leaves nothing."""

import errno
import os
from pathlib import Path

import pytest

from device_agent.rendering import MAX_TEMPLATE_BYTES, FileTemplateRenderer, context_environment, context_values
from schemas.errors import DeviceError, PublisherError
from schemas.manifest import FileEntry, Manifest, Template
from tests.unit.agent_leaves.builders import release_context


def manifest(*templates: Template, settings: dict[str, str | None] | None = None) -> Manifest:
    return Manifest(
        format=1,
        package="tacho",
        version="1.0.0",
        platform="any",
        files=[FileEntry(path=t.source, size=0, sha256="0" * 64) for t in templates],
        templates=list(templates),
        settings=settings or {},
    )


def tree(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_a_template_is_filled_in_and_written_with_its_mode(tmp_path: Path) -> None:
    context = release_context(tmp_path, settings__port="8080", device__id="pi-1")
    (context.folder / "conf.in").write_text("port=${settings.port}\nid=${device.id}\ncost=$$5 ä\n")
    FileTemplateRenderer().render(manifest(Template(source="conf.in", target="etc/app/conf", mode=0o600)), context)
    target = context.folder / "etc/app/conf"
    assert target.read_text() == "port=8080\nid=pi-1\ncost=$5 ä\n"
    assert target.stat().st_mode & 0o7777 == 0o600
    assert tree(context.folder) == ["conf.in", "etc", "etc/app", "etc/app/conf"]


def test_rendering_again_gives_the_new_values(tmp_path: Path) -> None:
    renderer, made = FileTemplateRenderer(), manifest(Template(source="conf.in", target="conf"))
    for port in ("1", "2"):
        context = release_context(tmp_path, settings__port=port)
        (context.folder / "conf.in").write_text("${settings.port}")
        renderer.render(made, context)
        assert (context.folder / "conf").read_text() == port


def test_a_missing_value_leaves_nothing(tmp_path: Path) -> None:
    context = release_context(tmp_path)
    (context.folder / "good.in").write_text("fine")
    (context.folder / "bad.in").write_text("${settings.password}")
    templates = [Template(source="good.in", target="a/good"), Template(source="bad.in", target="bad")]
    with pytest.raises(DeviceError) as caught:
        FileTemplateRenderer().render(manifest(*templates), context)
    assert caught.value.code == "requires.setting"
    assert "${settings.password}" in caught.value.message
    assert tree(context.folder) == ["bad.in", "good.in"]


@pytest.mark.parametrize(("content", "says"), [(b"\xff\xfe", "not UTF-8"), (b"x" * (MAX_TEMPLATE_BYTES + 1), "over")])
def test_a_source_that_is_no_text_is_the_publishers_fault(tmp_path: Path, content: bytes, says: str) -> None:
    context = release_context(tmp_path)
    (context.folder / "conf.in").write_bytes(content)
    with pytest.raises(PublisherError) as caught:
        FileTemplateRenderer().render(manifest(Template(source="conf.in", target="conf")), context)
    assert caught.value.code == "manifest.bad"
    assert says in caught.value.message
    assert tree(context.folder) == ["conf.in"]


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = release_context(tmp_path)
    (context.folder / "a.in").write_text("a")
    real, calls = os.fchmod, []

    def full_at_the_second(descriptor: int, mode: int) -> None:
        calls.append(mode)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor, mode)

    monkeypatch.setattr("os.fchmod", full_at_the_second)
    templates = [Template(source="a.in", target="x/one"), Template(source="a.in", target="y/two")]
    with pytest.raises(DeviceError) as caught:
        FileTemplateRenderer().render(manifest(*templates), context)
    assert caught.value.code == "disk.full"
    assert tree(context.folder) == ["a.in"]


def test_values_come_from_the_device_before_the_manifests_defaults() -> None:
    values = context_values(
        manifest(settings={"port": "80", "name": "unnamed"}),
        device_id="pi-1",
        facts={"model": "Raspberry Pi 5", "memory": 8, "serial": None, "camera": True},
        tags={"site": "harbour"},
        settings={"port": "8080", "other": "x"},
        current=Path("/c"),
        state=Path("/s"),
    )
    assert values == {
        "device.id": "pi-1",
        "package.name": "tacho",
        "package.version": "1.0.0",
        "package.platform": "any",
        "path.current": "/c",
        "path.state": "/s",
        "facts.model": "Raspberry Pi 5",
        "facts.memory": "8",
        "facts.camera": "true",
        "tags.site": "harbour",
        "settings.port": "8080",
        "settings.name": "unnamed",
    }


def test_a_setting_without_a_default_must_be_given_by_the_device() -> None:
    with pytest.raises(DeviceError) as caught:
        context_values(
            manifest(settings={"password": None}),
            device_id="pi-1",
            facts={},
            tags={},
            settings={},
            current=Path("/c"),
            state=Path("/s"),
        )
    assert caught.value.code == "requires.setting"
    assert caught.value.message == (
        "tacho 1.0.0 needs the setting 'password'; set it under [settings.tacho] in agent.toml"
    )


def test_the_environment_names_the_release() -> None:
    variables = context_environment(manifest(), device_id="pi-1", current=Path("/c"), state=Path("/s"))
    assert variables == {
        "FLOTILLA_DEVICE": "pi-1",
        "FLOTILLA_PACKAGE": "tacho",
        "FLOTILLA_VERSION": "1.0.0",
        "FLOTILLA_PLATFORM": "any",
        "FLOTILLA_CURRENT": "/c",
        "FLOTILLA_STATE": "/s",
    }
