"""What a start of an app needs, made of its plan before anybody asks."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from limpet.linux.cgroup import Limits
from limpet.worker.config import WorkerConfig

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from limpet.manifest.model import App
    from limpet.plan import Plan
    from limpet.settings import Settings
    from limpet.store.modules import Artifact


@dataclass(slots=True)
class Prepared:
    """What a start needs, ready before anybody asks: a cold start only sends it to the zygote.

    `release` is the number of the release that the plan was made of, 0 for an app without any.
    """

    plan: Plan
    artifact: Artifact
    sockets: Sequence[socket.socket]
    config: int
    release: int = 0

    def close(self) -> None:
        """Release what is this app's own."""
        os.close(self.config)


def kernel_limits(plan: Plan) -> Limits:
    """Return what the kernel is to hold each replica to."""
    app = plan.app
    return Limits(cpu_cores=app.cpu_cores, memory_bytes=app.memory_bytes, pids=app.pids)


def has_probes(app: App) -> bool:
    """Whether an app's workers are ready only when probes say so, or are probed later."""
    return bool(app.readiness or app.liveness or app.startup)


def waits_for_readiness(app: App) -> bool:
    """Whether clients come to a worker only once its probes have found it ready."""
    return app.readiness is not None or app.startup is not None


def worker_config(plan: Plan, settings: Settings) -> WorkerConfig:
    """Return what each worker is told at its start."""
    app = plan.app
    return WorkerConfig(
        app=str(plan.key),
        worker=plan.key.name,
        engine=plan.engine,
        trigger=app.trigger.value,
        memory_bytes=plan.guest_memory_bytes,
        args=plan.args,
        env=plan.env,
        preopens=tuple((mount.path, mount.is_read_only) for mount in plan.mounts),
        listeners=len(plan.listeners),
        guest_ports=plan.guest_ports,
        cost_limit=app.cost_limit,
        deadline_seconds=app.deadline_seconds,
        path=app.http.path,
        methods=app.http.methods,
        queue=app.http.queue,
        max_body_bytes=app.http.max_body_bytes,
        max_response_bytes=app.http.max_response_bytes,
        idle_timeout_seconds=app.http.idle_timeout_seconds,
        passes_authorization=app.http.passes_authorization,
        waits_for_readiness=waits_for_readiness(app),
        probed_exports=app.probed_exports,
        http=asdict(settings.http),
    )
