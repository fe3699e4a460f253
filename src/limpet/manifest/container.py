"""Container: the one module of an app, its arguments, ports, limits and probes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from limpet.manifest.annotations import is_listen_address
from limpet.manifest.environment import parse_environment, parse_environment_sources
from limpet.manifest.model import ContainerPort, ModuleSource
from limpet.manifest.module_source import ModuleSourceError, parse_module_source
from limpet.manifest.names import check_label, check_port_name
from limpet.manifest.probes import parse_probe
from limpet.manifest.problems import shown
from limpet.manifest.resources import parse_resources
from limpet.manifest.security import parse_container_security
from limpet.manifest.volumes import parse_mounts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limpet.manifest.fields import Fields
    from limpet.manifest.model import EnvFrom, EnvVar, Mount, Probe
    from limpet.manifest.resources import Limits
    from limpet.manifest.volumes import Volume

_NO_TERMINAL = "a module has no terminal and reads no input"
_REFUSALS = {
    "lifecycle": "hooks need a process to start in; a module has none",
    "resizePolicy": "limits change by starting the app again",
    "restartPolicy": "belongs to the pod: one container per app so far",
    "restartPolicyRules": "the pod's restartPolicy decides alone",
    "stdin": _NO_TERMINAL,
    "stdinOnce": _NO_TERMINAL,
    "tty": _NO_TERMINAL,
    "volumeDevices": "block devices are not given to a module; use volumeMounts",
    "workingDir": "a module has no working directory; use absolute paths",
}
_PLACEHOLDER = ModuleSource(scheme="file", location="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """The parts of an `App` that a container declares."""

    name: str
    source: ModuleSource
    pull_policy: str
    command: tuple[str, ...]
    args: tuple[str, ...]
    env: tuple[EnvVar, ...]
    env_from: tuple[EnvFrom, ...]
    ports: tuple[ContainerPort, ...]
    mounts: tuple[Mount, ...]
    limits: Limits
    capabilities: tuple[str, ...]
    readiness: Probe | None
    liveness: Probe | None
    startup: Probe | None


def parse_container(fields: Fields, volumes: Mapping[str, Volume]) -> Container:
    """A container whose mounts refer to the pod's `volumes`."""
    ports = _parse_ports(fields)
    port_names = {port.name for port in ports if port.name}
    container = Container(
        name=fields.text("name", required=True, check=check_label),
        source=_parse_image(fields),
        pull_policy=fields.choice("imagePullPolicy", ("Always", "IfNotPresent", "Never")),
        command=fields.texts("command"),
        args=fields.texts("args"),
        env=parse_environment(fields),
        env_from=parse_environment_sources(fields),
        ports=ports,
        mounts=parse_mounts(fields, volumes),
        limits=parse_resources(fields.mapping("resources")),
        capabilities=parse_container_security(fields.mapping("securityContext")),
        readiness=parse_probe(fields, "readinessProbe", port_names),
        liveness=parse_probe(fields, "livenessProbe", port_names),
        startup=parse_probe(fields, "startupProbe", port_names),
    )
    fields.accept("terminationMessagePath", "terminationMessagePolicy")
    fields.close(_REFUSALS)
    return container


def _parse_image(fields: Fields) -> ModuleSource:
    image = fields.text("image", required=True)
    if not image:
        return _PLACEHOLDER
    try:
        return parse_module_source(image)
    except ModuleSourceError as error:
        fields.problem(str(error), "image")
        return _PLACEHOLDER


def _parse_ports(container: Fields) -> tuple[ContainerPort, ...]:
    ports: list[ContainerPort] = []
    names: set[str] = set()
    opened: set[tuple[str, int]] = set()
    for fields in container.mappings("ports"):
        port = _parse_port(fields)
        if port.name and port.name in names:
            fields.problem(f"{shown(port.name)} is there twice", "name")
        if port.host_port is not None and (port.host_ip, port.host_port) in opened:
            fields.problem(f"{port.host_port} is there twice", "hostPort")
        names.add(port.name)
        opened.add((port.host_ip, port.host_port or 0))
        ports.append(port)
    return tuple(ports)


def _parse_port(fields: Fields) -> ContainerPort:
    name = fields.text("name", check=_check_optional_port_name)
    container_port = fields.integer("containerPort", minimum=1, maximum=65_535, required=True)
    host_port = fields.integer("hostPort", minimum=0, maximum=65_535) or None
    host_ip = fields.text("hostIP", check=_check_host_ip)
    if host_ip and "hostPort" not in fields:
        fields.problem("has no effect without hostPort", "hostIP")
    read_protocol(fields)
    fields.close()
    port = ContainerPort(container_port=container_port, name=name, host_port=host_port)
    return replace(port, host_ip=host_ip) if host_ip else port


def read_protocol(fields: Fields) -> None:
    """The field `protocol`, of which only TCP is served."""
    protocol = fields.text("protocol", default="TCP") or "TCP"
    if protocol != "TCP":
        fields.problem(f"{shown(protocol)}: apps are reached over TCP only", "protocol")


def _check_optional_port_name(text: str) -> str | None:
    return check_port_name(text) if text else None


def _check_host_ip(text: str) -> str | None:
    is_address = not text or not text[-1].isalpha() or ":" in text
    host = f"[{text}]" if ":" in text else text
    if not text or (is_address and is_listen_address(f"{host}:0")):
        return None
    return f"{shown(text)} is not an IP address"
