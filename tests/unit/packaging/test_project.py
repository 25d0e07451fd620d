"""flotilla.toml: what is taken, and the one line for what is not."""

from pathlib import Path

import pytest

from controller.packaging.project import MAX_PROJECT_BYTES, RequiredSetting, VersionFrom, parse_project, read_project
from schemas.errors import PublisherError
from schemas.manifest import CommandCheck, Hook, HttpCheck, ReadyHook, TcpCheck

MINIMAL = '[package]\nname = "tacho"\nversion = "1.0.0"\n'

EVERYTHING = """
[package]
name = "tacho"
version = { from = "git", tag_prefix = "tacho-" }
description = "A gauge"
tags = ["demo", "gauge"]
platform = "linux-aarch64"
include = ["/app/"]
exclude = ["*.log"]
modes = { "bin/*" = "0755", "secret/" = "700" }
install_path = "/opt/tacho"
state = ["data"]

[requires]
agent = ">=0.1"
upgrade_from = ">=1.0"
hardware = ["Raspberry Pi 4*"]
packages = { gauge-fonts = "^2" }

[settings]
port = 8080
ratio = 1.5
verbose = true
title = "Speed"
token = { required = true }

[[template]]
source = "app.conf.in"
target = "app.conf"

[hooks.pre_switch]
command = ["bin/migrate", "--check"]
timeout_s = 20

[hooks.ready]
command = ["bin/may-stop"]
longest_postponement_s = 3600

[[service]]
name = "web"
command = ["python3", "-m", "tacho"]
environment = { PYTHONPATH = "${path.current}/lib" }

[health]
probation_s = 10

[[health.check]]
type = "http"
url = "http://127.0.0.1:${settings.port}/health"

[[health.check]]
type = "tcp"
port = 8080

[[health.check]]
type = "command"
command = ["bin/check"]

[python]
requirements = "requirements.txt"
platforms = { linux-riscv64 = "riscv64-unknown-linux" }
"""


def test_every_table_is_read() -> None:
    project = parse_project(EVERYTHING.encode())
    package = project.package
    assert package.version == VersionFrom(source="git", tag_prefix="tacho-")
    assert (package.platform, package.include, package.exclude) == ("linux-aarch64", ["/app/"], ["*.log"])
    assert package.modes == {"bin/*": "0755", "secret/": "700"}
    assert (project.requires.agent, project.requires.packages) == (">=0.1", {"gauge-fonts": "^2"})
    assert project.settings["token"] == RequiredSetting(required=True)
    assert project.setting_defaults() == {
        "port": "8080",
        "ratio": "1.5",
        "verbose": "true",
        "title": "Speed",
        "token": None,
    }
    assert project.template[0].mode == "0640"
    assert project.hooks.pre_switch == Hook(command=["bin/migrate", "--check"], timeout_s=20)
    assert project.hooks.ready == ReadyHook(command=["bin/may-stop"], interval_s=60, longest_postponement_s=3600)
    assert project.service[0].environment == {"PYTHONPATH": "${path.current}/lib"}
    assert (project.health.probation_s, project.health.retries) == (10, 3)
    assert project.health.checks == [
        HttpCheck(url="http://127.0.0.1:${settings.port}/health"),
        TcpCheck(port="8080"),
        CommandCheck(command=["bin/check"]),
    ]
    assert project.python is not None
    assert (project.python.version, project.python.target) == ("3.11", "lib")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MINIMAL + 'vresion = "1"', "unknown key 'vresion' in package; did you mean 'version'?"),
        ("[pakage]", "unknown key 'pakage'; did you mean 'package'?"),
        (
            MINIMAL + "[zzz]",
            "unknown key 'zzz'; known here: health, hooks, package, python, requires, service, settings, template",
        ),
        (MINIMAL + "[helth]", "unknown key 'helth'; did you mean 'health'?"),
        (
            MINIMAL + "[hooks.pre_swich]",
            "unknown key 'pre_swich' in hooks; did you mean 'pre_switch' or 'post_switch'?",
        ),
        (
            MINIMAL + '[hooks.pre_switch]\ncommand = ["x"]\ntimeout = 3',
            "unknown key 'timeout' in hooks.pre_switch; did you mean 'timeout_s'?",
        ),
        (
            MINIMAL + '[[service]]\nname = "a"\ncommand = ["a"]\n[[service]]\nname = "b"\ncomand = ["b"]',
            "unknown key 'comand' in service[1]; did you mean 'command'?",
        ),
        (
            MINIMAL + '[[health.check]]\ntype = "http"\nurl = "http://x"\nstats = [200]',
            "unknown key 'stats' in health.check[0]; did you mean 'status'?",
        ),
        (MINIMAL + "[settings]\nport = { requird = true }", "unknown key 'requird' in settings.port; did you mean"),
        (MINIMAL + '[requires]\npackage = { a = "1" }', "unknown key 'package' in requires; did you mean 'packages'?"),
        (
            '[package]\nname = "a"\nversion = { form = "git" }',
            "unknown key 'form' in package.version; did you mean 'from'?",
        ),
        ('[package]\nversion = "1.0.0"', "package: lacks the key 'name'"),
        ("", "lacks the key 'package'"),
        ('[package]\nname = "Tacho"', "package.name: must be a name: a-z, 0-9 and '-'"),
        ("[package]\nname = 3", "package.name: must be text, not a whole number"),
        (
            '[package]\nname = "a"\nversion = { from = "svn" }',
            "package.version.from: 'svn' is none of file, git, pyproject",
        ),
        (
            '[package]\nname = "a"\nversion = { from = "gitt" }',
            "package.version.from: 'gitt' is none of file, git, pyproject; did you mean git?",
        ),
        (MINIMAL + 'modes = { "*" = "999" }', "package.modes.*: must be text of the form '^0?[0-7]{3}$'"),
        (MINIMAL + 'modes = { "" = "644" }', "a key of package.modes: must be text of at least 1 character"),
        (MINIMAL + '[hooks.pre_switch]\ncommand = "x"', "hooks.pre_switch.command: must be a list, not text"),
        (MINIMAL + "[health]\ninterval_s = 0", "health.interval_s: must be a number >= 0.1"),
        (
            MINIMAL + '[[health.check]]\ntype = "ping"',
            "health.check[0].type: 'ping' is none of command, http, systemd, tcp",
        ),
        (
            MINIMAL + '[[health.check]]\ntype = "htttp"',
            "health.check[0].type: 'htttp' is none of command, http, systemd, tcp; did you mean http?",
        ),
        (
            MINIMAL + '[[service]]\nname = "a"\ncommand = ["a"]\nrestart = "on_failure"',
            "service[0].restart: 'on_failure' is none of always, never, on-failure; did you mean on-failure?",
        ),
        (MINIMAL + "[[health.check]]\ntype = 3", "health.check[0].type: must be text, not a whole number"),
        (MINIMAL + "[settings]\nwhen = 1979-05-27", "settings.*: must be"),
        (MINIMAL + "[settings]\nx = { required = false }", "settings.*.required: Invalid enum value False"),
        (MINIMAL + '[python]\nrequirements = "r"\nversion = "2.7"', "python.version: must be text of the form"),
        ("package = ", "Invalid value"),
        (MINIMAL + 'name = "b"', "Cannot overwrite a value"),
        (MINIMAL + 'description = "open', "Unterminated string"),
        ("a = " + "[" * 5000, "flotilla.toml: "),
    ],
)
def test_what_is_wrong_is_named_on_one_line(text: str, message: str) -> None:
    with pytest.raises(PublisherError) as caught:
        parse_project(text.encode())
    assert caught.value.code == "package.source"
    assert caught.value.message.startswith("flotilla.toml: ")
    assert message in caught.value.message
    assert "\n" not in caught.value.message


def test_a_folder_without_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PublisherError, match=r"has no flotilla\.toml; name the folder that holds flotilla\.toml"):
        read_project(tmp_path)
    with pytest.raises(PublisherError, match=r"there is no folder .*missing"):
        read_project(tmp_path / "missing")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "flotilla.toml").mkdir()
    with pytest.raises(PublisherError, match=r"flotilla\.toml: cannot be read: Is a directory"):
        read_project(tmp_path)


def test_text_that_is_not_utf_8_or_too_long_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "flotilla.toml"
    path.write_bytes(b"\xff")
    with pytest.raises(PublisherError, match=r"flotilla\.toml: 'utf-8' codec"):
        read_project(tmp_path)
    path.write_bytes(b"#" * (MAX_PROJECT_BYTES + 1))
    with pytest.raises(PublisherError, match="is over 1048576 bytes"):
        read_project(tmp_path)
