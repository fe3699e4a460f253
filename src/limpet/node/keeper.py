"""Gives to the launcher what the next agent needs, should this one die.

A worker's sockets are given before it is assigned its work, so that none can work unknown to a next agent;
only where a client waits for its start it is a moment later, and such a worker, unknown, still serves for a
few seconds and ends (`limpet.worker.app`).
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from limpet.linux.process import read_start_ticks
from limpet.node.identity import FigureRecord, Identity, SlotRecord, format_record
from limpet.worker.channel import close_all
from limpet.worker.messages import Hold, Release

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from limpet.node.workers import Worker
    from limpet.plan import AppKey
    from limpet.worker.messages import Message

_SAID = 2000
# A worker that a client waits for is given to the launcher when it has probably answered.
_HOLD_SECONDS = 0.02
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

    def hold_new(
        self, worker: Worker, logs: tuple[int, int], *, is_there: Callable[[Worker], bool]
    ) -> None:
        """Have a new worker held: before it works, unless that would keep a client waiting.

        `is_there` says whether it is still there by then. Raises OSError.
        """
        if not worker.is_from_zero or worker.plan.writes_volumes:
            worker.process.before_work(lambda: self._hold_now(worker, logs, is_there))
            return
        held = tuple(os.dup(descriptor) for descriptor in logs)  # the log may be over by then
        self._later(worker, held, is_there)

    def _later(
        self, worker: Worker, logs: tuple[int, ...], is_there: Callable[[Worker], bool]
    ) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(_HOLD_SECONDS, self._hold_late, worker, logs, is_there)

    def _hold_late(
        self, worker: Worker, logs: tuple[int, ...], is_there: Callable[[Worker], bool]
    ) -> None:
        if worker.process.pid is None and is_there(worker):  # a slow start
            self._later(worker, logs, is_there)
            return
        self._hold_now(worker, logs, is_there)
        close_all(logs)

    def _hold_now(
        self, worker: Worker, logs: tuple[int, ...], is_there: Callable[[Worker], bool]
    ) -> None:
        if is_there(worker):  # else it could not be started, or has ended
            self.hold(worker, logs)

    def release_worker(self, key: AppKey, number: int) -> None:
        """Forget a worker that has ended, once its end is remembered."""
        self.release(key, worker_name(key, number))

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


def worker_name(key: AppKey, number: int) -> str:
    """Return the name under which a worker is held."""
    return f"{WORKER} {key}#{number}"
