"""The annotation `limpet.dev/egress`: `host:port, host:port/udp, ...` -> rules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limpet.addresses import AddressError, is_own_name, normalise_name, parse_network
from limpet.egress import MAXIMUM_PORT, PROTOCOLS, Block, EgressRule, PortRange
from limpet.manifest.problems import shown

if TYPE_CHECKING:
    from limpet.manifest.annotations import Annotations

MAXIMUM_ENTRIES = 64
MAXIMUM_LENGTH = 8192

_EXAMPLE = "write api.example.com:443, 10.0.0.0/8:443 or [2001:db8::1]:53/udp"


class _EntryError(Exception):
    """An entry can't be used; the message says why."""


def parse_egress(annotations: Annotations) -> tuple[EgressRule, ...]:
    """The rules of an app's own annotation, one for each entry; none without it."""
    text = annotations.get("egress")
    if text is None:
        return ()
    entries = [entry.strip() for entry in text[: MAXIMUM_LENGTH + 1].split(",")]
    if len(text) > MAXIMUM_LENGTH or len(entries) > MAXIMUM_ENTRIES:
        annotations.problem(
            "egress",
            f"is longer than {MAXIMUM_ENTRIES} entries or {MAXIMUM_LENGTH} characters; "
            "use a NetworkPolicy",
        )
        return ()
    rules: list[EgressRule] = []
    for entry in entries:
        try:
            rule = _parse_entry(entry)
        except _EntryError as error:
            annotations.problem("egress", f"{shown(entry)} {error}")
            continue
        if rule in rules:
            annotations.problem("egress", f"{shown(entry)} is there twice")
        rules.append(rule)
    return tuple(rules)


def _parse_entry(entry: str) -> EgressRule:
    if "://" in entry:
        raise _EntryError(f"is a URL; {_EXAMPLE}")
    host, colon, port = entry.rpartition(":")
    if not host or not colon:
        raise _EntryError(f"is not host:port; {_EXAMPLE}")
    ports = (_parse_port(port),)
    if host.startswith("[") and host.endswith("]"):
        return EgressRule(blocks=(_parse_block(host[1:-1], is_bracketed=True),), ports=ports)
    if ":" in host:
        raise _EntryError("has an IPv6 address without brackets; write [2001:db8::1]:443")
    if "/" in host or host.replace(".", "").isdigit():
        return EgressRule(blocks=(_parse_block(host, is_bracketed=False),), ports=ports)
    return EgressRule(names=(_parse_name(host),), ports=ports)


def _parse_port(text: str) -> PortRange:
    number, slash, protocol = text.partition("/")
    if slash and protocol not in PROTOCOLS:
        raise _EntryError("must end in /tcp or /udp, or in its port")
    protocol = protocol or "tcp"
    if number == "*":
        return PortRange(protocol)
    is_number = number.isascii() and number.isdigit() and len(number) <= 5
    if not is_number or not 1 <= int(number) <= MAXIMUM_PORT:
        raise _EntryError(f"needs a port between 1 and {MAXIMUM_PORT}, or * for every port")
    return PortRange(protocol, int(number), int(number))


def _parse_block(text: str, *, is_bracketed: bool) -> Block:
    if is_bracketed and ":" not in text:
        raise _EntryError("has brackets, which are for IPv6 addresses")
    try:
        return Block(parse_network(text))
    except AddressError as error:
        raise _EntryError(f"has a bad address: {error}") from error


def _parse_name(text: str) -> str:
    if text == "*":
        raise _EntryError("names nobody; write 0.0.0.0/0 and [::/0] for every address")
    star = "*." if text.startswith("*.") else ""
    name = normalise_name(text.removeprefix("*."))
    if name is None:
        raise _EntryError(f"has neither a host name nor an address; {_EXAMPLE}")
    if is_own_name(name):
        raise _EntryError("is the device itself, which no name leads to; write 127.0.0.1 and [::1]")
    return star + name
