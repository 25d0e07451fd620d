"""How often somebody may try to log in: pure arithmetic over the time that is passed in, in bounded memory.

Each of three counts lets a number of tries through at once and then one in each interval (the generic cell rate
algorithm, ITU-T I.371): for one account from one address, for one address whatever the account, and for one account
from wherever. The first stops guessing without locking the account's owner out elsewhere; the last bounds many
addresses that guess together.
"""

import hashlib
import ipaddress
from collections import OrderedDict
from typing import Final, NamedTuple

MAX_COUNTS: Final = 30_000
"""Some 5 MB. Whoever is longest without a failed try is forgotten first."""


class Limit(NamedTuple):
    """So many tries at once, and then one in each interval of so many seconds."""

    tries: int
    every_s: float


PAIR: Final = Limit(5, 60.0)
ADDRESS: Final = Limit(20, 30.0)
ACCOUNT: Final = Limit(100, 30.0)


_ROUNDING_S: Final = 1e-6
"""Sums of seconds are exact to far less than this; nobody is refused for it."""


class LoginThrottle:
    """Counts tries that failed. Not safe across threads: the caller takes turns.

    Args:
        max_counts: how many counts are remembered.
    """

    def __init__(self, *, max_counts: int = MAX_COUNTS) -> None:
        self._max = max_counts
        self._free_at: OrderedDict[bytes, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._free_at)

    def admit(self, account: str, address: str, now: float) -> float:
        """Count a try as failed in advance, so that many at once don't slip through; 0, or seconds to wait first.

        Args:
            account: as it was typed.
            address: the client's; of IPv6 its network of 64 bits counts.
            now: seconds of a clock that only goes forward.
        """
        counts = _counts(account, address)
        wait_s = max(self._wait_s(key, limit, now) for key, limit in counts)
        if wait_s <= _ROUNDING_S:
            for key, limit in counts:
                self._free_at[key] = max(now, self._free_at.get(key, now)) + limit.every_s
                self._free_at.move_to_end(key)
            while len(self._free_at) > self._max:
                self._free_at.popitem(last=False)
            return 0.0
        return wait_s

    def succeeded(self, account: str, address: str) -> None:
        """The try that was admitted was right: forget what this account had here, and take it back elsewhere."""
        (pair, _), *others = _counts(account, address)
        self._free_at.pop(pair, None)
        for key, limit in others:
            if key in self._free_at:
                self._free_at[key] -= limit.every_s

    def _wait_s(self, key: bytes, limit: Limit, now: float) -> float:
        return self._free_at.get(key, now) - now - (limit.tries - 1) * limit.every_s


def network_of(address: str) -> str:
    """The part of an address that one client has for itself: all of IPv4, 64 bits of IPv6."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, 64), strict=False))


def _counts(account: str, address: str) -> list[tuple[bytes, Limit]]:
    network = network_of(address)
    return [
        (_key("pair", account, network), PAIR),
        (_key("address", network), ADDRESS),
        (_key("account", account), ACCOUNT),
    ]


def _key(*parts: str) -> bytes:
    # of one size, whatever a client sends
    return hashlib.blake2b("\0".join(parts).encode(errors="replace"), digest_size=16).digest()
