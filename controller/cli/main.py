"""The entry point: which commands there are, and what becomes of errors."""

import difflib
import gc
import importlib
import os
import re
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Final, NamedTuple, NoReturn

import click

from controller.meant import did_you_mean
from schemas.errors import FlotillaError, one_line


class Entry(NamedTuple):
    """Where a command is, and what the list of commands says about it."""

    where: str
    help: str


SECTIONS: Final[dict[str, dict[str, Entry]]] = {
    "Publish": {
        "build": Entry("controller.cli.build:build", "Build a package file from a folder with flotilla.toml."),
        "inspect": Entry("controller.cli.build:inspect", "Say what is in a package or an exported release."),
        "push": Entry("controller.cli.packages:push", "Store package files in the repository and sign them."),
        "release": Entry("controller.cli.releases:release", "Announce a stored version to a channel."),
        "publish": Entry("controller.cli.releases:publish", "Build, push and release in one."),
        "packages": Entry("controller.cli.packages:packages", "List what the repository holds."),
        "bundles": Entry("controller.cli.bundles:bundles", "Show what devices can fetch a version by, and its cost."),
        "export": Entry(
            "controller.cli.moving:export", "Write releases into one file, for devices or sites without network."
        ),
        "import": Entry("controller.cli.moving:import_site", "Take in releases that another controller exported."),
        "root": Entry("controller.cli.packages:root", "Write the trusted root file that agents start from."),
        "yank": Entry("controller.cli.withdrawing:yank", "Let a stored version be chosen no more, or again."),
        "delete": Entry("controller.cli.operate:delete", "Withdraw a version from the repository."),
    },
    "See": {
        "devices": Entry("controller.cli.fleet:devices", "List the devices."),
        "device": Entry("controller.cli.fleet:device", "Show one device: what it runs, and its newest events."),
        "rollouts": Entry("controller.cli.fleet:rollouts", "List the rollouts, newest first."),
        "rollout": Entry("controller.cli.fleet:rollout", "Show one rollout: every device's verdict, and failures."),
        "audit": Entry("controller.cli.accounts:audit", "Show who changed what."),
        "watch": Entry("controller.cli.watch:watch", "Show what devices report, live."),
        "top": Entry("controller.cli.top:top", "Show how the newest rollouts stand, wave by wave, live."),
    },
    "Steer": {
        "pause": Entry("controller.cli.operate:pause", "Let no further device start a rollout."),
        "resume": Entry(
            "controller.cli.operate:resume",
            "Go on with a rollout that was paused or halted; what went wrong is accepted.",
        ),
        "approve": Entry("controller.cli.operate:approve", "Say go to a rollout's next wave."),
        "halt": Entry("controller.cli.operate:halt", "Stop a rollout where devices have not switched yet."),
        "cancel": Entry("controller.cli.stopping:cancel", "Ask one device of a rollout, or all, to stop."),
        "retry": Entry("controller.cli.stopping:retry", "Have what failed in a rollout tried again."),
        "revert": Entry("controller.cli.reverting:revert", "Send back every device that took a rollout's release."),
        "withdraw": Entry("controller.cli.withdrawing:withdraw", "Announce a package on a channel no more."),
        "ask": Entry("controller.cli.operate:ask", "Ask one device to report, check, retry, cancel or roll back."),
        "forget": Entry("controller.cli.operate:forget", "Forget a device that is gone for good."),
        "tell": Entry("controller.cli.operate:tell", "Tell one device its channel, tags, pins, or to hold."),
    },
    "Run": {
        "serve": Entry("controller.cli.serve:serve", "Run the controller."),
        "user": Entry("controller.cli.accounts:user", "Look after the accounts of people."),
        "token": Entry("controller.cli.accounts:token", "Look after the tokens of machines."),
        "gc": Entry("controller.cli.gc:gc", "Remove old releases that nothing needs; first shows which."),
        "repository": Entry("controller.cli.repository:repository", "Verify, measure and tidy up a data folder."),
        "notify": Entry("controller.cli.notify:notify", "Try whether notifications arrive."),
        "simulate": Entry("controller.cli.simulate:simulate", "Run many simulated devices, to try rollouts on them."),
        "demo": Entry("controller.cli.demo:demo", "See a fleet update, break and heal itself, on this machine."),
    },
}
"""In the order of a publisher's and an operator's day, not of the alphabet. A command's module is loaded when it is
called, so that `flotilla build` needs no web framework."""

COMMANDS: Final = {name: entry for section in SECTIONS.values() for name, entry in section.items()}


_UNITS: Final = {"DAYS": "days", "SECONDS": "seconds"}
"""What a number counts, by how the option's value is called in its help."""

_GIVEN: Final = re.compile(r"(.*) is not (?:a valid|in the range)", re.DOTALL)
_QUOTE: Final = "'"

_COMMON: Final = "devices"
"""Has the options that most commands have."""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the sections."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load the command's module."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].where.partition(":")
        command: click.Command = getattr(_load(module), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Say what was probably meant by what is no command."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, n=2)
            ctx.fail(f"there is no command {one_line(args[0], 60)!r}{did_you_mean(near)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """By section, without loading any of them."""
        del ctx
        for title, section in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(10), entry.help) for name, entry in section.items()])


def _load(module: str) -> ModuleType:
    """Import a module, and have the garbage collector leave alone what that makes.

    All of it stays as long as the process. Measured: looking through it time and again, in vain, took a seventh of the
    processor time in which `flotilla serve` is loaded.
    """
    if module in sys.modules:
        return sys.modules[module]
    gc.disable()
    try:
        return importlib.import_module(module)
    finally:
        gc.freeze()
        gc.enable()


@click.group(
    cls=_Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(package_name="flotilla-ota")
@click.pass_context
def flotilla(ctx: click.Context) -> None:
    """Build, store and release software for a fleet of Raspberry Pis, and watch it arrive.

    Commands that talk to a controller find it by --url or FLOTILLA_URL.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main() -> NoReturn:
    """Run the command line; every foreseen error is one line on stderr and exit status 1."""
    try:
        flotilla(standalone_mode=False)
    except click.exceptions.Abort:
        _end("interrupted", 130)
    except click.NoSuchOption as error:
        _end(_misplaced(error, sys.argv[1:]) or _of_release(error) or _usage(error), error.exit_code)
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
    return (_of_number(error) or one_line(error.format_message()).rstrip(".")) + hint


def _of_number(error: click.ClickException) -> str | None:
    """What an option wants that takes a number within limits; None for anything else that is wrong."""
    option = error.param if isinstance(error, click.BadParameter) else None
    kind = option.type if option is not None else None
    if option is None or not isinstance(kind, click.IntRange | click.FloatRange):
        return None
    wanted = "a whole number" if isinstance(kind, click.IntRange) else "a number"
    if unit := _UNITS.get(option.metavar or ""):
        wanted += f" of {unit}"
    if kind.min is not None:
        wanted += f" {'over' if kind.min_open else 'from'} {kind.min:.15g}"
    if kind.max is not None:
        wanted += f" up to {kind.max:.15g}"
    given = _GIVEN.match(error.message)
    is_none = f"{one_line(given[1].strip(_QUOTE), 60)!r} is none" if given else "what is given is none"
    return f"{option.opts[0]} takes {wanted}; {is_none}"


def _misplaced(error: click.NoSuchOption, arguments: Sequence[str]) -> str | None:
    """Where an option goes that was given before the command that has it, or without one; None where it is none."""
    ctx, name = error.ctx, error.option_name
    if ctx is None or not isinstance(ctx.command, click.Group):
        return None
    words = [word.partition("=")[0] for word in arguments]
    at = words.index(name) if name in words else len(words)
    for start in range(at + 1, len(words)):
        command: click.Command = ctx.command
        path = [ctx.command_path]
        for word in words[start:]:
            below = command.get_command(ctx, word) if isinstance(command, click.Group) else None
            if below is None:
                break
            command = below
            path.append(word)
        if command.context_settings.get("ignore_unknown_options"):
            # another program knows whether that is one of its options
            return f"{name} goes after the command: {' '.join([*path, name])}"
        taken = _taken(command, name, ctx)
        if len(taken) > 1 and start == at + 1 and arguments[at] == name:
            continue  # that is the option's value, which only looks like a command
        if taken:
            return f"{name} goes after the command: {' '.join([*path, *taken])}"
    common = ctx.command.get_command(ctx, _COMMON) if ctx.parent is None else None
    taken = _taken(common, name, ctx) if common is not None else []
    return f"{name} goes after a command, as in: {' '.join([ctx.command_path, _COMMON, *taken])}" if taken else None


def _of_release(error: click.NoSuchOption) -> str | None:
    """What to type where `publish` was given an option of `release` that it lacks; None for anything else."""
    ctx, name = error.ctx, error.option_name
    if ctx is None or ctx.parent is None or ctx.info_name != "publish":
        return None
    release = flotilla.get_command(ctx.parent, "release")
    taken = _taken(release, name, ctx) if release is not None else []
    if not taken:
        return None
    then = " ".join(["flotilla release NAME VERSION --channel CHANNEL", *taken])
    return f"{name} is an option of release; build and push the package first, then: {then}"


def _taken(command: click.Command, name: str, ctx: click.Context) -> list[str]:
    """How a command takes an option: `--url URL`, or `--json`; nothing where it has none of this name."""
    for option in command.params:
        if isinstance(option, click.Option) and name in (*option.opts, *option.secondary_opts):
            return [name] if option.is_flag or option.count else [name, option.make_metavar(ctx)]
    return []


def _end(line: str, status: int) -> NoReturn:
    click.echo(f"flotilla: {line}", err=True)
    sys.exit(status)
