"""`flotilla simulate`: a fleet of simulated devices, by the agent's program."""

import os

import click

from controller.demo.processes import program


@click.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": [], "allow_interspersed_args": False},
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def simulate(arguments: tuple[str, ...]) -> None:
    """Run N simulated devices on a real broker; the flags are those of `flotilla-agent simulate`."""
    agent = program("flotilla-agent")
    # in this process's place, so that Ctrl-C and SIGTERM reach whom they are for
    os.execv(agent, [agent, "simulate", *arguments])  # noqa: S606  # there is no shell in this
