"""`flotilla-agent run`: the agent, until SIGTERM or SIGINT."""

import argparse
import asyncio
import signal

from device_agent.agent_child import HAND_OVER
from device_agent.app import run_agent
from device_agent.cli.options import config_from
from device_agent.config import AgentConfig
from device_agent.logs import line, logger, set_up_logging
from device_agent.sdnotify import Notifier
from device_agent.self_update import environment_release
from schemas.errors import DeviceError, FlotillaError, one_line


def run(arguments: argparse.Namespace) -> int:
    """Run the agent; returns when it has ended in order.

    Raises:
        FlotillaError: why it could not start or go on.
    """
    config = config_from(arguments)
    set_up_logging(verbose=arguments.verbose, log_format=config.log_format, device=config.id)
    return HAND_OVER if asyncio.run(_until_told(config)) else 0


async def _until_told(config: AgentConfig) -> bool:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        release = environment_release(config.root, config.policy.agent_package)
        return await run_agent(config, stop, Notifier(), release=release)
    except BaseExceptionGroup as group:
        raise _first(group) from group


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Why a group of tasks ended: the error that a person can act on, else the defect as one."""
    leaves = list(_leaves(group))
    known = next((one for one in leaves if isinstance(one, FlotillaError)), None)
    if known is not None:
        return known
    logger().debug(line("defect", repr(leaves[0])), exc_info=leaves[0])
    return DeviceError("internal.error", f"a defect ended the agent: {type(leaves[0]).__name__}: {one_line(leaves[0])}")


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for one in group.exceptions:
        found += _leaves(one) if isinstance(one, BaseExceptionGroup) else [one]
    return found
