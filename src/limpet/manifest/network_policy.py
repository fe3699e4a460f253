"""NetworkPolicy: what the apps that a selector matches may connect to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limpet.addresses import AddressError, Network, parse_network
from limpet.egress import EVERY_PORT, MAXIMUM_PORT, Block, EgressRule, PortRange
from limpet.manifest.annotations import check_annotation_names
from limpet.manifest.metadata import parse_metadata
from limpet.manifest.model import LabelSelector, NetworkPolicy
from limpet.manifest.problems import shown
from limpet.manifest.selectors import parse_selector

if TYPE_CHECKING:
    from limpet.manifest.fields import Fields

_NOT_INGRESS = "who may call an app is decided by its ports"
_NO_PODS = "pods have no addresses on a device; write an ipBlock"
_PEER_REFUSALS = {"namespaceSelector": _NO_PODS, "podSelector": _NO_PODS}


def parse_network_policy(root: Fields) -> NetworkPolicy:
    """A policy of type Egress; everything about ingress is refused."""
    metadata = parse_metadata(root.mapping("metadata", required=True))
    check_annotation_names(root.report, "NetworkPolicy", metadata)
    spec = root.mapping("spec", required=True)
    selector = LabelSelector()
    if "podSelector" in spec:
        selector = parse_selector(spec.mapping("podSelector"))
    spec.accept("podSelector")
    _check_types(spec)
    rules = tuple(_parse_rule(fields) for fields in spec.mappings("egress"))
    spec.close({"ingress": f"{_NOT_INGRESS}; leave it out"})
    return NetworkPolicy(
        namespace=metadata.namespace,
        name=metadata.name,
        selector=selector,
        egress=rules,
        labels=metadata.labels,
        annotations=metadata.annotations,
    )


def _check_types(spec: Fields) -> None:
    """Only `[Egress]`: Kubernetes' default always holds Ingress, which would cut off callers there."""
    types = spec.texts("policyTypes")
    if not types and spec.is_present and not spec.items("policyTypes"):
        spec.problem(
            "is required: without it Kubernetes also restricts Ingress, and here "
            f"{_NOT_INGRESS}; write [Egress]",
            "policyTypes",
        )
    for index, name in enumerate(types):
        if name == "Ingress":
            spec.problem(f"Ingress: {_NOT_INGRESS}; write [Egress]", "policyTypes", index)
        elif name != "Egress":
            spec.problem(f"{shown(name)} is not Egress", "policyTypes", index)


def _parse_rule(fields: Fields) -> EgressRule:
    """One rule: without `to` it holds for all destinations, without `ports` for all ports."""
    blocks = tuple(block for peer in fields.mappings("to") if (block := _parse_peer(peer)))
    ports = tuple(found for port in fields.mappings("ports") if (found := _parse_port(port)))
    is_anywhere = not fields.items("to")
    fields.close()
    return EgressRule(blocks=blocks, is_anywhere=is_anywhere, ports=ports or EVERY_PORT)


def _parse_peer(fields: Fields) -> Block | None:
    has_refused = any(name in fields for name in _PEER_REFUSALS)
    block = fields.mapping("ipBlock", required=not has_refused)
    fields.close(_PEER_REFUSALS, is_empty_refused=True)
    network = _read_network(block, block.text("cidr", required=True), "cidr")
    excepted = tuple(
        found
        for index, text in enumerate(block.texts("except"))
        if (found := _read_network(block, text, "except", index))
        and _is_inside(block, found, network, index)
    )
    block.close()
    return Block(network, excepted) if network else None


def _read_network(fields: Fields, text: str, *steps: str | int) -> Network | None:
    if not text:
        return None
    if "/" not in text:
        fields.problem(f"{shown(text)} is not a block like 10.0.0.0/8 or 2001:db8::/32", *steps)
        return None
    try:
        return parse_network(text)
    except AddressError as error:
        fields.problem(str(error), *steps)
        return None


def _is_inside(fields: Fields, found: Network, network: Network | None, index: int) -> bool:
    """Kubernetes' ValidateIPBlock: an exception is a part of the block, and not all of it."""
    if network is not None and (found == network or not network.contains(found)):
        fields.problem(f"{found} is no smaller part of {network}", "except", index)
        return False
    return True


def _parse_port(fields: Fields) -> PortRange | None:
    protocol = fields.text("protocol", default="TCP") or "TCP"
    if protocol not in {"TCP", "UDP"}:
        fields.problem(f"{shown(protocol)}: apps connect over TCP and UDP only", "protocol")
        protocol = "TCP"
    if isinstance(fields.get("port"), str):
        fields.problem("a name means a port of some pod; write its number", "port")
        fields.accept("port", "endPort")
        fields.close()
        return None
    has_port = "port" in fields
    first = fields.integer("port", default=1, minimum=1, maximum=MAXIMUM_PORT)
    last = fields.integer("endPort", default=first, minimum=1, maximum=MAXIMUM_PORT)
    if "endPort" in fields and not has_port:
        fields.problem("has no meaning without port", "endPort")
    elif last < first:
        fields.problem(f"must not be less than port, {first}", "endPort")
    fields.close()
    return PortRange(protocol.lower(), first, last if has_port else MAXIMUM_PORT)
