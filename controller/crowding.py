"""How many connections one client address may have: none keeps all others out by opening all that there can be.

A whole site may come from one address, and each of its agents fetches over three connections. So there is room for
more than a thousand agents at once, where the system lets this process open as many files as it would like to.
"""

import contextlib
import ipaddress
import logging
import resource
from collections import Counter
from collections.abc import Iterable
from typing import Final

from controller.logs import told

OPEN_FILES: Final = 16_384
"""As many as this process would like to open. What is usual, 1024, is for programs that wait with `select`."""
OWN_FILES: Final = 128
"""Of the database, the broker's connection and the like."""
TELL_EVERY_S: Final = 60.0
LOOPBACK: Final = ("127.0.0.0/8", "::1")
_SITE: Final = 64
"""Leading bits of an IPv6 address that a provider gives to one customer, who has all addresses below."""

log = logging.getLogger("flotilla.http")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Crowd:
    """For one event loop.

    Args:
        most: connections of one address at a time.
        spared: addresses and networks that may have any number; `*` is everybody. Others come through them.
    """

    def __init__(self, most: int, spared: Iterable[str]) -> None:
        self._most = most
        self._spared = [network for text in spared for network in _networks(text)]
        self._there: Counter[Network] = Counter()
        self._tell_at = 0.0
        self._untold = 0

    def site_of(self, host: str | None) -> Network | None:
        """What is counted for a client: its address, or of IPv6 its network; None for one that may come as it likes."""
        address = _address(host)
        if address is None or any(address in network for network in self._spared):
            return None
        bits = _SITE if address.version == 6 else 32
        return ipaddress.ip_network((address, bits), strict=False)

    def enter(self, site: Network | None, now: float) -> bool:
        """Count a connection in; False, and not counted, where there are as many as may be.

        Args:
            site: see `site_of`.
            now: seconds on a steady clock.
        """
        if site is None:
            return True
        if self._there[site] < self._most:
            self._there[site] += 1
            return True
        self._untold += 1
        if now >= self._tell_at:
            self._tell(site)
            self._tell_at, self._untold = now + TELL_EVERY_S, 0
        return False

    def leave(self, site: Network | None) -> None:
        """One that had come in has gone."""
        if site is not None:
            self._there[site] -= 1
            if not self._there[site]:
                del self._there[site]

    def _tell(self, site: Network) -> None:
        client = str(site.network_address) if site.version == 4 else str(site)
        line = "%s has %d connections, more are closed at once (%d since the last such line); LimitNOFILE= allows more"
        extra = told("connections", client=client, refused=self._untold)
        log.warning(line, client, self._most, self._untold, extra=extra)


def most_of_one() -> int:
    """Connections that one address may have: with a file that is sent on each, half of what may be open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max((soft - OWN_FILES) // 4, 1) if soft != resource.RLIM_INFINITY else OPEN_FILES // 4


def open_more_files() -> None:
    """Let this process, and those that it starts, have `OPEN_FILES` open, or as many as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _address(host: str | None) -> Address | None:
    try:
        address = ipaddress.ip_address(host or "")
    except ValueError:
        return None  # a socket of this machine
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _networks(text: str) -> list[Network]:
    if text == "*":
        return [ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")]
    try:
        return [ipaddress.ip_network(text, strict=False)]
    except ValueError:
        return []  # a name, which nobody comes by
