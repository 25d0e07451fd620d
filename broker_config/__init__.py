"""Mosquitto's configurations, and a way to run them: `render` makes a copy, `MosquittoProcess` runs one."""

from broker_config.errors import BrokerError, BrokerFailed, BrokerMissing, BrokerSettings
from broker_config.process import MosquittoProcess, answers, find_mosquitto, free_port
from broker_config.render import ACL_ROOT, acl, render

__all__ = [
    "ACL_ROOT",
    "BrokerError",
    "BrokerFailed",
    "BrokerMissing",
    "BrokerSettings",
    "MosquittoProcess",
    "acl",
    "answers",
    "find_mosquitto",
    "free_port",
    "render",
]
