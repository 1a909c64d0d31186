"""Finds ports that would take each other's place."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import combinations
from typing import NamedTuple

LOOPBACK = {ip_address("127.0.0.1"), ip_address("::1")}
"""What localhost may be."""


class Port(NamedTuple):
    """A port with the address that it is opened at, and its flag."""

    flag: str
    host: str
    number: int


def collision(ports: Iterable[Port]) -> str | None:
    """Returns a message about the first two ports that cannot both be opened, or None."""
    for one, other in combinations(ports, 2):
        if one.number == other.number != 0 and _overlap(one.host, other.host):
            both = f"{one.flag} and {other.flag} are both {one.number}"
            return f"{both}; give one of them another port, or 0 for a free one"
    return None


def _overlap(one: str, other: str) -> bool:
    """Whether both hosts have an address in common, as far as that is known without resolving names."""
    addresses, others = _addresses(one), _addresses(other)
    if any(address.is_unspecified for address in addresses | others):
        return True
    return one == other or bool(addresses & others)


def _addresses(host: str) -> set[IPv4Address | IPv6Address]:
    if host.lower() == "localhost":
        return LOOPBACK
    try:
        return {ip_address(host.strip("[]"))}
    except ValueError:  # another name
        return set()
