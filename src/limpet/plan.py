"""App + node facts -> Plan: everything a worker needs, resolved. Pure.

A plan's `fingerprint` changes exactly when its workers have to be replaced.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from limpet.egress import EgressPolicy
from limpet.errors import InvalidInputError
from limpet.manifest.model import (
    App,
    ConfigMap,
    EnvVar,
    Exposure,
    Facility,
    Ingress,
    KeyRef,
    Mount,
    NetworkPolicy,
    PersistentVolumeClaim,
    Secret,
    Service,
    Trigger,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from limpet.manifest.model import Resource

EVERY_FACILITY: frozenset[str] = frozenset(Facility)
WORKER_SHARE_BYTES = 4 << 20
"""What a worker keeps of its app's memory limit for itself."""

_REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z_.\-][A-Za-z0-9_.\-]*)\)")
_Resource = TypeVar(
    "_Resource", Service, ConfigMap, Secret, PersistentVolumeClaim, Ingress, NetworkPolicy
)
# What may change without a worker noticing: it is said to the agent, or to nobody.
_NOT_THE_WORKERS = (
    "labels",
    "annotations",
    "replicas",
    "workers",
    "backoff_limit",
    "restart_policy",
    "requires",
    "egress",
    "rollout",
)
_RESTARTED_AT = "kubectl.kubernetes.io/restartedAt"
_FACILITIES = {
    Facility.CGROUP: "limits of processor, memory and processes that the kernel enforces",
    Facility.LANDLOCK: "Landlock",
    Facility.SECCOMP: "a filter of system calls",
    Facility.NAMESPACES: "namespaces of its own",
    Facility.USER: "a user of its own",
    Facility.VOLUMES: "volumes of limited size",
    Facility.ENCRYPTION: "encrypted volumes and state",
}


class PlanError(InvalidInputError):
    """An app that can't run as things stand; `reason` says why in one word.

    `is_final` means that nothing but a change of the app, or of the node itself, can help.
    """

    def __init__(self, reason: str, message: str, *, is_final: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.is_final = is_final


@dataclass(frozen=True, slots=True, order=True)
class AppKey:
    """What identifies an app: Deployment, Pod and Job share one set of names per namespace."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, order=True)
class Listener:
    """A listening address and who asked for it: only the same origin may share it."""

    host: str
    port: int
    origin: str

    @property
    def name(self) -> str:
        """The name under which the launcher keeps its socket."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        address = f"{host}:{self.port}"
        return address if self.port else f"{address} {self.origin}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedMount:
    """A directory of the guest: a volume's folder, or files to be written for it.

    `kind` is PersistentVolumeClaim, EmptyDir or Files; `files` holds (name, content) pairs.
    `size_bytes` is the claim's size or the emptyDir's limit, None for Files; `medium` is Memory for
    an emptyDir that never reaches storage.
    """

    kind: str
    source: str
    path: str
    is_read_only: bool
    size_bytes: int | None = None
    medium: str = ""
    files: tuple[tuple[str, bytes], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One app, ready to be run. `env` may hold secrets.

    `egress` is for the agent and no part of the fingerprint: it takes effect on running workers.
    `guest_ports` says of each listener which of the app's own ports it is. `engine_reason` says why
    this engine.
    """

    app: App
    key: AppKey
    engine: str
    engine_reason: str
    is_component: bool
    digest: str
    args: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = field(repr=False)
    listeners: tuple[Listener, ...]
    guest_ports: tuple[int, ...]
    mounts: tuple[PlannedMount, ...]
    fingerprint: str
    egress: EgressPolicy

    @property
    def guest_memory_bytes(self) -> int:
        """How much linear memory the module may have.

        The app's limit holds for the whole process, as in Kubernetes; this is what its worker leaves.
        """
        return self.app.memory_bytes - WORKER_SHARE_BYTES

    @property
    def slots(self) -> int:
        """How many workers should run."""
        return self.app.replicas * self.app.workers

    @property
    def scales_to_zero(self) -> bool:
        """Whether the app is stopped while nobody asks for it."""
        return serves(self.app) and bool(self.app.http.idle_timeout_seconds)

    @property
    def writes_volumes(self) -> bool:
        """Whether two releases must not run side by side."""
        return any(m.kind == "PersistentVolumeClaim" and not m.is_read_only for m in self.mounts)

    def contends_with(self, other: Plan) -> bool:
        """Whether both mount a claimed volume that one of them writes."""
        return any(
            mount.source == theirs.source and not (mount.is_read_only and theirs.is_read_only)
            for mount in self.mounts
            for theirs in other.mounts
            if mount.kind == theirs.kind == "PersistentVolumeClaim"
            and self.fingerprint != other.fingerprint
        )


class Catalog:
    """The objects that apps refer to, by kind, namespace and name."""

    def __init__(self, resources: Iterable[Resource]) -> None:
        self._by_key = {
            (type(resource), resource.namespace, resource.name): resource
            for resource in resources
            if not isinstance(resource, App)
        }

    def get(self, kind: type[_Resource], namespace: str, name: str) -> _Resource | None:
        """Return one object."""
        found = self._by_key.get((kind, namespace, name))
        return found if isinstance(found, kind) else None

    def all(self, kind: type[_Resource]) -> list[_Resource]:
        """Return the objects of a kind, sorted by namespace and name."""
        found = [resource for resource in self._by_key.values() if isinstance(resource, kind)]
        return sorted(found, key=lambda resource: (resource.namespace, resource.name))


def stand_in_plan(app: App, *, engine: str, fingerprint: str) -> Plan:
    """Return what is known of the plan of a worker that runs already: what an agent asks of a worker."""
    return Plan(
        app=app,
        key=app_key(app),
        engine=engine,
        engine_reason="",
        is_component=False,
        digest="",
        args=(),
        env=(),
        listeners=(),
        guest_ports=(),
        mounts=(),
        fingerprint=fingerprint,
        egress=EgressPolicy(()),
    )


def app_key(app: App) -> AppKey:
    """Return an app's key."""
    return AppKey(app.namespace, app.name)


def serves(app: App) -> bool:
    """Whether clients come to the app."""
    return app.trigger is not Trigger.COMMAND


def settle_trigger(app: App, *, listens: bool) -> App:
    """The app with the trigger that its module is made for, where the manifest leaves it open.

    A module that opens listening sockets serves on its ports by itself. It has no deadline then,
    unless one was asked for: its one run is as long as it serves.
    """
    if not (listens and app.is_trigger_implied and app.trigger is Trigger.HTTP):
        return app
    has_deadline = "limpet.dev/deadline" in app.annotations
    return replace(
        app,
        trigger=Trigger.SOCKET,
        deadline_seconds=app.deadline_seconds if has_deadline else None,
    )


def compile_plan(
    app: App,
    *,
    digest: str,
    engine: str,
    engine_reason: str = "",
    is_component: bool = False,
    node_name: str,
    catalog: Catalog,
    available_facilities: frozenset[str] = EVERY_FACILITY,
    allowed_capabilities: frozenset[str] = frozenset(),
) -> Plan:
    """Resolve what the app refers to. Raises `PlanError`.

    `available_facilities` is what the node has of `Facility`, `allowed_capabilities` what the
    operator lets apps ask for, by names with or without CAP_.
    """
    problem = missing_facilities(app, available_facilities)
    problem = problem or denied_capabilities(app, allowed_capabilities)
    if problem is not None:
        raise problem
    env = _compile_env(app, node_name, catalog)
    args = _compile_args(app, dict(env))
    mounts = tuple(_compile_mount(app, mount, catalog) for mount in app.mounts)
    openings = compile_openings(app, catalog) if serves(app) else ()
    if serves(app) and not openings:
        raise PlanError(
            "NoPort",
            f"app {app.namespace}/{app.name} has no port to answer on: declare a containerPort "
            "or the annotation limpet.dev/listen",
            is_final=True,
        )
    listeners = tuple(listener for listener, _ in openings)
    guest_ports = tuple(port for _, port in openings)
    return Plan(
        app=app,
        key=app_key(app),
        engine=engine,
        engine_reason=engine_reason,
        is_component=is_component,
        digest=digest,
        args=args,
        env=env,
        listeners=listeners,
        guest_ports=guest_ports,
        mounts=mounts,
        fingerprint=_fingerprint(app, digest, engine, args, env, openings, mounts),
        egress=compile_egress(app, catalog),
    )


def missing_facilities(app: App, available: frozenset[str]) -> PlanError | None:
    """Why the app does not run where only `available` of `Facility` are; None when it does."""
    lacking = [facility for facility in app.requires if facility not in available]
    if not lacking:
        return None
    told = ", ".join(f"{facility} ({_FACILITIES[facility]})" for facility in lacking)
    return PlanError(
        "MissingFacility",
        f"app {app.namespace}/{app.name} requires what this node does not have: {told}; "
        "`limpet doctor` says why, and what to do",
        is_final=True,
    )


def denied_capabilities(app: App, allowed: frozenset[str]) -> PlanError | None:
    """Why the app may not have the capabilities that it adds; None when it may."""
    names = {name.removeprefix("CAP_") for name in allowed}
    denied = [name for name in app.capabilities if name not in names]
    if not denied:
        return None
    return PlanError(
        "CapabilityNotAllowed",
        f"app {app.namespace}/{app.name} adds {', '.join(denied)}, which this node allows no app; "
        "remove it, or add it to the setting sandbox.allowed_capabilities",
        is_final=True,
    )


def compile_egress(app: App, catalog: Catalog) -> EgressPolicy:
    """Unite the app's own rules with those of every NetworkPolicy that selects it.

    Policies add up, as in Kubernetes. Without rule and policy an app connects to nothing, which is
    stricter than Kubernetes.
    """
    rules = list(app.egress)
    for policy in catalog.all(NetworkPolicy):
        if policy.namespace == app.namespace and policy.selector.matches(app.pod_labels):
            rules += policy.egress
    return EgressPolicy(tuple(dict.fromkeys(rules)))


def _fingerprint(app: App, *parts: object) -> str:
    """Hash what a worker is made from; labels, replicas and the like change without a restart."""
    document = asdict(app)
    for name in _NOT_THE_WORKERS:
        del document[name]
    if _RESTARTED_AT in app.annotations:  # `limpet rollout restart` means new workers
        document["restarted_at"] = app.annotations[_RESTARTED_AT]
    text = json.dumps([document, [_plain(part) for part in parts]], sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, PlannedMount | Listener):
        return asdict(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def compile_listeners(app: App, catalog: Catalog) -> tuple[Listener, ...]:
    """Decide where an app answers (`compile_openings`)."""
    return tuple(listener for listener, _ in compile_openings(app, catalog))


def compile_openings(app: App, catalog: Catalog) -> tuple[tuple[Listener, int], ...]:
    """Decide where an app answers, and which of its own ports each address leads to.

    The annotation `limpet.dev/listen` replaces everything else. A hostPort opens on the device. Each
    port of a Service that selects the app opens by the Service's type: ClusterIP on loopback,
    NodePort and LoadBalancer on every address. A port that nothing opens answers on loopback.
    """
    own = f"app {app.namespace}/{app.name}"
    if app.http.listen is not None:
        host, _, number = app.http.listen.rpartition(":")
        own_port = app.ports[0].container_port if app.ports else int(number)
        return ((Listener(host.strip("[]"), int(number), own), own_port),)
    found: dict[Listener, int] = {}
    for port in app.ports:
        opened = [
            Listener(host, number, f"service {service.namespace}/{service.name}")
            for service in _services(app, catalog)
            for host, number in _service_addresses(service, port.container_port, port.name)
        ]
        if port.host_port is not None:
            opened.append(Listener(port.host_ip, port.host_port, own))
        for listener in opened or [Listener("127.0.0.1", port.container_port, own)]:
            found.setdefault(listener, port.container_port)
    return tuple(found.items())


def _services(app: App, catalog: Catalog) -> Sequence[Service]:
    return [
        service
        for service in catalog.all(Service)
        if service.namespace == app.namespace
        and service.selector
        and service.selector.items() <= dict(app.pod_labels).items()
    ]


def _service_addresses(service: Service, number: int, name: str) -> Iterable[tuple[str, int]]:
    for port in service.ports:
        if port.target_port not in (number, name) or port.target_port == "":
            continue
        if service.exposure is Exposure.CLUSTER_IP:
            yield "127.0.0.1", port.port
        elif service.exposure is Exposure.LOAD_BALANCER:
            yield "0.0.0.0", port.port  # noqa: S104 - what a load balancer is for
        else:
            yield "127.0.0.1", port.port
            if port.node_port is not None:
                yield "0.0.0.0", port.node_port  # noqa: S104 - what a node port is for


def _compile_env(app: App, node_name: str, catalog: Catalog) -> tuple[tuple[str, str], ...]:
    values: dict[str, str] = {}
    for source in app.env_from:
        data = _data(app, source.kind, source.name, catalog)
        if data is None:
            if source.is_optional:
                continue
            raise _missing(app, source.kind, source.name)
        for key, value in data.items():
            values[source.prefix + key] = _text(value, source.kind, source.name, key)
    for variable in app.env:
        text = _env_value(app, variable, node_name, catalog, values)
        if text is not None:
            values[variable.name] = text
    return tuple(values.items())


def _env_value(
    app: App, variable: EnvVar, node_name: str, catalog: Catalog, values: Mapping[str, str]
) -> str | None:
    if variable.ref is not None:
        return _key_value(app, variable.ref, catalog)
    if variable.field_path is not None:
        return _field_value(app, variable.field_path, node_name)
    return _expand(variable.value or "", values)


def _key_value(app: App, ref: KeyRef, catalog: Catalog) -> str | None:
    data = _data(app, ref.kind, ref.name, catalog)
    if data is None or ref.key not in data:
        if ref.is_optional:
            return None
        raise _missing(app, ref.kind, ref.name, None if data is None else ref.key)
    return _text(data[ref.key], ref.kind, ref.name, ref.key)


def _field_value(app: App, path: str, node_name: str) -> str:
    fixed = {
        "metadata.name": app.name,
        "metadata.namespace": app.namespace,
        "spec.nodeName": node_name,
    }
    if path in fixed:
        return fixed[path]
    for prefix, table in (("labels", app.pod_labels), ("annotations", app.annotations)):
        start = f"metadata.{prefix}['"
        if path.startswith(start):
            return table.get(path[len(start) : -2], "")
    raise PlanError("InvalidField", f"fieldRef {path} is not known here", is_final=True)


def _compile_args(app: App, env: Mapping[str, str]) -> tuple[str, ...]:
    """Build argv: `command` replaces the program's name and first arguments, as Kubernetes says."""
    command = app.command or (app.container_name or app.name,)
    return tuple(_expand(argument, env) for argument in (*command, *app.args))


def _expand(text: str, values: Mapping[str, str]) -> str:
    """Replace `$(NAME)`; an unknown name stays, `$$` is a dollar sign (Kubernetes' EnvVar.value)."""

    def replace(match: re.Match[str]) -> str:
        name = match.group(1)
        return "$" if name is None else values.get(name, match.group(0))

    return _REFERENCE.sub(replace, text) if "$" in text else text


def _compile_mount(app: App, mount: Mount, catalog: Catalog) -> PlannedMount:
    if mount.kind in ("ConfigMap", "Secret"):
        data = _data(app, mount.kind, mount.source, catalog)
        if data is None and not mount.is_optional:
            raise _missing(app, mount.kind, mount.source)
        files = _files(app, mount, data or {})
        return PlannedMount(
            kind="Files", source=mount.source, path=mount.path, is_read_only=True, files=files
        )
    if mount.kind == "PersistentVolumeClaim":
        claim = catalog.get(PersistentVolumeClaim, app.namespace, mount.source)
        if claim is None:
            raise _missing(app, mount.kind, mount.source)
        size_bytes: int | None = claim.size_bytes
    else:
        size_bytes = mount.size_limit_bytes
    return PlannedMount(
        kind=mount.kind,
        source=mount.source,
        path=mount.path,
        is_read_only=mount.is_read_only,
        size_bytes=size_bytes,
        medium=mount.medium,
    )


def _files(app: App, mount: Mount, data: Mapping[str, bytes]) -> tuple[tuple[str, bytes], ...]:
    if not mount.items:
        return tuple(sorted(data.items()))
    for key in mount.items:
        if key not in data and not mount.is_optional:
            raise _missing(app, mount.kind, mount.source, key)
    return tuple(sorted((path, data[key]) for key, path in mount.items.items() if key in data))


def _data(app: App, kind: str, name: str, catalog: Catalog) -> Mapping[str, bytes] | None:
    found: ConfigMap | Secret | None
    if kind == "ConfigMap":
        found = catalog.get(ConfigMap, app.namespace, name)
    else:
        found = catalog.get(Secret, app.namespace, name)
    return None if found is None else found.data


def _text(value: bytes, kind: str, name: str, key: str) -> str:
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise PlanError(
            "InvalidConfig",
            f"key {key} of {kind} {name} is not text, so it can't be an environment variable; "
            "mount it as a file instead",
        )
    return text


def _missing(app: App, kind: str, name: str, key: str | None = None) -> PlanError:
    what = f"{kind} {app.namespace}/{name}" + (f" has no key {key}" if key else " does not exist")
    reason = "MissingVolume" if kind == "PersistentVolumeClaim" else "MissingConfig"
    return PlanError(reason, f"{what}; apply it and the app starts by itself")
