"""What an app may connect to: one place that decides, for the agent that connects in its name. Pure.

A worker has no network. It asks for a host and a port, the agent looks the host up and connects, and
this module is asked twice: `may_ask` before anything is looked up, `allows_address` for each address
that the agent is about to connect to. Nothing is allowed that no rule allows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from limpet.addresses import (
    AddressError,
    find_guard,
    is_own_name,
    normalise_name,
    other_forms,
    parse_address,
    parse_network,
)
from limpet.errors import InvalidInputError

if TYPE_CHECKING:
    from limpet.addresses import Network

_T = TypeVar("_T")

PROTOCOLS = ("tcp", "udp")
MAXIMUM_PORT = 65_535
LOOKUP_PORT = 53

_CURE = "add it to the annotation limpet.dev/egress or to a NetworkPolicy"


class EgressError(InvalidInputError):
    """A policy's plain form is malformed."""

    reason = "InvalidEgress"


@dataclass(frozen=True, slots=True)
class Decision:
    """An answer, true when allowed; `reason` names the rule, or says what is missing."""

    allowed: bool
    reason: str

    def __bool__(self) -> bool:
        return self.allowed


@dataclass(frozen=True, slots=True)
class PortRange:
    """Ports `first` to `last`, both included, of `protocol` (tcp or udp)."""

    protocol: str
    first: int = 1
    last: int = MAXIMUM_PORT

    def contains(self, port: int, protocol: str) -> bool:
        """Whether the port is one of these."""
        return protocol == self.protocol and self.first <= port <= self.last

    def __str__(self) -> str:
        if (self.first, self.last) == (1, MAXIMUM_PORT):
            return f"*/{self.protocol}"
        span = str(self.first) if self.first == self.last else f"{self.first}-{self.last}"
        return f"{span}/{self.protocol}"


EVERY_PORT = tuple(PortRange(protocol) for protocol in PROTOCOLS)


@dataclass(frozen=True, slots=True)
class Block:
    """The addresses of `network` without those of `excepted` (NetworkPolicy's ipBlock)."""

    network: Network
    excepted: tuple[Network, ...] = ()

    def contains(self, address: Network) -> bool:
        """Whether the address is one of these, guarded or not."""
        return self.network.contains(address) and not any(
            network.contains(address) for network in self.excepted
        )

    def __str__(self) -> str:
        text = self.network.address if self.network.is_single else str(self.network)
        left_out = ", ".join(str(network) for network in self.excepted)
        return f"{text} except {left_out}" if left_out else text


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressRule:
    """Destinations, each with every one of `ports`. Without destinations it allows nothing.

    `names` are lower-case host names, or `*.` and one for all names below it, however many labels.
    `is_anywhere` stands for every name and every address that is not guarded.
    """

    names: tuple[str, ...] = ()
    blocks: tuple[Block, ...] = ()
    is_anywhere: bool = False
    ports: tuple[PortRange, ...] = EVERY_PORT

    def has_port(self, port: int, protocol: str) -> bool:
        """Whether the rule is about this port."""
        return any(ports.contains(port, protocol) for ports in self.ports)

    def has_name(self, name: str) -> bool:
        """Whether the rule names this normalised name."""
        return any(
            name.endswith(known[1:]) if known.startswith("*.") else name == known
            for known in self.names
        )

    @property
    def is_wide(self) -> bool:
        """Whether the rule reaches about every address there is, of IPv4 or of IPv6."""
        return self.is_anywhere or any(block.network.is_everything for block in self.blocks)

    def has_address(self, address: Network) -> bool:
        """Whether the rule reaches this address: a guarded one only by a block inside its range."""
        matches = [
            (form, block)
            for form in other_forms(address)
            for block in self.blocks
            if block.contains(form)
        ]
        if not matches and not self.is_anywhere:
            return False
        if find_guard(address) is None:
            return True
        return any(_is_opened(form, block) for form, block in matches)

    def __str__(self) -> str:
        where = ["anywhere"] if self.is_anywhere else [*self.names, *map(str, self.blocks)]
        where = where or ["nothing"]
        ports = "every port" if self.ports == EVERY_PORT else ", ".join(map(str, self.ports))
        return f"{', '.join(where)}: {ports}"


@dataclass(frozen=True, slots=True)
class EgressPolicy:
    """All that an app may connect to: what any of the rules allows, and nothing else."""

    rules: tuple[EgressRule, ...] = ()

    def may_ask(self, host: str, port: int, protocol: str) -> Decision:
        """Whether to go on with a request for `host`, a name or an address literal.

        A name that no rule names may be looked up by an app that reaches every address on that port,
        and by one that has a rule for port 53, as lookups need it in Kubernetes: other apps would
        tell the world secrets in the names that they ask for.
        """
        asked = f"{_shown(host)} port {port}/{protocol}"
        if not _is_port(port, protocol):
            return Decision(False, f"{asked} is no port that an app can connect to")
        address = _address_of(host)
        if address is not None:
            return self._decide_literal(address, port, protocol, asked)
        name = normalise_name(host)
        if name is None:
            return Decision(False, f"{_shown(host)} is neither a host name nor an address")
        if is_own_name(name):
            return Decision(False, f"{name} is the device itself; ask for 127.0.0.1")
        rules = self._rules_for(port, protocol)
        for rule in rules:
            if rule.is_wide or rule.has_name(name):
                return Decision(True, f"{asked} is allowed by {rule}")
        if self._has_lookups and any(rule.blocks for rule in rules):
            return Decision(
                True, f"{asked} may be looked up: there is a rule for port {LOOKUP_PORT}"
            )
        return _refusal(asked)

    def may_resolve(self, host: str) -> Decision:
        """Whether to look a name up for an app that has not said what for.

        As in `may_ask`: the name is one that a rule names, or the app may ask for any.
        """
        name = normalise_name(host)
        if name is None:
            return Decision(False, f"{_shown(host)} is not a host name")
        if is_own_name(name):
            return Decision(False, f"{name} is the device itself; ask for 127.0.0.1")
        for rule in self.rules:
            if rule.is_wide or rule.has_name(name):
                return Decision(True, f"{name} is allowed by {rule}")
        if self._has_lookups:
            return Decision(
                True, f"{name} may be looked up: there is a rule for port {LOOKUP_PORT}"
            )
        return _refusal(name)

    def allows_address(
        self, address: str, port: int, protocol: str, *, asked_name: str | None
    ) -> Decision:
        """Whether to connect to `address`, to which `asked_name` was resolved.

        Without a name the app asked for the address itself. A name never leads to a guarded address,
        whatever the rules say: whoever owns the name would pick what on this device is reached.
        """
        asked = f"{_shown(address)} port {port}/{protocol}"
        found = _address_of(address)
        if found is None or not _is_port(port, protocol):
            return Decision(False, f"{asked} is nothing that an app can connect to")
        if asked_name is None or _address_of(asked_name) is not None:
            return self._decide_literal(found, port, protocol, asked)
        asked = f"{_shown(asked_name)}, which is {asked},"
        guard = find_guard(found)
        if guard is not None:
            return Decision(
                False,
                f"{asked} is refused: no name may lead to {guard.network} ({guard.what}); "
                "ask for the address and allow it by itself",
            )
        name = normalise_name(asked_name)
        for rule in self._rules_for(port, protocol):
            if rule.has_address(found) or (name is not None and rule.has_name(name)):
                return Decision(True, f"{asked} is allowed by {rule}")
        return _refusal(asked)

    def lines(self) -> tuple[str, ...]:
        """The rules for people."""
        return tuple(str(rule) for rule in self.rules)

    def plain(self) -> dict[str, object]:
        """The policy in JSON's types; `from_plain` reads it."""
        return {"rules": [_plain_rule(rule) for rule in self.rules]}

    @classmethod
    def from_plain(cls, plain: object) -> EgressPolicy:
        """What `plain` wrote. Raises `EgressError`."""
        rules = _typed(_typed(plain, dict).get("rules"), list)
        return cls(tuple(_read_rule(_typed(rule, dict)) for rule in rules))

    @property
    def _has_lookups(self) -> bool:
        return any(self._rules_for(LOOKUP_PORT, protocol) for protocol in PROTOCOLS)

    def _rules_for(self, port: int, protocol: str) -> list[EgressRule]:
        return [rule for rule in self.rules if rule.has_port(port, protocol)]

    def _decide_literal(self, address: Network, port: int, protocol: str, asked: str) -> Decision:
        for rule in self._rules_for(port, protocol):
            if rule.has_address(address):
                return Decision(True, f"{asked} is allowed by {rule}")
        guard = find_guard(address)
        if guard is None:
            return _refusal(asked)
        return Decision(
            False,
            f"{asked} is in {guard.network} ({guard.what}), which only a rule for an address or "
            f"a block inside it opens; {_CURE}",
        )


def _is_opened(form: Network, block: Block) -> bool:
    """Whether a block that holds a guarded address lies inside the range that guards it."""
    guard = find_guard(form)
    return guard is not None and guard.network.contains(block.network)


def _is_port(port: int, protocol: str) -> bool:
    return protocol in PROTOCOLS and 1 <= port <= MAXIMUM_PORT


def _address_of(host: str) -> Network | None:
    try:
        return parse_address(host)
    except AddressError:
        return None


def _refusal(asked: str) -> Decision:
    return Decision(False, f"{asked} is in none of the app's egress rules; {_CURE}")


def _shown(host: str) -> str:
    return host if host.isascii() and host.isprintable() and len(host) <= 255 else ascii(host[:64])


def _plain_rule(rule: EgressRule) -> dict[str, object]:
    return {
        "names": list(rule.names),
        "blocks": [
            {"cidr": str(block.network), "except": [str(network) for network in block.excepted]}
            for block in rule.blocks
        ],
        "anywhere": rule.is_anywhere,
        "ports": [
            {"protocol": ports.protocol, "first": ports.first, "last": ports.last}
            for ports in rule.ports
        ],
    }


def _read_rule(plain: dict[object, object]) -> EgressRule:
    return EgressRule(
        names=tuple(_typed(name, str) for name in _typed(plain.get("names"), list)),
        blocks=tuple(
            _read_block(_typed(block, dict)) for block in _typed(plain.get("blocks"), list)
        ),
        is_anywhere=_typed(plain.get("anywhere"), bool),
        ports=tuple(_read_ports(_typed(ports, dict)) for ports in _typed(plain.get("ports"), list)),
    )


def _read_block(plain: dict[object, object]) -> Block:
    try:
        return Block(
            parse_network(_typed(plain.get("cidr"), str)),
            tuple(parse_network(_typed(text, str)) for text in _typed(plain.get("except"), list)),
        )
    except AddressError as error:
        raise EgressError(f"a stored egress policy is malformed: {error}") from error


def _read_ports(plain: dict[object, object]) -> PortRange:
    ports = PortRange(
        _typed(plain.get("protocol"), str),
        _typed(plain.get("first"), int),
        _typed(plain.get("last"), int),
    )
    if not (_is_port(ports.first, ports.protocol) and _is_port(ports.last, ports.protocol)):
        raise EgressError(f"a stored egress policy is malformed: {ports} is no port")
    return ports


def _typed(value: object, kind: type[_T]) -> _T:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise EgressError(
            f"a stored egress policy is malformed: {kind.__name__} expected, "
            f"not {type(value).__name__}"
        )
    return value
