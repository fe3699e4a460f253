"""IP addresses and networks as numbers, the ranges that no wide rule opens, host names. Pure.

An address can be hidden in another one: `::ffff:127.0.0.1` is IPv4 loopback to the kernel (RFC 4291,
2.5.5.2), and 6to4 (RFC 3056), NAT64 (RFC 6052) and older forms carry an IPv4 address along. Whoever
judges addresses judges the numbers here, never a text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from limpet.errors import InvalidInputError

_BITS = {4: 32, 6: 128}
_TEXT_LENGTH = 64
_ZONE_LENGTH = 15  # IFNAMSIZ without its NUL
_IPV4_BITS = 32

_NAME_LENGTH = 253
_PART = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_NAME = re.compile(rf"{_PART}(?:\.{_PART})*")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


class AddressError(InvalidInputError):
    """A text is no address or network; the message says why and what to write."""

    reason = "InvalidAddress"


@dataclass(frozen=True, slots=True, order=True)
class Network:
    """All addresses of `version` (4 or 6) whose first `prefix` bits are those of `first`."""

    version: int
    first: int
    prefix: int

    def contains(self, other: Network) -> bool:
        """Whether every address of `other` is one of this network."""
        shift = _BITS[self.version] - self.prefix
        return (
            self.version == other.version
            and self.prefix <= other.prefix
            and self.first >> shift == other.first >> shift
        )

    @property
    def is_everything(self) -> bool:
        """Whether this is 0.0.0.0/0 or ::/0."""
        return self.prefix == 0

    @property
    def is_single(self) -> bool:
        """Whether this is one address."""
        return self.prefix == _BITS[self.version]

    @property
    def address(self) -> str:
        """The first address as text (RFC 5952)."""
        from ipaddress import IPv4Address, IPv6Address

        return str(IPv4Address(self.first) if self.version == 4 else IPv6Address(self.first))

    def __str__(self) -> str:
        return f"{self.address}/{self.prefix}"


@dataclass(frozen=True, slots=True)
class Guard:
    """A range that is opened by nothing but a network inside it; `what` it is, in words."""

    network: Network
    what: str


def parse_network(text: str) -> Network:
    """`10.0.0.0/8`, `2001:db8::/32`, or an address alone. Raises `AddressError`.

    IPv4-mapped IPv6 becomes IPv4. Bits beyond the prefix are refused: Kubernetes warns of them.
    """
    address, slash, length = text.partition("/")
    single = _parse(address, has_zone=False)
    if not slash:
        return _unmapped(single)
    bits = _BITS[single.version]
    is_number = length.isascii() and length.isdigit() and len(length) <= 3
    if not is_number or int(length) > bits or length != str(int(length)):
        raise AddressError(f"{_shown(text)} needs a prefix length between 0 and {bits}")
    shift = bits - int(length)
    network = Network(single.version, single.first >> shift << shift, int(length))
    if network.first != single.first:
        raise AddressError(f"{_shown(text)} has bits beyond its prefix; write {network}")
    return _unmapped(network)


def parse_address(text: str) -> Network:
    """One address as a network of its own. Raises `AddressError`.

    A zone (`fe80::1%eth0`) says which link and is left out; IPv4-mapped IPv6 becomes IPv4.
    """
    return _unmapped(_parse(text, has_zone=True))


def other_forms(address: Network) -> tuple[Network, ...]:
    """The address, and the IPv4 address that a NAT64 gateway turns it into (RFC 6052, 2.1)."""
    if not _NAT64.contains(address):
        return (address,)
    return (address, Network(4, address.first & 0xFFFF_FFFF, _IPV4_BITS))


def find_guard(network: Network) -> Guard | None:
    """The narrowest guarded range that holds all of the network."""
    return next((guard for guard in _guards() if guard.network.contains(network)), None)


def normalise_name(text: str) -> str | None:
    """A host name in lower case without its last dot; None for what is none.

    A name whose last part is a number is none either: resolvers take `127.1` and `0x7f000001` for
    addresses (inet_aton(3)).
    """
    if len(text) > _NAME_LENGTH + 1 or not text.isascii():
        return None
    name = text.lower().removesuffix(".")
    if len(name) > _NAME_LENGTH or not _NAME.fullmatch(name):
        return None
    return None if _NUMBER.fullmatch(name.rpartition(".")[2]) else name


def is_own_name(name: str) -> bool:
    """Whether a normalised name always means the device itself (RFC 6761, 6.3)."""
    return name == "localhost" or name.endswith(".localhost")


_MAPPED = Network(6, 0xFFFF << 32, 96)
_NAT64 = Network(6, 0x64FF9B << 96, 96)
_CARRIERS = (
    # Where the 32 bits of an IPv4 address follow the prefix.
    (_NAT64, "NAT64"),
    (Network(6, 0x2002 << 112, 16), "6to4"),
    (Network(6, 0xFFFF << 48, 96), "IPv4-translated"),
)
_GUARDED = {
    # "this host on this network" (RFC 1122, 3.2.1.3): Linux takes 0.0.0.0 for loopback.
    "0.0.0.0/8": "unspecified",
    "127.0.0.0/8": "loopback",
    "169.254.0.0/16": "link-local",
    "224.0.0.0/4": "multicast",
    "255.255.255.255": "broadcast",
    # Where clouds tell a machine its credentials, outside of link-local addresses.
    "100.100.100.200": "cloud metadata",
    "168.63.129.16": "cloud metadata",
    "192.0.0.192": "cloud metadata",
    "fd00:ec2::/32": "cloud metadata",
    "fd20:ce::254": "cloud metadata",
    "::": "unspecified",
    "::1": "loopback",
    "::/96": "IPv4-compatible",
    "fe80::/10": "link-local",
    "fec0::/10": "site-local",
    "ff00::/8": "multicast",
    # The addresses in these can't be told apart from outside.
    "64:ff9b:1::/48": "local NAT64",
    "2001::/32": "Teredo",
}


@cache
def _guards() -> tuple[Guard, ...]:
    """Every guarded range, IPv4's in each form that carries them, narrowest first."""
    guards = [Guard(parse_network(text), what) for text, what in _GUARDED.items()]
    for guard in [guard for guard in guards if guard.network.version == 4]:
        for carrier, form in _CARRIERS:
            shift = _BITS[6] - carrier.prefix - _IPV4_BITS
            first = carrier.first | guard.network.first << shift
            network = Network(6, first, carrier.prefix + guard.network.prefix)
            guards.append(Guard(network, f"{guard.what} as {form}"))
    return tuple(sorted(guards, key=lambda guard: -guard.network.prefix))


def _parse(text: str, *, has_zone: bool) -> Network:
    from ipaddress import AddressValueError, IPv4Address, IPv6Address

    address, percent, zone = text.partition("%")
    is_zone_good = 0 < len(zone) <= _ZONE_LENGTH and zone.isprintable() and "%" not in zone
    if percent and not (has_zone and ":" in address and is_zone_good):
        raise AddressError(f"{_shown(text)} has a zone, which has no meaning here")
    try:
        if len(address) > _TEXT_LENGTH:
            raise AddressValueError("too long")
        if ":" in address:
            return Network(6, int(IPv6Address(address)), 128)
        return Network(4, int(IPv4Address(address)), 32)
    except AddressValueError:
        raise AddressError(f"{_shown(text)} is not an IP address") from None


def _unmapped(network: Network) -> Network:
    if not _MAPPED.contains(network):
        return network
    return Network(4, network.first & 0xFFFF_FFFF, network.prefix - _MAPPED.prefix)


def _shown(text: str) -> str:
    cut = text if len(text) <= _TEXT_LENGTH else text[: _TEXT_LENGTH - 3] + "..."
    return ascii(cut)
