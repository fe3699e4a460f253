"""Gives to the launcher what the next agent needs, should this one die.

A worker's sockets are given before it is assigned its work, so that none can work unknown to a next agent;
only where a client waits for its start it is a moment later, and such a worker, unknown, still serves for a
few seconds and ends (`limpet.worker.app`).
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from limpet.linux.process import read_start_ticks
from limpet.node.identity import FigureRecord, Identity, SlotRecord, format_record
from limpet.node.state import WorkerState
from limpet.telemetry.histogram import Histogram
from limpet.worker.messages import Hold, Release
from limpet.worker.process import ExitInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from limpet.node.apps import AppRuntime
    from limpet.node.workers import Worker
    from limpet.plan import AppKey
    from limpet.worker.messages import Message

_SAID = 2000
WORKER, SLOT, FIGURES = "worker", "slot", "figures"


class Keeper:
    """Knows what is held for which app; `tell` sends to the launcher."""

    def __init__(self, tell: Callable[[Message, Sequence[int]], None]) -> None:
        self._tell = tell
        self._held: dict[AppKey, set[str]] = {}

    def know(self, key: AppKey, name: str) -> None:
        """Take note that something is held that an earlier agent gave."""
        self._held.setdefault(key, set()).add(name)

    def hold(self, worker: Worker, logs: Sequence[int] = ()) -> None:
        """Have a worker held with its logs' pipes, or, without them, what is new of one that is."""
        identity, control = identify(worker), worker.process.control
        name = worker_name(worker.plan.key, worker.id)
        if identity is None:
            return
        if logs and control is not None:
            descriptors = (control, *logs)
        elif name in self._held.get(identity.key, ()):
            descriptors = ()
        else:
            return
        self._hold(identity.key, Hold(name, identity.pid, format_record(identity)), descriptors)

    def release_worker(self, key: AppKey, number: int) -> None:
        """Forget a worker that has ended, once its end is remembered."""
        self.release(key, worker_name(key, number))

    def remember_end(self, runtime: AppRuntime, worker: Worker) -> None:
        """Have it remembered that a worker has ended, and only then that there is none."""
        self.remember(describe_figures(runtime))
        if worker.state is not WorkerState.DRAINING:
            self.remember(describe_slot(runtime, worker.slot))
        self.release_worker(runtime.key, worker.id)

    def remember(self, record: SlotRecord | FigureRecord) -> None:
        """Have something remembered of an app."""
        key = record.key
        what = (
            f"{SLOT} {key}#{record.slot}" if isinstance(record, SlotRecord) else f"{FIGURES} {key}"
        )
        self._hold(key, Hold(what, 0, format_record(record)), ())

    def forget(self, key: AppKey) -> None:
        """Forget everything of an app that is gone."""
        for name in list(self._held.get(key, ())):
            self.release(key, name)

    def release(self, key: AppKey, name: str) -> None:
        """Forget what is held under this name, if it is."""
        names = self._held.get(key, set())
        if name in names:
            names.discard(name)
            if not names:
                del self._held[key]
            self._tell(Release(name), ())

    def drop(self, name: str) -> None:
        """Forget what is held for no app."""
        self._tell(Release(name), ())

    def _hold(self, key: AppKey, message: Hold, descriptors: Sequence[int]) -> None:
        self.know(key, message.name)
        self._tell(message, descriptors)


def identify(worker: Worker) -> Identity | None:
    """Return what a next agent has to know; None for what is no process yet, or none any more."""
    process, key, said = worker.process, worker.plan.key, worker.process.finished
    if worker.start_ticks is None and process.pid is not None:
        worker.start_ticks = read_start_ticks(process.pid)
    if worker.start_ticks is None or process.pid is None:
        return None
    return Identity(
        namespace=key.namespace,
        name=key.name,
        number=worker.id,
        slot=worker.slot,
        incarnation=worker.incarnation,
        fingerprint=worker.plan.fingerprint,
        engine=worker.plan.engine,
        is_component=process.is_component,
        pid=process.pid,
        start_ticks=worker.start_ticks,
        uid=process.uid,
        group=process.group.name if process.group is not None else "",
        grace_seconds=worker.plan.app.grace_seconds,
        started_at=worker.started_at,
        assigned_at=worker.assigned_at,
        is_from_zero=worker.is_from_zero,
        has_probes=worker.has_probes,
        was_ready=worker.was_ready,
        drain_until=worker.drain_until,
        # Its own words, so they are cut to what a message holds, however each character is spelt.
        said=(said.reason[:_SAID], said.exit_code, said.message[:_SAID], said.memory_bytes)
        if said
        else None,
    )


def describe_figures(runtime: AppRuntime) -> FigureRecord:
    """Return what an app's workers that have ended have done."""
    return FigureRecord(
        namespace=runtime.key.namespace,
        name=runtime.key.name,
        created_at=runtime.created_at,
        requests=runtime.requests,
        failed=runtime.failed,
        cold_starts=runtime.cold_starts,
        latency=tuple(runtime.latency.counts),
        start_times=tuple(runtime.start_times),
    )


def restore_figures(runtime: AppRuntime, record: FigureRecord) -> None:
    """Let an app's figures begin where they were."""
    runtime.requests, runtime.failed = record.requests, record.failed
    runtime.cold_starts = record.cold_starts
    runtime.latency = Histogram(record.latency)
    runtime.start_times.extend(record.start_times)


def describe_slot(runtime: AppRuntime, index: int) -> SlotRecord:
    """Return what is remembered of a worker's place."""
    slot = runtime.slot(index)
    return SlotRecord(
        namespace=runtime.key.namespace,
        name=runtime.key.name,
        created_at=runtime.created_at,
        generation=runtime.generation,
        slot=index,
        failures=slot.failures,
        restarts=slot.restarts,
        retry_at=slot.retry_at,
        is_completed=slot.is_completed,
        last_number=slot.last_number,
        last_exit=asdict(slot.last_exit) if slot.last_exit else None,
    )


def restore_slot(runtime: AppRuntime, record: SlotRecord) -> None:
    """Let a worker's place be as it was; what an app's change forgets is not brought back."""
    slot = runtime.slot(record.slot)
    slot.last_number = record.last_number
    slot.last_exit = ExitInfo(**record.last_exit) if record.last_exit else None
    if record.generation == runtime.generation:
        slot.failures, slot.restarts = record.failures, record.restarts
        slot.retry_at, slot.is_completed = record.retry_at, record.is_completed


def worker_name(key: AppKey, number: int) -> str:
    """Return the name under which a worker is held."""
    return f"{WORKER} {key}#{number}"
