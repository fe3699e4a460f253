"""An app as decisions see it (`limpet.node.state`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limpet.node.rollout import surge_slots, unavailable_slots
from limpet.node.state import AppView, WorkerView

if TYPE_CHECKING:
    from limpet.node.apps import AppRuntime
    from limpet.node.workers import Worker


def view_app(runtime: AppRuntime) -> AppView:
    """Return an app as it stands now."""
    plan = runtime.prepared.plan if runtime.prepared else None
    rollout = runtime.rollout
    # A sleeping app's new release is started once, to see that it can be.
    is_tried = rollout.is_on_trial and runtime.is_target_prepared
    is_judged = plan is not None and rollout.progress.judged == plan.fingerprint
    return AppView(
        want=runtime.want,
        fingerprint=plan.fingerprint if plan else "",
        slots=plan.slots if plan else 0,
        is_prepared=plan is not None,
        scales_to_zero=plan is not None and plan.scales_to_zero,
        has_demand=runtime.has_demand or is_tried,
        replaces_before_start=replaces_before_start(runtime),
        stops_first=is_judged and rollout.progress.no_room is not None,
        is_held=rollout.is_held,
        is_on_hold=rollout.is_on_hold,
        max_surge=surge_slots(runtime.app),
        max_unavailable=unavailable_slots(runtime.app),
        workers=tuple(_view_worker(runtime, worker) for worker in runtime.workers.values()),
        retry_at=tuple((index, slot.retry_at) for index, slot in runtime.slots),
        wakes_at=rollout.wakes_at,
        completed=frozenset(index for index, slot in runtime.slots if slot.is_completed),
    )


def replaces_before_start(runtime: AppRuntime) -> bool:
    """Whether no worker of another plan may be there when one of the current plan starts."""
    if runtime.prepared is None:
        return False
    plan = runtime.prepared.plan
    return (
        plan.writes_volumes
        or runtime.app.rollout.is_recreated
        or any(plan.contends_with(worker.plan) for worker in runtime.workers.values())
    )


def _view_worker(runtime: AppRuntime, worker: Worker) -> WorkerView:
    return WorkerView(
        id=worker.id,
        slot=worker.slot,
        state=worker.state,
        fingerprint=worker.plan.fingerprint,
        available_at=worker.ready_since + runtime.app.rollout.min_ready_seconds,
    )
