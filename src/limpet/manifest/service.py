"""Service: ports of the device, or of its ingress, for the apps that a selector matches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limpet.manifest.annotations import check_annotation_names
from limpet.manifest.container import read_protocol
from limpet.manifest.metadata import SERVER_SET, parse_labels, parse_metadata
from limpet.manifest.model import Exposure, Service, ServicePort
from limpet.manifest.names import check_label, check_service_name
from limpet.manifest.probes import read_port
from limpet.manifest.problems import shown

if TYPE_CHECKING:
    from limpet.manifest.fields import Fields

_NO_ADDRESSES = "Services have no addresses of their own; apps are reached on the device's"
_REFUSALS = {
    "allocateLoadBalancerNodePorts": "a device opens the ports that are declared",
    "clusterIPs": SERVER_SET,
    "externalIPs": _NO_ADDRESSES,
    "healthCheckNodePort": SERVER_SET,
    "loadBalancerClass": "a device opens LoadBalancer ports itself",
    "loadBalancerIP": _NO_ADDRESSES,
    "loadBalancerSourceRanges": "source addresses are not filtered; use the device's firewall",
    "publishNotReadyAddresses": "an app that is not ready gets no requests",
    "sessionAffinityConfig": "every request may go to any worker",
}


def parse_service(root: Fields) -> Service:
    """A Service; ExternalName and headless ones are refused."""
    metadata = parse_metadata(root.mapping("metadata", required=True), check=check_service_name)
    check_annotation_names(root.report, "Service", metadata)
    spec = root.mapping("spec", required=True)
    exposure = _parse_type(spec)
    is_external = spec.get("type") == "ExternalName"
    selector = parse_labels(spec, "selector")
    if spec.is_present and not spec.get("selector") and not is_external:
        spec.problem("is required: a Service opens ports for the apps it selects", "selector")
    ports = _parse_ports(spec, exposure, is_required=not is_external)
    _check_cluster_ip(spec)
    spec.choice("sessionAffinity", ("None",), default="None")
    for name in ("internalTrafficPolicy", "externalTrafficPolicy"):
        spec.choice(name, ("Cluster", "Local"))
    spec.accept("ipFamilies", "ipFamilyPolicy", "trafficDistribution")
    spec.close(_REFUSALS)
    return Service(
        namespace=metadata.namespace,
        name=metadata.name,
        selector=selector,
        ports=ports,
        exposure=exposure,
        labels=metadata.labels,
        annotations=metadata.annotations,
    )


def _parse_type(spec: Fields) -> Exposure:
    text = spec.text("type")
    spec.accept("externalName")
    if text == "ExternalName":
        spec.problem("names outside the device are resolved by who calls them", "type")
    elif "externalName" in spec:
        spec.problem("belongs to type ExternalName, which is not available", "externalName")
    elif text and text not in set(Exposure):
        spec.problem(f"{shown(text)} is not one of {', '.join(Exposure)}", "type")
    return Exposure(text) if text in set(Exposure) else Exposure.CLUSTER_IP


def _check_cluster_ip(spec: Fields) -> None:
    address = spec.text("clusterIP")
    if address == "None":
        spec.problem("headless Services need a cluster's DNS; leave clusterIP out", "clusterIP")
    elif address:
        spec.problem(SERVER_SET, "clusterIP")


def _parse_ports(spec: Fields, exposure: Exposure, *, is_required: bool) -> tuple[ServicePort, ...]:
    items = spec.mappings("ports", required=is_required)
    if not items and isinstance(spec.get("ports"), list):
        spec.problem("must have at least one port", "ports")
    ports: list[ServicePort] = []
    names: set[str] = set()
    numbers: set[int] = set()
    for fields in items:
        port = _parse_port(fields, exposure, is_name_required=len(items) > 1)
        if port.name and port.name in names:
            fields.problem(f"{shown(port.name)} is there twice", "name")
        if port.port and port.port in numbers:
            fields.problem(f"{port.port} is there twice", "port")
        names.add(port.name)
        numbers.add(port.port)
        ports.append(port)
    return tuple(ports)


def _parse_port(fields: Fields, exposure: Exposure, *, is_name_required: bool) -> ServicePort:
    name = fields.text("name", required=is_name_required, check=_check_optional_label)
    number = fields.integer("port", minimum=1, maximum=65_535, required=True)
    target = read_port(fields, "targetPort")
    node_port = fields.integer("nodePort", maximum=65_535) or None
    if node_port is not None and exposure is Exposure.CLUSTER_IP:
        fields.problem("needs type NodePort or LoadBalancer", "nodePort")
    read_protocol(fields)
    fields.accept("appProtocol")
    fields.close()
    return ServicePort(port=number, target_port=target or number, name=name, node_port=node_port)


def _check_optional_label(text: str) -> str | None:
    return check_label(text) if text else None
