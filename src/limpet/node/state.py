"""What to do next, decided from what is wanted and what is there. Pure.

`decide_actions` looks at one app at a time and is called on every change: it names each step that can
be taken now and never waits for one. Carrying an action out twice is harmless.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias


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
    """One live worker; `fingerprint` is the plan's that it was started from.

    One that is ready counts as available from `available_at` on.
    """

    id: int
    slot: int
    state: WorkerState
    fingerprint: str
    available_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AppView:
    """One app as it stands.

    `slots` workers of plan `fingerprint` are wanted. `is_prepared` says that artifact and listening
    sockets are there. `retry_at` maps slots to the time before which they may not start again;
    `completed` are slots that ended and stay so. `has_demand` says that a client waits at an app that
    was scaled to zero.

    While workers of another plan are left, at most `max_surge` workers are there beyond the wanted ones
    (None: any number), and all but `max_unavailable` of these are available if they were before.
    `replaces_before_start` has every worker of another plan end before one starts; `stops_first` has as
    many end as are to start, because memory does not suffice for both. `is_held` leaves workers of
    other plans where they are, `is_on_hold` starts nothing at all. `wakes_at` is when somebody else
    has to look at the app.
    """

    want: Want
    fingerprint: str = ""
    slots: int = 0
    is_prepared: bool = False
    scales_to_zero: bool = False
    has_demand: bool = False
    replaces_before_start: bool = False
    stops_first: bool = False
    is_held: bool = False
    is_on_hold: bool = False
    max_surge: int | None = None
    max_unavailable: int = 0
    workers: tuple[WorkerView, ...] = ()
    retry_at: tuple[tuple[int, float], ...] = ()
    completed: frozenset[int] = frozenset()
    wakes_at: float | None = None


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


def is_asleep(view: AppView) -> bool:
    """Whether nothing of the app is to run before a client comes."""
    return view.is_prepared and view.scales_to_zero and not view.has_demand


def decide_actions(view: AppView, now: float) -> list[Action]:
    """Name what can be done now for this app, in the order in which it should be done."""
    drains: list[Action] = [
        Drain(worker.id) for worker in view.workers if worker.state is not WorkerState.DRAINING
    ]
    if view.want is Want.DELETED:
        return drains if view.workers else [Forget()]
    if not view.is_prepared:
        return []  # what runs goes on until its successor can start
    if is_asleep(view):
        return [*drains, Watch()]
    return _decide_rollout(view, now)


def is_available(worker: WorkerView, now: float) -> bool:
    """Whether a worker has been ready for long enough."""
    return worker.state is WorkerState.READY and worker.available_at <= now


def _decide_rollout(view: AppView, now: float) -> list[Action]:
    live = [worker for worker in view.workers if worker.state is not WorkerState.DRAINING]
    current = {
        worker.slot: worker
        for worker in live
        if worker.slot < view.slots and worker.fingerprint == view.fingerprint
    }
    others = [worker for worker in live if current.get(worker.slot) is not worker]
    goes = _decide_drains(view, current, others, now)
    stays = [worker for worker in others if worker not in goes]
    starts = _decide_starts(view, current, stays, now)
    return [*(Start(slot) for slot in starts), *(Drain(worker.id) for worker in goes)]


def _decide_drains(
    view: AppView, current: dict[int, WorkerView], others: list[WorkerView], now: float
) -> list[WorkerView]:
    """Choose what goes: surplus and other plans' workers, as far as what is available allows."""
    held = [worker for worker in others if view.is_held and worker.slot < view.slots]
    others = [worker for worker in others if worker not in held]
    if view.replaces_before_start and not view.is_held:
        return others
    available = sum(is_available(worker, now) for worker in (*current.values(), *held))
    available += sum(slot in view.completed and slot not in current for slot in range(view.slots))
    unavailable = view.max_unavailable
    if view.stops_first:
        unavailable = max(unavailable, 1)
    # What serves goes last; of two alike the one whose place is no longer wanted goes first.
    others = sorted(others, key=lambda w: (is_available(w, now), _rank(w), w.slot < view.slots))
    return others[: max(0, len(others) - max(0, view.slots - unavailable - available))]


def _rank(worker: WorkerView) -> int:
    return 1 if worker.state is WorkerState.READY else 0


def _decide_starts(
    view: AppView, current: dict[int, WorkerView], stays: list[WorkerView], now: float
) -> list[int]:
    """Choose which places get a worker of the wanted plan now."""
    strangers = [worker for worker in view.workers if worker.fingerprint != view.fingerprint]
    if view.is_on_hold or (view.replaces_before_start and strangers):
        return []
    retry_at = dict(view.retry_at)
    missing = [
        slot for slot in range(view.slots) if slot not in current and slot not in view.completed
    ]
    if view.is_held:  # a worker of another plan fills its place as well
        filled = {worker.slot for worker in stays}
        missing = [slot for slot in missing if slot not in filled]
    due = [slot for slot in missing if retry_at.get(slot, 0) <= now]
    if view.stops_first and strangers:  # what drains holds its memory still
        room = view.slots - len(view.workers)
    elif view.is_held or not stays or view.max_surge is None:
        return due
    else:
        room = view.slots + view.max_surge - len(current) - len(stays)
    return due[: max(room, 0)]


def decide_wake_up(views: list[AppView], now: float) -> float | None:
    """Return in how many seconds a decision is due that no event will announce; None if never."""
    times = [when for view in views for _, when in view.retry_at if when > now]
    times += [
        worker.available_at
        for view in views
        for worker in view.workers
        if worker.available_at > now and worker.state is WorkerState.READY
    ]
    times += [view.wakes_at for view in views if view.wakes_at is not None and view.wakes_at > now]
    return min(times) - now if times else None
