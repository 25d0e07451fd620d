"""`flotilla-agent`: the agent itself and what its owner does with it by hand.

Each command's module is imported when it is asked for: a running agent does not carry the others along.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NoReturn

from device_agent.cli.options import add_config_options
from device_agent.cli.simulate_options import add_simulate_options
from device_agent.version import VERSION
from schemas.errors import FlotillaError, one_line

BAD_USAGE = 2
INTERRUPTED = 130

Handler = Callable[[argparse.Namespace], int]


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as everything here does; all the flags are in --help."""

    def error(self, message: str) -> NoReturn:
        """End with that line."""
        self.exit(BAD_USAGE, f"{_program()}: {one_line(message, 1000)} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, 1 for a failure with one line on stderr, or 2 for wrong usage."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["launch"] and not {"-h", "--help"} & set(words):
        # before anything is parsed: the flags are for the agent that it starts, which may be a newer one
        return _launch(words[1:])
    given, strange = _parser().parse_known_args(words)
    if strange:
        # by the command's own parser, whose flags its --help lists
        complain: Callable[[str], NoReturn] = given.complain
        complain(f"unrecognized arguments: {' '.join(strange)}")
    try:
        module, function = given.handler
        handler: Handler = getattr(import_module(f"device_agent.cli.{module}"), function)
        return handler(given)
    except FlotillaError as error:
        sys.stderr.write(f"{_program()}: {one_line(error, 1000)}\n")
        return BAD_USAGE if error.code == "input.bad" else 1
    except BrokenPipeError:
        # whoever read the output has seen enough; nothing more can be written, not even at exit
        sys.stderr.close()
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED


def _program() -> str:
    """Which program was called: `flotilla simulate` is this one under another name."""
    return "flotilla" if os.environ.get("FLOTILLA_SAID_BY") == "flotilla" else "flotilla-agent"


def _launch(arguments: Sequence[str]) -> int:
    from device_agent.cli.launch import launch  # noqa: PLC0415  # as the other commands

    try:
        return launch(arguments)
    except (OSError, RuntimeError, ValueError) as error:
        sys.stderr.write(f"flotilla-agent: cannot become the launcher: {one_line(error)}\n")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=_program(),
        description="Keeps this device's software up to date: hears releases, proves them, goes back.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, module: str, function: str, text: str, *, config: bool = True) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        command.set_defaults(handler=(module, function), complain=command.error)
        if config:
            add_config_options(command)
        return command

    run = add("run", "run", "run", "run the agent until it is told to end (SIGTERM or Ctrl-C)")
    run.add_argument("--verbose", action="store_true", help="log more")

    launch = add("launch", "run", "run", "run the agent below a launcher, so that it can update itself; flags as run's")
    launch.add_argument("--verbose", action="store_true", help="log more")

    status = add("status", "status", "status", "show what is installed and what is going on")
    _add_json(status)

    install = add("install", "local", "install", "install an exported release, without controller and broker")
    install.add_argument("file", metavar="FILE", help="what `flotilla export` wrote")
    _add_json(install)

    rollback = add("rollback", "local", "rollback", "go back to a package's previous release")
    rollback.add_argument("package", metavar="NAME")
    rollback.add_argument("--to", metavar="VERSION", help="a release that is still on the device, not the previous one")
    _add_json(rollback)

    hold = add("hold", "local", "hold", "start no update on this device any more, or let them go on")
    hold.add_argument("state", choices=["on", "off"])
    _add_json(hold)

    check = add(
        "check", "check", "check", "say what is wrong with configuration, broker, repository, trust, disk, clock"
    )
    _add_json(check)

    service = add("install-service", "service", "install_service", "have systemd run the agent from now on")
    service.add_argument("--print", action="store_true", dest="only_print", help="print the unit, change nothing")

    fleet = add("simulate", "simulate", "simulate", "run many simulated devices, to try rollouts on them", config=False)
    add_simulate_options(fleet)
    _add_json(fleet)

    version = add("version", "status", "version", "print the agent's version", config=False)
    _add_json(version)
    parser.add_argument("--version", action="version", version=f"flotilla-agent {VERSION}")
    return parser


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", dest="as_json", help="print JSON")


if __name__ == "__main__":
    sys.exit(main())
