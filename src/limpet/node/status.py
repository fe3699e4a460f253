"""An app's and the node's state as the API shows it (docs/api.md). Reads, never changes."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from limpet import __version__
from limpet.manifest.model import Trigger
from limpet.node.listeners import format_address
from limpet.node.state import Want, WorkerState
from limpet.node.usage import describe_app_usage
from limpet.provision.facilities import explain_missing_walls
from limpet.telemetry.histogram import Histogram
from limpet.telemetry.process import read_usage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from limpet.node.agent import Agent
    from limpet.node.apps import AppRuntime
    from limpet.node.slots import Slot
    from limpet.node.usage import UsageMeter
    from limpet.node.workers import Worker
    from limpet.provision.facilities import Standing
    from limpet.store.images import Usage as VolumeUsage
    from limpet.worker.process import ExitInfo


def describe_app(
    runtime: AppRuntime,
    *,
    engine: str,
    meter: UsageMeter,
    standing: Standing,
    managed_by: str | None = None,
) -> dict[str, object]:
    """Return the AppStatus."""
    app = runtime.app
    phase, reason, message, is_final = _phase(runtime)
    plan = runtime.prepared.plan if runtime.prepared else None
    workers = sorted(runtime.workers.values(), key=lambda worker: (worker.slot, worker.id))
    return {
        "kind": app.kind,
        "namespace": runtime.key.namespace,
        "name": runtime.key.name,
        "generation": runtime.generation,
        "created_at": format_time(runtime.created_at),
        "managed_by": managed_by,
        "phase": phase,
        "reason": reason,
        "message": message,
        "is_final": is_final,
        "desired": runtime.wanted_slots,
        "ready": sum(worker.state is WorkerState.READY for worker in workers),
        "restarts": sum(slot.restarts for _, slot in runtime.slots),
        "trigger": (plan.app if plan else app).trigger.value,
        "engine": engine,
        "engine_reason": plan.engine_reason if plan else "",
        "image": _image(runtime),
        "digest": plan.digest if plan else None,
        "endpoints": [format_address(s) for s in runtime.prepared.sockets]
        if runtime.prepared
        else [],
        "limits": {
            "cpu_cores": app.cpu_cores,
            "memory_bytes": app.memory_bytes,
            "pids": app.pids,
            "not_enforced": dict(standing.unenforced),
        },
        **_describe_walls(standing),
        "usage": describe_app_usage(runtime, workers, meter),
        "requests": _requests(runtime, workers),
        "cold_start_milliseconds": {
            "count": runtime.figures.cold_starts,
            "last": round(runtime.figures.start_times[-1], 2)
            if runtime.figures.start_times
            else None,
            "p50": _median(runtime.figures.start_times),
        },
        "requires": list(app.requires),
        "egress": list(plan.egress.lines()) if plan else None,
        "volumes": [
            {
                "kind": mount.kind,
                "source": mount.source,
                "path": mount.path,
                "read_only": mount.is_read_only,
                "usage": describe_usage(runtime.volume_usage(mount)),
            }
            for mount in app.mounts
        ],
        "workers": _workers(runtime, workers),
    }


def _image(runtime: AppRuntime) -> str:
    source = runtime.app.source
    return f"oci://{source.location}" if source.scheme == "oci" else source.location


def _phase(runtime: AppRuntime) -> tuple[str, str, str, bool]:
    if runtime.want is Want.DELETED:
        return "Terminating", "", "", False
    plan = runtime.prepared.plan if runtime.prepared else None
    problem = runtime.problem
    ready = sum(worker.state is WorkerState.READY for worker in runtime.workers.values())
    if plan is None and problem is not None:
        return ("Running" if ready else "Pending"), *problem
    reason, message, is_final = problem or ("", "", False)
    ended = _ended(runtime)
    if ended is not None:
        return ended
    waiting = [slot for _, slot in runtime.slots if slot.retry_at > time.monotonic()]
    if waiting and not problem:
        last = waiting[0].last_exit
        text = f"{last.reason}: {last.message}" if last else "it could not be started"
        pause = max(waiting[0].retry_at - time.monotonic(), 0.0)
        text += f"; {waiting[0].failures} times in a row, it starts again in {pause:.0f} s"
        return ("Running" if ready else "Pending"), "CrashLoopBackOff", text, False
    if ready:
        return "Running", reason, message, is_final
    if plan is not None and plan.scales_to_zero and not runtime.workers:
        return "Idle", reason, message, is_final
    return "Pending", reason or "Starting", message, is_final


def _ended(runtime: AppRuntime) -> tuple[str, str, str, bool] | None:
    """Return the phase of an app whose every slot is over."""
    exits = runtime.slots.ends(runtime.wanted_slots)
    if exits is None:
        return None
    failed = next((info for info in exits if not info.is_success), None)
    if failed is None:
        return "Succeeded", "Completed", "", True
    return "Failed", failed.reason, failed.message, True


def _describe_walls(standing: Standing) -> dict[str, object]:
    missing = standing.missing_walls()
    return {
        "missing_walls": [str(wall) for wall in missing],
        "missing_walls_why": explain_missing_walls(missing, is_root=os.geteuid() == 0),
    }


def describe_usage(usage: VolumeUsage | None) -> dict[str, object] | None:
    """Return how full a volume is; None for one that has no size of its own."""
    if usage is None:
        return None
    return {
        "size_bytes": usage.size_bytes,
        "used_bytes": usage.used_bytes,
        "available_bytes": usage.available_bytes,
    }


def _requests(runtime: AppRuntime, workers: list[Worker]) -> dict[str, object] | None:
    plan = runtime.prepared.plan if runtime.prepared else None
    trigger = (plan.app if plan else runtime.app).trigger
    if trigger is Trigger.COMMAND:
        return None
    latency = Histogram(runtime.figures.latency.counts)
    stats = [worker.stats for worker in workers if worker.stats is not None]
    for one in stats:
        if one.latency:
            latency.add(one.latency)
    return {
        "total": runtime.figures.requests + sum(one.requests for one in stats),
        "failed": runtime.figures.failed + sum(one.failed for one in stats),
        "in_flight": sum(one.in_flight for one in stats),
        "queued": sum(one.queued for one in stats),
        "latency_micros": {
            "p50": latency.quantile(0.50),
            "p90": latency.quantile(0.90),
            "p99": latency.quantile(0.99),
        },
    }


def _workers(runtime: AppRuntime, workers: list[Worker]) -> list[dict[str, object]]:
    shown: list[dict[str, object]] = [
        {
            "name": worker.name,
            "pid": worker.process.pid,
            "state": worker.state.value,
            "restarts": runtime.slots.of(worker.slot).restarts,
            "started_at": format_time(worker.started_at),
            "retry_seconds": None,
            "last_exit": _exit(runtime.slots.of(worker.slot).last_exit),
        }
        for worker in workers
    ]
    live = {worker.slot for worker in workers}
    for index, slot in runtime.slots:
        if index not in live and slot.last_exit is not None:
            shown.append(_absent_worker(runtime, index, slot))
    return shown


def _absent_worker(runtime: AppRuntime, index: int, slot: Slot) -> dict[str, object]:
    pause = slot.retry_at - time.monotonic()
    state = "Completed" if slot.is_completed else "BackOff" if pause > 0 else "Idle"
    return {
        "name": f"{runtime.key.name}-{index}",
        "pid": None,
        "state": state,
        "restarts": slot.restarts,
        "started_at": None,
        "retry_seconds": round(pause, 1) if state == "BackOff" else None,
        "last_exit": _exit(slot.last_exit),
    }


def _exit(info: ExitInfo | None) -> dict[str, object] | None:
    if info is None:
        return None
    return {
        "reason": info.reason,
        "message": info.message,
        "exit_code": info.exit_code,
        "signal": info.signal,
        "finished_at": format_time(info.finished_at) if info.finished_at else None,
    }


def describe_node(agent: Agent) -> dict[str, object]:
    """Return the node's state."""
    standing = agent.standing()
    processes = [
        ("launcher", os.getppid(), 0),
        ("agent", os.getpid(), agent.restarts),
        *(
            (
                "zygote" if zygote is agent.zygotes.default else f"zygote {zygote.name}",
                zygote.pid,
                zygote.restarts,
            )
            for zygote in agent.zygotes
            if zygote.pid is not None or zygote is agent.zygotes.default
        ),
    ]
    shown = []
    for name, pid, restarts in processes:
        usage = read_usage(pid) if pid else None
        shown.append(
            {
                "name": name,
                "pid": pid,
                "pss_bytes": usage.pss_bytes if usage else None,
                "cpu_seconds": round(usage.cpu_seconds, 2) if usage else None,
                "restarts": restarts,
            }
        )
    return {
        "name": agent.name,
        "version": __version__,
        "started_at": format_time(agent.started_at),
        "data_directory": str(agent.settings.node.data_directory),
        "engine": agent.zygotes.default.engine_name,
        "engines": [zygote.engine_name for zygote in agent.zygotes if zygote.engine_name],
        "python": sys.version.split()[0],
        "machine": os.uname().machine,
        "cpus": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "apps": len(agent.apps),
        "workers": sum(len(runtime.workers) for runtime in agent.apps.values()),
        "facilities": {str(name): found for name, found in standing.facilities().items()},
        "not_enforced": dict(standing.unenforced),
        **_describe_walls(standing),
        "conditions": [
            {
                "type": each.type,
                "status": "True" if each.is_true else "False",
                "reason": each.reason,
                "message": each.message,
                "since": format_time(each.since),
            }
            for each in agent.care.conditions.all()
        ],
        "manifests": agent.manifests.describe() if agent.manifests is not None else None,
        "processes": shown,
    }


def format_time(seconds: float, *, with_micros: bool = False) -> str:
    """Return RFC 3339 in UTC. Without `datetime`, which would cost the agent half a megabyte."""
    whole, micros = divmod(round(seconds * 1e6), 1_000_000)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
    return f"{text}.{micros:06d}Z" if with_micros else f"{text}Z"


def _median(values: Sequence[float]) -> float | None:
    ordered = sorted(values)
    return round(ordered[len(ordered) // 2], 2) if ordered else None
