"""What a manifest means to Limpet: frozen values without YAML, files or defaults left to guess.

Names follow Kubernetes' API reference, v1.34, unless a docstring says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limpet.egress import EgressRule

DEFAULT_NAMESPACE = "default"
DEFAULT_MEMORY_BYTES = 64 << 20


class RestartPolicy(StrEnum):
    """When an app's ended process is started again (PodSpec.restartPolicy)."""

    ALWAYS = "Always"
    ON_FAILURE = "OnFailure"
    NEVER = "Never"


class Trigger(StrEnum):
    """How work reaches the module; `limpet.dev/trigger`."""

    HTTP = "http"
    COMMAND = "command"
    SOCKET = "socket"


class Facility(StrEnum):
    """What an app may refuse to run without; `limpet.dev/require`."""

    CGROUP = "cgroup"
    LANDLOCK = "landlock"
    SECCOMP = "seccomp"
    NAMESPACES = "namespaces"
    USER = "user"
    VOLUMES = "volumes"
    ENCRYPTION = "encryption"


class Exposure(StrEnum):
    """Service.spec.type."""

    CLUSTER_IP = "ClusterIP"
    NODE_PORT = "NodePort"
    LOAD_BALANCER = "LoadBalancer"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleSource:
    """Where a module comes from: `scheme` is `file`, `https` or `oci`.

    `location` is a path for `file` (relative ones are relative to the manifest's folder), the
    whole URL for `https`, `registry/repository:tag` or `@digest` for `oci`.
    `digest` (`sha256:<64 hex>`) is set when the manifest pins it.
    """

    scheme: str
    location: str
    digest: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRef:
    """A key of a ConfigMap or Secret (`kind`) in the app's namespace."""

    kind: str
    name: str
    key: str
    is_optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvVar:
    """One variable: a literal `value`, a `ref`, or a `field_path` of the pod, exactly one."""

    name: str
    value: str | None = None
    ref: KeyRef | None = None
    field_path: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvFrom:
    """Every key of a ConfigMap or Secret as a variable, names prefixed by `prefix`."""

    kind: str
    name: str
    prefix: str = ""
    is_optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerPort:
    """A port that the app serves; `host_port` also opens it on `host_ip` of the device."""

    container_port: int
    name: str = ""
    host_port: int | None = None
    host_ip: str = "0.0.0.0"  # noqa: S104 - Kubernetes' default for an explicit hostPort


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A volume at a path of the guest.

    `kind` is PersistentVolumeClaim, EmptyDir, ConfigMap or Secret; `source` names the object
    (the volume itself for EmptyDir). `items` maps keys to file names; empty means all keys.
    `size_limit_bytes` is EmptyDir's, and so is `medium`: empty for storage, or Memory.
    """

    kind: str
    source: str
    path: str
    is_read_only: bool = False
    items: Mapping[str, str] = field(default_factory=dict)
    is_optional: bool = False
    size_limit_bytes: int | None = None
    medium: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A readiness, liveness or startup probe.

    `path` is None for tcpSocket. With `export` it is a function that the module exports, instead.
    """

    path: str | None
    port: int | str
    export: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    initial_delay_seconds: int = 0
    period_seconds: int = 10
    timeout_seconds: int = 1
    success_threshold: int = 1
    failure_threshold: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpOptions:
    """Settings of the http trigger, from `limpet.dev/` annotations.

    `path` is the prefix the app answers under (`/` for all), `methods` empty for every method
    but CONNECT and TRACE. `listen` replaces every other listening address (`host:port`, port 0
    picks a free one). `queue` is how many requests may wait in each worker.
    """

    path: str = "/"
    methods: tuple[str, ...] = ()
    listen: str | None = None
    queue: int = 256
    max_body_bytes: int = 8 << 20
    max_response_bytes: int = 8 << 20
    idle_timeout_seconds: float | None = None
    passes_authorization: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutOptions:
    """How a change of an app is carried out (apps/v1, DeploymentSpec).

    A worker is available when it has been ready for `min_ready_seconds`. A release that makes no
    progress for `progress_deadline_seconds` has failed. `history_limit` is how many releases before
    the newest are kept. `max_surge` and `max_unavailable` are a number of replicas or a share like
    `25%`. `is_recreated` stops all of the old release before the new one starts. `is_paused` holds a
    rollout where it is.
    """

    min_ready_seconds: int = 0
    progress_deadline_seconds: int = 600
    history_limit: int = 10
    max_surge: int | str = "25%"
    max_unavailable: int | str = "25%"
    is_recreated: bool = False
    is_paused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """A Deployment, Pod or Job whose one container is a WebAssembly module.

    `cpu_cores` and `memory_bytes` are the container's limits, `pids` how many processes and threads
    each worker may have. `pull_policy` is Always, IfNotPresent, Never, or empty for what the source implies;
    `pull_secrets` names Secrets with credentials of registries. `capabilities` (Linux', without CAP_) are
    what it asks for beyond nothing, `requires` what it refuses to run without, `egress` its own
    annotation's rules. `engine` is auto, wasmtime or wasmedge; `execution` is ahead-of-time or interpreter,
    empty for the engine's choice; `cost_limit` bounds the work of one run in about an instruction each.
    `is_trigger_implied` means that nobody said how work reaches the module: one that opens sockets
    is then run for them.
    `deadline_seconds` bounds one request (http) or the whole run (None is no bound).
    `completions` and `backoff_limit` are the Job's. `workers` is processes per replica.
    """

    kind: str
    namespace: str
    name: str
    source: ModuleSource
    trigger: Trigger
    pull_policy: str = ""
    pull_secrets: tuple[str, ...] = ()
    is_trigger_implied: bool = False
    engine: str = "auto"
    execution: str = ""
    cost_limit: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    pod_labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    container_name: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: tuple[EnvVar, ...] = ()
    env_from: tuple[EnvFrom, ...] = ()
    ports: tuple[ContainerPort, ...] = ()
    mounts: tuple[Mount, ...] = ()
    cpu_cores: float = 0.5
    memory_bytes: int = DEFAULT_MEMORY_BYTES
    pids: int = 64
    capabilities: tuple[str, ...] = ()
    requires: tuple[Facility, ...] = ()
    egress: tuple[EgressRule, ...] = ()
    replicas: int = 1
    workers: int = 1
    restart_policy: RestartPolicy = RestartPolicy.ALWAYS
    backoff_limit: int = 6
    grace_seconds: float = 30.0
    deadline_seconds: float | None = None
    readiness: Probe | None = None
    liveness: Probe | None = None
    startup: Probe | None = None
    http: HttpOptions = field(default_factory=HttpOptions)
    rollout: RolloutOptions = field(default_factory=RolloutOptions)

    @property
    def probed_exports(self) -> tuple[str, ...]:
        """The functions of the module that probes call."""
        probes = (self.readiness, self.liveness, self.startup)
        return tuple(sorted({probe.export for probe in probes if probe and probe.export}))

    @property
    def has_releases(self) -> bool:
        """Whether its changes are releases: it runs on. A Job's run, or a Pod's, is one attempt."""
        return self.restart_policy is RestartPolicy.ALWAYS


@dataclass(frozen=True, slots=True, kw_only=True)
class ServicePort:
    """`target_port` is a number or a container port's name."""

    port: int
    target_port: int | str
    name: str = ""
    node_port: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """Opens ports on the device for the apps whose pod labels match `selector`."""

    namespace: str
    name: str
    selector: Mapping[str, str]
    ports: tuple[ServicePort, ...]
    exposure: Exposure = Exposure.CLUSTER_IP
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    kind: str = "Service"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigMap:
    """Plain configuration: values are bytes (`data` as UTF-8, `binaryData` decoded)."""

    namespace: str
    name: str
    data: Mapping[str, bytes]
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    kind: str = "ConfigMap"


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """Like a ConfigMap, with values that are never shown."""

    namespace: str
    name: str
    data: Mapping[str, bytes] = field(repr=False)
    type: str = "Opaque"
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    kind: str = "Secret"


@dataclass(frozen=True, slots=True, kw_only=True)
class PersistentVolumeClaim:
    """A volume that outlives its apps; `size_bytes` is `resources.requests.storage`."""

    namespace: str
    name: str
    size_bytes: int
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    kind: str = "PersistentVolumeClaim"


@dataclass(frozen=True, slots=True, kw_only=True)
class IngressPath:
    """Requests for `host` (empty: any; `*.name`: one label) and `path` go to a Service's port."""

    host: str
    path: str
    is_exact: bool
    service: str
    port: int | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingress:
    """Host and path routing to Services (networking.k8s.io/v1)."""

    namespace: str
    name: str
    paths: tuple[IngressPath, ...]
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    kind: str = "Ingress"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelExpression:
    """A LabelSelectorRequirement: `operator` is In, NotIn, Exists or DoesNotExist."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether it holds; a missing key is in no set."""
        value = labels.get(self.key)
        if self.operator == "In":
            return value in self.values
        if self.operator == "NotIn":
            return value not in self.values
        return (value is not None) == (self.operator == "Exists")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSelector:
    """Everything in it must hold; an empty one matches all labels."""

    match_labels: Mapping[str, str] = field(default_factory=dict)
    match_expressions: tuple[LabelExpression, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether these labels are selected."""
        return self.match_labels.items() <= labels.items() and all(
            expression.matches(labels) for expression in self.match_expressions
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkPolicy:
    """What the selected apps of its namespace may connect to (networking.k8s.io/v1, type Egress)."""

    namespace: str
    name: str
    selector: LabelSelector
    egress: tuple[EgressRule, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    kind: str = "NetworkPolicy"


Resource: TypeAlias = (
    App | Service | ConfigMap | Secret | PersistentVolumeClaim | Ingress | NetworkPolicy
)
