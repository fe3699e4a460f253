"""One app's live workers: started or taken over, heard, found ready, drained, and gone.

What is to be started and what follows an end is others' business (`limpet.node.apps`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from limpet.node.egress import Connector
from limpet.node.listeners import revive
from limpet.node.output import open_log_pipes
from limpet.node.prepared import has_probes, kernel_limits
from limpet.node.readiness import Readiness
from limpet.node.state import WorkerState
from limpet.node.workers import Worker
from limpet.plan import serves
from limpet.worker.channel import close_all
from limpet.worker.messages import (
    Assign,
    Connect,
    Drain,
    Finished,
    Message,
    Notice,
    ProbeResult,
    Ready,
    Resolve,
    Stats,
    StatsRequest,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from limpet.egress import EgressPolicy
    from limpet.node.adoption import Taken
    from limpet.node.figures import Figures
    from limpet.node.keeper import Keeper
    from limpet.node.output import Output
    from limpet.node.prepared import Prepared
    from limpet.node.volumes import Volumes
    from limpet.plan import AppKey, Plan
    from limpet.worker.process import ExitInfo, Process
    from limpet.worker.supervisor import Zygotes


class Crew:
    """The workers, by number. Numbers and incarnations only grow, also from one agent to the next.

    `on_change` hears that decisions may differ now, `on_idle` that no worker has anything to do, `on_end`
    of every end; `record` makes an event (reason, message, is a warning).
    """

    def __init__(
        self,
        key: AppKey,
        *,
        zygotes: Zygotes,
        volumes: Volumes,
        keeper: Keeper,
        output: Output,
        figures: Figures,
        egress: Callable[[], EgressPolicy],
        on_change: Callable[[], None],
        on_idle: Callable[[], None],
        on_end: Callable[[Worker, ExitInfo], None],
        record: Callable[[str, str, bool], None],
    ) -> None:
        self.workers: dict[int, Worker] = {}
        self._key = key
        self._zygotes = zygotes
        self._volumes = volumes
        self._keeper = keeper
        self._output = output
        self._figures = figures
        self._connector = Connector(egress, lambda what: record("EgressDenied", what, True))
        self._readiness = Readiness(keeper, on_change=on_change, record=record)
        self._on_idle = on_idle
        self._on_end = on_end
        self._record = record
        self._last_number = 0
        self._incarnation = 0

    def count_from(self, *, number: int = 0, incarnation: int = 0) -> None:
        """Give no number and no incarnation again that was given up to these."""
        self._last_number = max(self._last_number, number)
        self._incarnation = max(self._incarnation, incarnation)

    @property
    def has_run(self) -> bool:
        """Whether any incarnation is known."""
        return self._incarnation > 0

    # Coming

    def start(self, prepared: Prepared, slot: int, *, is_from_zero: bool) -> None:
        """Start a worker; `is_from_zero` when a client waits for it. Raises OSError."""
        self._revive(prepared.sockets)
        plan = prepared.plan
        self._last_number += 1
        number = self._last_number
        # Runs are told apart and ordered by it: a clock that is set back must not undo that.
        self._incarnation = max(int(time.time() * 1000), self._incarnation + 1)
        incarnation = self._incarnation
        logs, outputs = open_log_pipes()
        directories: list[int] = []
        try:
            directories = self._volumes.open_mounts(self._key, plan.mounts)
            process = self._zygotes.of(plan.engine).take_worker(
                limits=kernel_limits(plan),
                is_component=plan.is_component,
                beside=self._replica_of(slot, plan),
                on_message=lambda _, message: self._on_message(number, message),
                on_exit=lambda _, info: self._on_exit(number, info),
            )
            worker = Worker(number, slot, plan, incarnation, process, is_from_zero=is_from_zero)
            worker.has_probes = has_probes(
                plan.app
            )  # the next agent has to know before it is ready
            self.workers[number] = worker
            self._keeper.hold_new(worker, logs, is_there=self._has)
            descriptors = [prepared.config, prepared.artifact.descriptor, *outputs]
            descriptors += [listening.fileno() for listening in prepared.sockets]
            process.send(Assign(), [*descriptors, *directories])
        except OSError:
            self.workers.pop(number, None)
            close_all(logs)
            raise
        finally:
            close_all((*outputs, *directories))
        self._output.read(logs, slot=slot, incarnation=incarnation)

    def adopt(self, taken: Taken, worker: Worker) -> None:
        """Go on with a worker that an earlier agent has started."""
        number = worker.id
        self.count_from(number=number, incarnation=worker.incarnation)
        self.workers[number] = worker
        if worker.drain_until is not None:
            worker.state = WorkerState.DRAINING
            grace = max(0.0, worker.drain_until - time.monotonic())
            asyncio.get_running_loop().call_later(grace, self._kill_drained, number)
        worker.process.hand_over(
            on_message=lambda _, message: self._on_message(number, message),
            on_exit=lambda _, info: self._on_exit(number, info),
        )
        self._output.read(taken.logs, slot=worker.slot, incarnation=worker.incarnation)
        taken.begin(self._zygotes)

    def confirm(self, plan: Plan) -> None:
        """Learn the plan of those that were adopted: what they had until now only stood in for it."""
        for worker in self.workers.values():
            if not worker.is_confirmed and worker.plan.fingerprint == plan.fingerprint:
                worker.plan = plan
                worker.is_confirmed = True
                self._readiness.probe(worker)

    def _has(self, worker: Worker) -> bool:
        """Whether a worker could be started and has not ended."""
        return self.workers.get(worker.id) is worker

    def _revive(self, sockets: Sequence[socket.socket]) -> None:
        """Let sockets listen again that a hostile worker has shut down: it harms its own app alone."""
        for listening in sockets:
            if revive(listening):
                port = listening.getsockname()[1]
                what = f"a worker had shut down the socket on port {port}; it listens again"
                self._record("ListenerShutDown", what, True)

    def _replica_of(self, slot: int, plan: Plan) -> Process | None:
        """Return another worker of the same replica: they share the app's limits."""
        per_replica = plan.app.workers
        for worker in self.workers.values():
            if (
                worker.slot // per_replica == slot // per_replica
                and worker.plan.fingerprint == plan.fingerprint
            ):
                return worker.process
        return None

    # Being there

    def _on_message(self, number: int, message: Message) -> None:
        worker = self.workers.get(number)
        if worker is None:
            return
        worker.has_spoken = True
        if isinstance(message, Ready):
            self._on_loaded(worker, message)
        elif isinstance(message, Stats):
            worker.stats = message
        elif isinstance(message, ProbeResult) and worker.prober is not None:
            worker.prober.on_result(message)
        elif isinstance(message, Connect):
            self._connector.serve(worker.process, message)
        elif isinstance(message, Resolve):
            self._connector.resolve(worker.process, message)
        elif isinstance(message, Finished) and not worker.has_finished:
            worker.has_finished = True
            self._keeper.hold(worker)
        elif isinstance(message, Notice) and message.reason == "Idle":
            self._on_idle_worker(worker)

    def _on_idle_worker(self, worker: Worker) -> None:
        # It repeats this for as long as it holds: what is not repeated is no longer so.
        patience = worker.plan.app.http.idle_timeout_seconds or 0.0
        worker.idle_until = time.monotonic() + 1.5 * patience
        if all(each.is_idle for each in self.workers.values()):
            self._on_idle()

    def _on_loaded(self, worker: Worker, message: Ready) -> None:
        if worker.is_loaded:
            return  # it says so once; a hostile one may repeat it, and gets no further probes
        self._readiness.note_loaded(worker)
        if not worker.is_adopted:
            self._figures.note_start(message, is_from_zero=worker.is_from_zero)
            self._record("Started", f"worker {worker.name} started", False)

    def request_stats(self) -> None:
        """Ask every worker for its counters; they arrive a little later."""
        for worker in self.workers.values():
            if serves(worker.plan.app):
                worker.process.send(StatsRequest())

    def count_idle_requests(self) -> int | None:
        """Return how many requests its workers have had; None when one is busy, or has not told yet."""
        total = 0
        for worker in self.workers.values():
            stats = worker.stats
            if worker.state is not WorkerState.READY or stats is None:
                return None
            if stats.in_flight or stats.queued:
                return None
            total += stats.requests
        return total

    def memory_bytes(self) -> int:
        """Return what the kernel charges to its workers; 0 where it does not count that."""
        groups = {id(w.process.group): w.process.group for w in self.workers.values()}
        total = 0
        for group in groups.values():
            with contextlib.suppress(OSError):  # its last process has just ended
                total += group.usage().memory_bytes if group is not None else 0
        return total

    # Going

    def drain(self, number: int) -> None:
        """Let a worker finish; end it when its grace period is over."""
        worker = self.workers[number]
        worker.state = WorkerState.DRAINING
        if worker.prober is not None:
            worker.prober.stop()
        grace = worker.plan.app.grace_seconds
        worker.drain_until = time.monotonic() + grace
        self._keeper.hold(worker)
        worker.process.send(Drain())
        asyncio.get_running_loop().call_later(grace, self._kill_drained, number)

    def _kill_drained(self, number: int) -> None:
        worker = self.workers.get(number)
        if worker is not None:
            seconds = worker.plan.app.grace_seconds
            what = f"{worker.name} did not finish in {seconds:.0f} s and was killed"
            self._record("Killed", what, True)
            worker.process.kill()

    def kill_all(self) -> None:
        """End every worker at once."""
        for worker in self.workers.values():
            worker.process.kill()

    def _on_exit(self, number: int, info: ExitInfo) -> None:
        worker = self.workers.pop(number, None)
        if worker is None:
            return
        if worker.prober is not None:
            worker.prober.stop()
        self._figures.note_end(worker.stats)
        self._on_end(worker, info)

    def close(self) -> None:
        """Give up what is being done for workers that are gone."""
        self._connector.stop()
