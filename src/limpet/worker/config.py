"""What a worker is told when it starts; it travels in a memory file, never in arguments.

Environment values may be secrets: the file is anonymous, sealed and read once. It is in `marshal`'s format:
agent and worker run the same interpreter, and reading it touches a quarter of a megabyte less of the
memory that a worker shares with its zygote than JSON did.
"""

from __future__ import annotations

import fcntl
import marshal
import os
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from limpet.settings import HttpSettings

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """One app's worker. Descriptors follow the configuration's in this order: artifact, standard
    output, standard error, `listeners` sockets, one directory per entry of `preopens`.

    `preopens` holds (guest path, is read-only) pairs. `memory_bytes` caps the guest's linear memory,
    `cost_limit` the work of one run. `guest_ports` says which of the app's own ports each listener is.
    One that `waits_for_readiness` takes no client before the agent says Serve. `probed_exports` are the
    functions that its probes may call.
    """

    app: str
    worker: str
    engine: str
    trigger: str
    memory_bytes: int
    args: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = field(repr=False)
    preopens: tuple[tuple[str, bool], ...] = ()
    listeners: int = 0
    guest_ports: tuple[int, ...] = ()
    cost_limit: int | None = None
    deadline_seconds: float | None = None
    path: str = "/"
    methods: tuple[str, ...] = ()
    queue: int = 256
    max_body_bytes: int = 8 << 20
    max_response_bytes: int = 8 << 20
    idle_timeout_seconds: float | None = None
    passes_authorization: bool = False
    waits_for_readiness: bool = False
    probed_exports: tuple[str, ...] = ()
    http: dict[str, float] = field(default_factory=dict)

    def http_settings(self) -> HttpSettings:
        """Return the operator's HTTP settings that came along."""
        return read_http_settings(self.http)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileConfig:
    """A compile process. Descriptors: the module to read, the artifact to write.

    The module must have this digest, whoever put it into the store.
    """

    engine: str
    digest: str
    is_metered: bool = False
    is_interpreted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchConfig:
    """A download. Descriptors: partial download, notes on it, module, evidence.

    `digest`, when given, must come out: of a module, or of an image's manifest. `credentials` are texts in
    the format of docker's config.json, the most important first; `authority` is more certificates in PEM;
    `endpoint` replaces the registry's own. A reference that stands for `known_manifest` is not
    downloaded again: it is `known_module`. Where signatures are wanted, that has to be a layer of the image,
    or a file that this node took out of it: out of the image `extracted_from`. Rates are in bytes per
    second, 0 for no bound.
    """

    scheme: str
    location: str
    digest: str | None
    max_bytes: int
    credentials: tuple[str, ...] = field(default=(), repr=False)
    authority: str = ""
    endpoint: str = ""
    known_manifest: str = ""
    known_module: str = ""
    extracted_from: str = ""
    wants_signatures: bool = False
    least_bytes_per_second: int = 256
    most_bytes_per_second: int = 0
    attempts: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyConfig:
    """Signatures to verify. Descriptors: the evidence. `keys` are texts with public keys in PEM.

    `module` is the digest that the evidence has to lead to; without one, any signed payload will do.
    `extracted_from` is the image that this node itself took the module out of, if it did.
    """

    keys: tuple[str, ...]
    module: str | None
    extracted_from: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestsConfig:
    """Manifests to parse: (name, size in bytes) of each. Descriptors: their bytes, the answer to write."""

    files: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterConfig:
    """The ingress router. Descriptors: `listeners` sockets."""

    listeners: int
    http: dict[str, float]


def read_http_settings(values: Mapping[str, float]) -> HttpSettings:
    """Turn what came through JSON into settings again: whole numbers where they belong."""
    whole = {entry.name for entry in fields(HttpSettings) if entry.type == "int"}
    typed: dict[str, Any] = {
        name: int(value) if name in whole else float(value) for name, value in values.items()
    }
    return HttpSettings(**typed)


_AnyConfig: TypeAlias = (
    WorkerConfig | CompileConfig | FetchConfig | ManifestsConfig | VerifyConfig | RouterConfig
)
_Config = TypeVar(
    "_Config",
    WorkerConfig,
    CompileConfig,
    FetchConfig,
    ManifestsConfig,
    VerifyConfig,
    RouterConfig,
)


def write_config(config: _AnyConfig) -> int:
    """Put the configuration into a sealed memory file and return its descriptor."""
    descriptor = os.memfd_create("limpet-config", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    data = marshal.dumps(asdict(config))
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


def read_config(descriptor: int, kind: type[_Config]) -> _Config:
    """Read what `write_config` wrote: it comes from the agent, so its shape is trusted."""
    return kind(**marshal.loads(os.pread(descriptor, os.fstat(descriptor).st_size, 0)))  # noqa: S302
