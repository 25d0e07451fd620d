"""The command line: what all commands have in common, and what they say where no controller answers."""

import socket
import subprocess
import sys
from pathlib import Path

import click
import pytest

from controller.cli.main import COMMANDS
from controller.cli.main import flotilla as program
from tests.support.command import flotilla
from tests.support.strange_server import strange_server

NO_ROLLOUT = "0198a1b2-c3d4-7e5f-8a6b-0123456789ab"
CALLS: dict[str, tuple[str, ...]] = {
    "push": (__file__,),
    "packages": (),
    "release": ("tacho", "1.0.0", "--channel", "stable"),
    "publish": (__file__, "--channel", "stable"),
    "export": ("tacho", "1.0.0"),
    "bundles": ("tacho", "1.0.0"),
    "root": (),
    "delete": ("tacho", "1.0.0"),
    "yank": ("tacho", "1.0.0"),
    "withdraw": ("tacho", "--channel", "stable"),
    "import": (__file__, "--root", __file__),
    "gc": (),
    "devices": (),
    "device": ("pi-1",),
    "rollouts": (),
    "rollout": (NO_ROLLOUT,),
    "watch": ("--json",),
    "pause": (NO_ROLLOUT,),
    "resume": (NO_ROLLOUT,),
    "halt": (NO_ROLLOUT,),
    "revert": (NO_ROLLOUT,),
    "ask": ("pi-1", "report"),
    "tell": ("pi-1", "--hold"),
    "forget": ("pi-1",),
    "approve": (NO_ROLLOUT,),
    "cancel": (NO_ROLLOUT,),
    "retry": (NO_ROLLOUT,),
    "top": (),
    "user": ("list",),
    "token": ("list",),
    "audit": (),
}
"""Every command that talks to a controller, with arguments that are fine by themselves."""


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


# What all have in common


@pytest.mark.parametrize("command", ["", *(name for name in COMMANDS if name != "simulate")])
def test_every_command_explains_itself(command: str) -> None:
    done = flotilla(*filter(None, [command]), "--help")
    assert (done.status, done.stderr) == (0, "")
    assert done.text.startswith(f"Usage: flotilla {command}".rstrip())
    assert "Show this message and exit." in done.text
    assert "INTEGER" not in done.text
    assert "..." not in done.text.partition("\n")[2], "a text that is cut off"
    assert max(map(len, done.text.splitlines())) <= 80
    assert flotilla(*filter(None, [command]), "-h").text == done.text


def test_simulate_explains_itself_though_the_agents_program_does_it() -> None:
    done = flotilla("simulate", "--help")
    assert (done.status, done.stderr) == (0, "")
    assert done.text.startswith("Usage: flotilla simulate ")
    assert "--devices" in done.text


def test_without_arguments_it_lists_its_commands_in_the_order_of_the_day() -> None:
    done = flotilla()
    assert (done.status, done.text) == (0, flotilla("--help").text)
    listed = [line.split()[0] for line in done.text.splitlines() if line.startswith("  ") and line[2:3].isalpha()]
    assert [word for word in listed if word in COMMANDS] == list(COMMANDS)
    assert flotilla("repository").text == flotilla("repository", "--help").text


def test_listing_the_commands_loads_none_of_them() -> None:
    for arguments, unwanted in (
        (["--help"], ["rich", "urllib3", "litestar", "sqlalchemy"]),
        (["packages", "--help"], ["litestar", "sqlalchemy", "alembic", "uvicorn", "tuf", "paho"]),
        (["watch", "--help"], ["litestar", "sqlalchemy", "alembic", "uvicorn", "tuf", "paho"]),
        (["publish", "--help"], ["litestar", "sqlalchemy", "alembic", "uvicorn", "tuf", "paho"]),
    ):
        script = (
            "import sys; from controller.cli.main import main; sys.argv = ['flotilla', *sys.argv[1:]]\n"
            "try: main()\nexcept SystemExit: pass\n"
            f"sys.exit(repr([name for name in {unwanted!r} if name in sys.modules]))"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments], check=False, capture_output=True, text=True, timeout=60
        )
        assert done.stderr.strip() == "[]", arguments


def test_it_says_its_version() -> None:
    assert flotilla("--version").text.startswith("flotilla, version ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("fly",), "fly"),
        (("packages", "--nonsense"), "--nonsense"),
        (("release", "tacho", "1.0.0"), "--channel"),
        (("push",), "FILES"),
        (("push", "no-such-file.flotilla"), "no-such-file.flotilla"),
        (("publish", "no-such-folder", "--channel", "stable"), "no-such-folder"),
        (("devices", "--limit", "0"), "--limit"),
        (("export", "tacho", "1.0.0", "--valid-days", "0"), "--valid-days"),
        (("packages", "--since", "yesterday"), "--since"),
        (("packages", "--until", "2026-13-01"), "--until"),
        (("ask", "pi-1", "explode"), "explode"),
    ],
)
def test_wrong_usage_is_one_line(in_folder: Path, arguments: tuple[str, ...], says: str) -> None:
    complaint = flotilla(*arguments).complaint(2)
    assert says in complaint
    assert "--help)" in complaint
    assert list(in_folder.iterdir()) == []


def test_a_group_without_a_command_shows_its_help() -> None:
    context = click.Context(program)
    groups = [name for name in COMMANDS if isinstance(program.get_command(context, name), click.Group)]
    assert {"user", "token", "notify", "repository"} <= set(groups)
    for group in ([], *([name] for name in groups)):
        done = flotilla(*group)
        assert (done.status, done.stderr) == (0, ""), group
        assert done.text == flotilla(*group, "--help").text, group


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("revert", ""), "ROLLOUT is empty"),
        (("rollout", ""), "ID is empty"),
        (("top", ""), "ROLLOUT is empty"),
        (("ask", "", "report"), "DEVICE is empty"),
        (("release", "", "1.0.0", "--channel", "stable"), "NAME is empty"),
    ],
)
def test_an_empty_argument_is_named(in_folder: Path, arguments: tuple[str, ...], says: str) -> None:
    assert says in flotilla(*arguments).complaint()


def test_every_command_that_needs_a_controller_is_known_here() -> None:
    own = {"build", "inspect", "serve", "demo", "repository", "notify", "simulate"}
    assert set(CALLS) == set(COMMANDS) - own


@pytest.mark.parametrize("command", CALLS)
def test_without_a_controller_there_is_one_line(in_folder: Path, command: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    complaint = flotilla(command, *CALLS[command], "--url", f"http://127.0.0.1:{port}").complaint()
    assert f"http://127.0.0.1:{port}" in complaint
    assert "Connection refused" in complaint
    assert "flotilla serve" in complaint
    assert list(in_folder.iterdir()) == []


STRANGE = {
    "a page": b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\nContent-Type: text/html\r\n\r\n<html></html>",
    "other JSON": b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\nContent-Type: application/json\r\n\r\n" + b'{"a": "bcde"}',
    "another place": b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: http://example.com/\r\n\r\n",
    "an error page": b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 7\r\n\r\n<oops/>",
    "half an answer": b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\nContent-Type: application/json\r\n\r\n[",
    "no HTTP": b"220 mail.example.com ESMTP\r\n",
    "nothing": b"",
}


@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.parametrize("command", ["packages", "device", "root", "watch", "release", "push"])
def test_what_is_no_controller_gets_one_line(in_folder: Path, command: str, kind: str) -> None:
    with strange_server(STRANGE[kind]) as url:
        complaint = flotilla(command, *CALLS[command], "--url", url).complaint()
    assert url in complaint
    assert list(in_folder.iterdir()) == []


@pytest.mark.parametrize("url", ["127.0.0.1:8420", "ftp://x", "http://", "http://x:99999", "http://a b", "http://[::1"])
def test_an_address_that_is_none_gets_one_line(url: str) -> None:
    complaint = flotilla("packages", "--url", url).complaint()
    assert "--url" in complaint
