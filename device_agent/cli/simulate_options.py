"""The flags of `flotilla-agent simulate`; apart from it, so that the agent does not carry the simulator along."""

import argparse
from typing import Final

from schemas.topics import DEFAULT_ROOT

DEFAULT_BROKER: Final = "mqtt://127.0.0.1:1883"

SHARES: Final = {
    "failing": "have every release fail, in one of several ways",
    "slow": "take ten times as long",
    "silent": "take a release and are not heard of again",
    "flapping": "lose their connection again and again",
    "duplicated": "share their id with another device",
}


def add_simulate_options(parser: argparse.ArgumentParser) -> None:
    """The flags of `simulate`."""
    parser.add_argument("--devices", type=int, required=True, metavar="N", help="how many devices")
    parser.add_argument("--broker", default=DEFAULT_BROKER, metavar="URL", help="default: %(default)s")
    parser.add_argument("--username", metavar="NAME", help="who all of them are to the broker")
    parser.add_argument("--password-file", metavar="FILE", help="file with the password in one line")
    parser.add_argument("--ca", metavar="FILE", help="authorities to trust instead of the system's (PEM)")
    parser.add_argument("--topic-root", default=DEFAULT_ROOT, metavar="TOPIC", help="default: %(default)s")
    parser.add_argument("--channel", default="stable", metavar="NAME", help="that they follow (default: %(default)s)")
    parser.add_argument("--prefix", default="sim", metavar="TEXT", help="ids begin with it (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=1, metavar="NUMBER", help="the same one gives the same story (default: %(default)s)"
    )
    parser.add_argument(
        "--pace",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="how long an update takes on average; 0: no longer than it must (default: %(default)g)",
    )
    for kind, text in SHARES.items():
        parser.add_argument(f"--{kind}", default="0", metavar="SHARE", help=f"share that {text}, e.g. 0.05 or 5%%")
    parser.add_argument(
        "--bad-version", action="append", default=[], metavar="VERSION", help="a release that works nowhere; repeatable"
    )
    parser.add_argument("--processes", type=int, metavar="N", help="default: one for 5000 devices, at most the cores")
    parser.add_argument(
        "--connect-rate",
        type=float,
        default=250.0,
        metavar="N",
        help="connections that are begun in a second (default: %(default)g)",
    )
    parser.add_argument("--for", type=float, dest="for_s", metavar="SECONDS", help="end after that; else with Ctrl-C")
    parser.add_argument(
        "--until-settled", action="store_true", help="end when every update that began has had its last word"
    )
    parser.add_argument("--verbose", action="store_true", help="log what each device decides")
