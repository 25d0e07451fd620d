"""The commands in the README are commands: they exist, take these options, and name folders that are there."""

import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest

from controller.cli.main import flotilla
from tests.page_pictures import DEMO, IMAGES, VIEWS

ROOT = Path(__file__).parents[3]
MADE = "tacho-1.1.0-any.flotilla"
"""What the command before has made, as the reader has made the password and the broker's certificate."""


def commands() -> list[str]:
    """Every line and every `flotilla …` in the text, without comments and broken lines."""
    text = (ROOT / "README.md").read_text().replace("\\\n", " ")
    lines = [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    inline = re.findall(r"`((?:\.venv/bin/)?flotilla [^`]*)`", text)
    found = [line.partition("#")[0].strip() for line in [*lines, *inline]]
    return [line.removeprefix(".venv/bin/") for line in found if re.match(r"(\.venv/bin/)?flotilla ", line)]


@pytest.mark.parametrize("line", commands())
def test_a_command_in_the_readme_is_one(line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for made in (MADE, "flotilla-password", "ca.pem"):
        (tmp_path / made).touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    _, name, *arguments = shlex.split(line.replace("~", str(tmp_path)))
    command = flotilla.get_command(click.Context(flotilla), name)
    assert command is not None, line
    if not (arguments or command.params):
        return
    try:
        command.make_context(name, arguments, parent=click.Context(flotilla, **flotilla.context_settings))
    except click.MissingParameter:
        # in the middle of a sentence an option is named without the others
        assert f"`{line}`" in (ROOT / "README.md").read_text()


def test_a_second_agent_on_one_machine_is_given_a_port_of_its_own() -> None:
    example = tomllib.loads((ROOT / "examples/tacho/app/flotilla.toml").read_text())
    (option,) = re.findall(r"--setting tacho\.(\w+)=(\d+)", (ROOT / "README.md").read_text())
    assert option[0] in example["settings"]
    assert option[1] != example["settings"][option[0]]


def test_every_picture_in_the_readme_is_there_and_made_by_make_pictures() -> None:
    named = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", (ROOT / "README.md").read_text())
    assert len(named) > 2
    assert [path for path in named if not (ROOT / path).is_file()] == []
    made = {DEMO, *(name for name, *_ in VIEWS)}
    assert {Path(path).name for path in named if Path(path).parent == Path("docs/images")} - made == set()
    assert {path.name for path in IMAGES.iterdir()} == made


def test_there_are_commands_in_the_readme() -> None:
    assert len(commands()) > 20
    assert any("examples/tacho/app" in line for line in commands())
