"""What to do next, decided from what is wanted and what is there. Pure.

`decide_actions` looks at one app at a time and is called on every change: it names each step that can
be taken now and never waits for one. Carrying an action out twice is harmless.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

MAX_BACKOFF_SECONDS = 300.0


class WorkerState(StrEnum):
    """Where a worker is in its life."""

    STARTING = "Starting"
    READY = "Ready"
    DRAINING = "Draining"


class Want(StrEnum):
    """What an app should be."""

    RUNNING = "Running"
    DELETED = "Deleted"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
    """One live worker; `fingerprint` is the plan's that it was started from."""

    id: int
    slot: int
    state: WorkerState
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AppView:
    """One app as it stands.

    `slots` workers of plan `fingerprint` are wanted. `is_prepared` says that artifact and listening
    sockets are there. `retry_at` maps slots to the time before which they may not start again;
    `completed` are slots that ended and stay so. `has_demand` says that a client waits at an app that
    was scaled to zero.
    """

    want: Want
    fingerprint: str = ""
    slots: int = 0
    is_prepared: bool = False
    scales_to_zero: bool = False
    has_demand: bool = False
    replaces_before_start: bool = False
    workers: tuple[WorkerView, ...] = ()
    retry_at: tuple[tuple[int, float], ...] = ()
    completed: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Start:
    """Start a worker in this slot."""

    slot: int


@dataclass(frozen=True, slots=True)
class Drain:
    """Let this worker finish and go."""

    worker: int


@dataclass(frozen=True, slots=True)
class Watch:
    """Nothing runs: wait for a client at the listening sockets."""


@dataclass(frozen=True, slots=True)
class Forget:
    """Nothing is left of a deleted app but its folders and its entry: remove them."""


Action: TypeAlias = Start | Drain | Watch | Forget


def decide_actions(view: AppView, now: float) -> list[Action]:
    """Name what can be done now for this app, in the order in which it should be done."""
    drains: list[Action] = [
        Drain(worker.id) for worker in view.workers if worker.state is not WorkerState.DRAINING
    ]
    if view.want is Want.DELETED:
        return drains if view.workers else [Forget()]
    if not view.is_prepared:
        return []  # what runs goes on until its successor can start
    if view.scales_to_zero and not view.has_demand:
        return [*drains, Watch()]
    current = {
        worker.slot: worker
        for worker in view.workers
        if worker.fingerprint == view.fingerprint and worker.state is not WorkerState.DRAINING
    }
    outdated = [
        worker
        for worker in view.workers
        if worker.state is not WorkerState.DRAINING
        and (worker.slot >= view.slots or worker.fingerprint != view.fingerprint)
    ]
    return _decide_rollout(view, current, outdated, now)


def _decide_rollout(
    view: AppView, current: dict[int, WorkerView], outdated: list[WorkerView], now: float
) -> list[Action]:
    is_blocked = view.replaces_before_start and any(
        worker.fingerprint != view.fingerprint for worker in view.workers
    )
    retry_at = dict(view.retry_at)
    actions: list[Action] = []
    if not is_blocked:
        actions += [
            Start(slot)
            for slot in range(view.slots)
            if slot not in current and slot not in view.completed and retry_at.get(slot, 0) <= now
        ]
    ready = sum(
        worker.state is WorkerState.READY and slot < view.slots for slot, worker in current.items()
    )
    ready += sum(slot in view.completed and slot not in current for slot in range(view.slots))
    # Surplus slots and exclusive volumes don't wait; else an old worker goes as a new one gets ready.
    goes_now = [w for w in outdated if w.slot >= view.slots or view.replaces_before_start]
    stays = [w for w in outdated if w not in goes_now]
    stays.sort(key=lambda worker: worker.state is WorkerState.READY)  # what serves goes last
    goes_now += stays[: max(0, len(stays) - (view.slots - ready))]
    actions += [Drain(worker.id) for worker in goes_now]
    return actions


def decide_backoff(failures: int, *, first_seconds: float) -> float:
    """Return the pause before a worker that failed `failures` times in a row starts again.

    The first restart is immediate; then 10 s, doubling to 5 minutes, as the kubelet does it.
    """
    if failures <= 1:
        return 0.0
    return float(min(first_seconds * 2 ** min(failures - 2, 16), MAX_BACKOFF_SECONDS))


def decide_wake_up(views: list[AppView], now: float) -> float | None:
    """Return in how many seconds a decision is due that no event will announce; None if never."""
    times = [when for view in views for _, when in view.retry_at if when > now]
    return min(times) - now if times else None
