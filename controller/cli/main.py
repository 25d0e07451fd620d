"""The entry point: which commands there are, and what becomes of errors."""

import importlib
import os
import sys
from typing import Final, NoReturn

import click

from schemas.errors import FlotillaError, one_line

COMMANDS: Final[dict[str, str]] = {
    "build": "controller.cli.build:build",
    "inspect": "controller.cli.build:inspect",
    "serve": "controller.cli.serve:serve",
    "push": "controller.cli.packages:push",
    "packages": "controller.cli.packages:packages",
    "release": "controller.cli.releases:release",
    "publish": "controller.cli.releases:publish",
    "export": "controller.cli.packages:export",
    "root": "controller.cli.packages:root",
    "devices": "controller.cli.fleet:devices",
    "device": "controller.cli.fleet:device",
    "rollouts": "controller.cli.fleet:rollouts",
    "rollout": "controller.cli.fleet:rollout",
    "watch": "controller.cli.watch:watch",
    "pause": "controller.cli.operate:pause",
    "resume": "controller.cli.operate:resume",
    "halt": "controller.cli.operate:halt",
    "revert": "controller.cli.operate:revert",
    "ask": "controller.cli.operate:ask",
    "tell": "controller.cli.operate:tell",
    "delete": "controller.cli.operate:delete",
    "repository": "controller.cli.repository:repository",
    "demo": "controller.cli.demo:demo",
}
"""Command to where it is. Loaded when called, so that `flotilla build` needs no web framework."""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of a publisher's day, not of the alphabet."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load the command's module."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="flotilla-ota")
def flotilla() -> None:
    """Build, store and release software for a fleet of Raspberry Pis, and watch it arrive.

    Commands that talk to a controller find it by --url or FLOTILLA_URL.
    """


def main() -> NoReturn:
    """Run the command line; every foreseen error is one line on stderr and exit status 1."""
    try:
        flotilla(standalone_mode=False)
    except click.exceptions.Abort:
        _end("interrupted", 130)
    except click.ClickException as error:
        _end(_usage(error), error.exit_code)
    except FlotillaError as error:
        _end(one_line(error, limit=1000), 1)
    except KeyboardInterrupt:
        _end("interrupted", 130)
    except BrokenPipeError:
        # the reader of our output has gone (`flotilla packages | head`): nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    sys.exit(0)


def _usage(error: click.ClickException) -> str:
    ctx = getattr(error, "ctx", None)
    hint = f" (see {ctx.command_path} --help)" if ctx else ""
    return one_line(error.format_message()) + hint


def _end(line: str, status: int) -> NoReturn:
    click.echo(f"flotilla: {line}", err=True)
    sys.exit(status)
