"""`flotilla simulate`: a fleet of simulated devices, by the agent's program."""

import os
import subprocess

import click

from controller.demo.processes import program
from schemas.errors import OperatorError

_HELP_S = 60.0
_SAID_BY = "FLOTILLA_SAID_BY"
"""Tells the agent's program which one was called, for its complaints."""


@click.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": [], "allow_interspersed_args": False},
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def simulate(arguments: tuple[str, ...]) -> None:
    """Run N simulated devices on a real broker; the flags are those of `flotilla-agent simulate`."""
    agent = program("flotilla-agent")
    if {"-h", "--help"}.intersection(arguments):
        click.echo(_help(agent))
        return
    # in this process's place, so that Ctrl-C and SIGTERM reach whom they are for
    os.execve(  # noqa: S606  # there is no shell in this
        agent, [agent, "simulate", *arguments], {**os.environ, _SAID_BY: "flotilla"}
    )


def _help(agent: str) -> str:
    """What the agent's program says, as this command's."""
    try:
        said = subprocess.run(
            [agent, "simulate", "--help"], check=True, capture_output=True, text=True, timeout=_HELP_S
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise OperatorError("internal.error", "flotilla-agent does not say how it is used; is it installed?") from error
    return said.replace("usage: flotilla-agent simulate", "Usage: flotilla simulate", 1).rstrip()
