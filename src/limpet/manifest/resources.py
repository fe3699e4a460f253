"""ResourceRequirements of a container: limits that hold, requests that must fit under them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from limpet.manifest.amounts import read_bytes, read_cpu
from limpet.manifest.model import App, ModuleSource, Trigger
from limpet.manifest.quantity import format_bytes, format_cpu

if TYPE_CHECKING:
    from limpet.manifest.fields import Fields

_DEFAULTS = App(
    kind="Pod",
    namespace="",
    name="",
    source=ModuleSource(scheme="file", location=""),
    trigger=Trigger.COMMAND,
)
MINIMUM_CPU_CORES, MAXIMUM_CPU_CORES = 0.05, 64.0
MINIMUM_MEMORY_BYTES, MAXIMUM_MEMORY_BYTES = 16 << 20, 4 << 30  # 4Gi: all that wasm32 can address

_REFUSALS = {
    "ephemeral-storage": "storage is limited per volume: set sizeLimit on the emptyDir",
    "nvidia.com/gpu": "a module has no way to reach a GPU",
    "amd.com/gpu": "a module has no way to reach a GPU",
    "storage": "belongs to a PersistentVolumeClaim",
}


@dataclass(frozen=True, slots=True)
class Limits:
    cpu_cores: float
    memory_bytes: int


def parse_resources(fields: Fields) -> Limits:
    """The limits in force: the declared ones, else the defaults."""
    requests = fields.mapping("requests")
    limits = fields.mapping("limits")
    cpu = read_cpu(limits, "cpu", minimum=MINIMUM_CPU_CORES, maximum=MAXIMUM_CPU_CORES)
    memory = read_bytes(
        limits,
        "memory",
        minimum=MINIMUM_MEMORY_BYTES,
        maximum=MAXIMUM_MEMORY_BYTES,
        why_minimum="the worker that runs a module needs a part of it",
    )
    wanted_cpu = read_cpu(requests, "cpu", minimum=0, maximum=MAXIMUM_CPU_CORES)
    wanted_memory = read_bytes(requests, "memory", minimum=0, maximum=MAXIMUM_MEMORY_BYTES)
    effective = Limits(
        _DEFAULTS.cpu_cores if cpu is None else cpu,
        _DEFAULTS.memory_bytes if memory is None else memory,
    )
    # A limit that is there but bad has its own problem, and nothing to compare with.
    if wanted_cpu is not None and (cpu is not None or "cpu" not in limits):
        wanted, limit = format_cpu(wanted_cpu), format_cpu(effective.cpu_cores)
        is_over = wanted_cpu > effective.cpu_cores
        _check_request(requests, "cpu", wanted, limit, is_over=is_over, is_default=cpu is None)
    if wanted_memory is not None and (memory is not None or "memory" not in limits):
        wanted, limit = format_bytes(wanted_memory), format_bytes(effective.memory_bytes)
        is_over = wanted_memory > effective.memory_bytes
        _check_request(
            requests, "memory", wanted, limit, is_over=is_over, is_default=memory is None
        )
    for part in (requests, limits):
        part.close(_REFUSALS)
    fields.close({"claims": "dynamic resource allocation is not available to a module"})
    return effective


def _check_request(
    requests: Fields, name: str, wanted: str, limit: str, *, is_over: bool, is_default: bool
) -> None:
    if not is_over:
        return
    if is_default:
        why = f"{wanted} is more than the default limit, {limit}; set resources.limits.{name}"
    else:
        why = f"{wanted} is more than the limit, {limit}"
    requests.problem(why, name)
