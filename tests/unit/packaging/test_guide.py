"""The guide for publishers says what the code does."""

import re
from pathlib import Path

import msgspec
import pytest

from controller.packaging.project import (
    PackageTable,
    PythonTable,
    RequiredSetting,
    TemplateTable,
    VersionFrom,
    parse_project,
)
from controller.packaging.project_checks import KNOWN_VALUES
from controller.packaging.python_requirements import UV_PLATFORMS
from controller.packaging.source_tree import DEFAULT_EXCLUDES
from schemas.manifest import (
    CommandCheck,
    Health,
    Hook,
    Hooks,
    HttpCheck,
    ReadyHook,
    Requires,
    Service,
    SystemdCheck,
    TcpCheck,
)

GUIDE = (Path(__file__).parents[3] / "docs" / "guides" / "publishers.md").read_text()
EXAMPLES = re.findall(r"```toml\n(.*?)```", GUIDE, re.DOTALL)
TABLES = [PackageTable, VersionFrom, PythonTable, RequiredSetting, TemplateTable]
MANIFEST_PARTS = [Requires, Hooks, Hook, ReadyHook, Service, CommandCheck, HttpCheck, TcpCheck, SystemdCheck]


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_every_example_is_a_flotilla_toml(number: int) -> None:
    text = EXAMPLES[number]
    if "[package]" not in text:
        text = f'[package]\nname = "x"\n\n{text}'
    if text.rstrip().endswith("# Raspberry Pi OS 12"):
        text += '\n[python]\nrequirements = "requirements.txt"\n'
    assert parse_project(text.encode()).package.name


def test_there_are_examples_of_all_tables() -> None:
    text = "\n".join(EXAMPLES)
    heads = set(re.findall(r"^\[\[?([a-z_.]+)", text, re.MULTILINE))
    assert heads >= {"package", "requires", "settings", "template", "service", "health", "health.check", "python"}
    assert set(re.findall(r'^type = "(\w+)"', text, re.MULTILINE)) == {"http", "tcp", "command", "systemd"}


@pytest.mark.parametrize("table", [*TABLES, *MANIFEST_PARTS, Health], ids=lambda table: table.__name__)
def test_every_key_is_named(table: type[msgspec.Struct]) -> None:
    for field in msgspec.structs.fields(table):
        if (table, field.name) != (Health, "checks"):
            assert re.search(rf"\b{field.encode_name}\b", GUIDE), field.encode_name


def test_lists_are_complete() -> None:
    for pattern in DEFAULT_EXCLUDES:
        assert f"`{pattern}`" in GUIDE or pattern.endswith(".part"), pattern
    for platform, name in UV_PLATFORMS.items():
        assert f"`{platform}`" in GUIDE, platform
        assert f"`{name}`" in GUIDE, name
    for value in KNOWN_VALUES:
        assert f"`${{{value}}}`" in GUIDE, value


def test_defaults_of_health_are_those_that_are_shown() -> None:
    example = next(text for text in EXAMPLES if text.startswith("[health]"))
    health = parse_project(f'[package]\nname = "x"\n{example}'.encode()).health
    shown = (health.start_period_s, health.interval_s, health.retries, health.probation_s)
    defaults = Health()
    assert shown == (defaults.start_period_s, defaults.interval_s, defaults.retries, defaults.probation_s)
    timeouts = {type(check): check.timeout_s for check in health.checks}
    assert timeouts == {
        kind: msgspec.structs.fields(kind)[[f.name for f in msgspec.structs.fields(kind)].index("timeout_s")].default
        for kind in timeouts
    }
