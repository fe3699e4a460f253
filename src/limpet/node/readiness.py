"""When a worker is ready for clients: once it has loaded, or once its probes say so."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from limpet.node.prepared import waits_for_readiness
from limpet.node.probes import Prober
from limpet.node.state import WorkerState
from limpet.worker.messages import Serve

if TYPE_CHECKING:
    from collections.abc import Callable

    from limpet.node.keeper import Keeper
    from limpet.node.workers import Worker


class Readiness:
    """Moves one app's workers between starting and ready.

    `on_change` hears of each move; `record` makes an event (reason, message, is a warning).
    """

    def __init__(
        self,
        keeper: Keeper,
        *,
        on_change: Callable[[], None],
        record: Callable[[str, str, bool], None],
    ) -> None:
        self._keeper = keeper
        self._on_change = on_change
        self._record = record

    def note_loaded(self, worker: Worker) -> None:
        """Learn that a worker has loaded its module."""
        worker.is_loaded = True
        if not worker.has_probes or worker.was_ready:
            self._set(worker, True, worker.assigned_at if worker.is_adopted else None)
        self.probe(worker)

    def probe(self, worker: Worker) -> None:
        """Begin to probe a worker that is loaded and known to have this app's plan."""
        if worker.has_probes and worker.is_loaded and worker.is_confirmed and worker.prober is None:
            worker.prober = Prober(
                worker,
                on_ready=self._set,
                on_dead=self._on_probe_failure,
                was_ready=worker.was_ready,
            )
            worker.prober.start()

    def _set(self, worker: Worker, is_ready: bool, since: float | None = None) -> None:  # noqa: FBT001 - a callback
        if worker.state is WorkerState.DRAINING:
            return
        worker.state = WorkerState.READY if is_ready else WorkerState.STARTING
        if is_ready:
            worker.ready_since = time.monotonic() if since is None else since
            worker.ready_at = worker.ready_at or worker.ready_since
            if waits_for_readiness(worker.plan.app):
                worker.process.send(Serve())
        if is_ready and worker.has_probes and not worker.was_ready:
            worker.was_ready = True
            self._keeper.hold(worker)
        self._on_change()

    def _on_probe_failure(self, worker: Worker, message: str) -> None:
        self._record("Unhealthy", f"worker {worker.name}: {message}; it is restarted", True)
        worker.process.kill()
