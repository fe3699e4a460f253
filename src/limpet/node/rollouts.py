"""Carries rollouts through: gives each app what it is to run, judges its newest release, goes back.

What is decided is decided in `limpet.node.rollout`; this looks at workers, writes verdicts down and
tells people.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from limpet.errors import LimpetError
from limpet.manifest.model import App, Trigger
from limpet.node.progress import Progress, Target
from limpet.node.releases import ReleaseUnusableError
from limpet.node.rollout import (
    RolloutView,
    Room,
    Status,
    decide_in_force,
    decide_side_by_side,
    decide_verdict,
    decide_wake_up_for_verdict,
    find_fallback,
    surge_slots,
)
from limpet.node.state import Want, WorkerState, is_asleep, is_available
from limpet.node.views import replaces_before_start, view_app
from limpet.plan import WORKER_SHARE_BYTES
from limpet.telemetry.process import read_available_bytes, read_usage

if TYPE_CHECKING:
    from collections.abc import Callable

    from limpet.node.apps import AppRuntime
    from limpet.node.objects import Objects
    from limpet.node.rollout import Verdict
    from limpet.settings import Settings
    from limpet.store.releases import Release


_LONGEST_MESSAGE = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Standing:
    """How many workers there are: `updated` of the release, `others` of whatever else."""

    slots: int = 0
    updated: int = 0
    available: int = 0
    others: int = 0
    is_prepared: bool = False
    is_asleep: bool = False

    @property
    def is_there(self) -> bool:
        """Whether the release is all there is, and all of it is available."""
        return self.is_prepared and self.available >= self.slots and not self.others


class Rollouts:
    """The rollouts of all apps.

    `record` makes an event of an app; `prepare` has an app prepared anew; `on_decided` hears that
    other releases are in force, so that sockets and routes may differ.
    """

    def __init__(
        self,
        objects: Objects,
        settings: Settings,
        *,
        record: Callable[[AppRuntime, str, str, bool], None],
        prepare: Callable[[AppRuntime], None],
        on_decided: Callable[[], None],
    ) -> None:
        self._objects = objects
        self._settings = settings
        self._record = record
        self._prepare = prepare
        self._on_decided = on_decided

    def releases(self, runtime: AppRuntime) -> tuple[Release, ...]:
        """Return the app's releases, oldest first; none for one that makes a single run."""
        return self._objects.releases.of(runtime.object_key) if runtime.rollout.has_releases else ()

    def adopt(self, runtime: AppRuntime, app: App) -> None:
        """Have a runtime want what its object says, by the release in force."""
        stored = self._objects.stored[(app.kind, app.namespace, app.name)]
        try:
            target, standby = self._objects.releases.targets(stored, app)
        except ReleaseUnusableError as error:
            self._record(runtime, error.reason, str(error), True)
            target, standby = Target(app, stored.digest), None
        if target.number != runtime.rollout.target.number:
            runtime.rollout.progress = Progress()
        was_held = runtime.rollout.is_held or runtime.rollout.is_on_hold
        runtime.rollout.target, runtime.rollout.standby = target, standby
        runtime.rollout.has_releases = app.has_releases
        known = self.releases(runtime)
        is_open = bool(known) and known[-1].status != Status.COMPLETE
        is_paused = is_open and app.rollout.is_paused
        runtime.rollout.is_held = is_paused and known[-1].number != target.number
        runtime.rollout.is_on_hold = is_paused and not runtime.rollout.is_held
        runtime.rollout.is_on_trial = standby is not None
        if was_held and not is_paused:
            runtime.rollout.progress.progressed_at = time.monotonic()

    def observe(self, runtime: AppRuntime) -> None:
        """Judge an app's newest release as it stands now, and note when to look again, if ever."""
        is_wanted = runtime.want is Want.RUNNING
        runtime.rollout.wakes_at = self._observe(runtime) if is_wanted else None

    def _observe(self, runtime: AppRuntime) -> float | None:
        self._judge_room(runtime)
        known = self.releases(runtime)
        if not known or not _is_open(runtime, known[-1]):
            return None
        standing = self._look(runtime)
        runtime.rollout.progress.note_state(
            is_prepared=standing.is_prepared,
            available=standing.available,
            is_there=standing.is_there,
        )
        if standing.available >= standing.slots and not runtime.rollout.progress.has_arrived:
            runtime.rollout.progress.has_arrived = True
            self._on_decided()  # before an old worker goes that a route may lead to
        view = self._view(runtime, standing)
        now = time.monotonic()
        verdict = decide_verdict(view, now)
        if verdict is None or verdict.status == known[-1].status:
            return decide_wake_up_for_verdict(view, now)
        try:
            self._decide(runtime, verdict)
        except LimpetError as error:  # a full disk: it stays open, and is judged again
            self._record(runtime, error.reason, f"the rollout can't be decided: {error}", True)
        return None

    def _look(self, runtime: AppRuntime) -> _Standing:
        """Count what there is of the release that is to run."""
        seen = view_app(runtime)
        now = time.monotonic()
        wanted = seen.fingerprint if runtime.is_target_prepared else ""
        live = [w for w in seen.workers if w.state is not WorkerState.DRAINING]
        slots = runtime.wanted_slots
        own = [w for w in live if w.fingerprint == wanted and w.slot < slots]
        return _Standing(
            slots=slots,
            updated=len(own),
            available=sum(is_available(worker, now) for worker in own),
            others=len(live) - len(own),
            is_prepared=runtime.is_target_prepared,
            is_asleep=runtime.is_target_prepared and is_asleep(seen),
        )

    def _view(self, runtime: AppRuntime, standing: _Standing) -> RolloutView:
        progress, app = runtime.rollout.progress, runtime.app
        # A command says nothing of itself but that it has not ended yet.
        is_mute = app.trigger is Trigger.COMMAND and runtime.rollout.standby is not None
        settles_at = progress.available_since or time.monotonic()
        refusal = (*progress.refusal, True) if progress.refusal is not None else None
        return RolloutView(
            slots=standing.slots,
            is_prepared=standing.is_prepared,
            is_asleep=standing.is_asleep,
            available=standing.available,
            others=standing.others,
            crashes=max(progress.crashes.values(), default=0),
            crash=progress.crash,
            problem=refusal or runtime.problem,
            progressed_at=progress.progressed_at,
            deadline_seconds=app.rollout.progress_deadline_seconds,
            settles_at=settles_at + self._settings.node.backoff_seconds if is_mute else 0.0,
        )

    def _decide(self, runtime: AppRuntime, verdict: Verdict) -> None:
        """Write a verdict down, then follow it."""
        releases = self._objects.releases
        number = self.releases(runtime)[-1].number
        message = f"{verdict.reason}: {verdict.message}" if verdict.reason else ""
        message = message[:_LONGEST_MESSAGE]
        releases.decide(runtime.object_key, verdict.status, message)
        if verdict.status is Status.COMPLETE:
            runtime.rollout.standby = None
            runtime.rollout.is_on_trial = False
            self._record(runtime, "ReleaseComplete", f"release {number} is complete", False)
            self._on_decided()
            return
        fallback = find_fallback(self.releases(runtime))
        if fallback is None:
            what = f"release {number} failed: {message}; there is none to go back to"
            self._record(runtime, "ReleaseFailed", f"{what}, so it is tried on", True)
            return
        what = f"release {number} failed: {message}; release {fallback.number} is in force again"
        self._record(runtime, "ReleaseFailed", what, True)
        self._go_back(runtime)

    def _go_back(self, runtime: AppRuntime) -> None:
        resource = self._objects.resources[runtime.object_key]
        if (
            runtime.prepared is not None
            and runtime.prepared.release == runtime.rollout.target.number
        ):
            runtime.unprepare()  # nothing more is started of it
        self.adopt(runtime, resource)  # type: ignore[arg-type]  # a runtime's object is an app
        runtime.slots.reset()
        self._prepare(runtime)
        self._on_decided()

    def _judge_room(self, runtime: AppRuntime) -> None:
        """Find out, once for each plan that replaces another one, whether both have room."""
        prepared, progress = runtime.prepared, runtime.rollout.progress
        if prepared is None or prepared.plan.fingerprint == progress.judged:
            return
        fingerprint = prepared.plan.fingerprint
        old = [
            worker for worker in runtime.workers.values() if worker.plan.fingerprint != fingerprint
        ]
        if not old:
            return
        progress.judged = fingerprint
        used = [read_usage(worker.process.pid) for worker in old if worker.process.pid]
        plan = prepared.plan
        room = Room(
            workers=min(surge_slots(plan.app), plan.slots),
            initial_bytes=prepared.artifact.info.memory_bytes + WORKER_SHARE_BYTES,
            used_bytes=max((usage.pss_bytes for usage in used if usage is not None), default=0),
            limit_bytes=plan.app.memory_bytes,
            available_bytes=read_available_bytes(),
            reserve_bytes=self._settings.rollout.reserve_bytes,
        )
        progress.no_room = decide_side_by_side(room)
        if progress.no_room is not None and not replaces_before_start(runtime):
            self._record(runtime, "StopThenStart", progress.no_room, False)

    def describe(self, runtime: AppRuntime) -> dict[str, object] | None:
        """Return how the newest release stands, for the API; None for an app without releases."""
        known = self.releases(runtime)
        if not known:
            return None
        newest = known[-1]
        resource = self._objects.resources[runtime.object_key]
        is_paused = isinstance(resource, App) and resource.rollout.is_paused
        in_force = decide_in_force(known, is_paused=is_paused)
        fallback = find_fallback(known)
        standing = self._look(runtime) if in_force is newest else _Standing()
        is_open = newest.status == Status.PROGRESSING
        no_room = runtime.rollout.progress.no_room if is_open else None
        return {
            "release": newest.number,
            "in_force": in_force.number,
            "previous": fallback.number if fallback is not None else None,
            "status": "paused" if is_open and is_paused else newest.status,
            "message": newest.message or no_room or "",
            "is_paused": is_paused,
            "updated": standing.updated,
            "available": standing.available,
            "old": standing.others,
        }


def _is_open(runtime: AppRuntime, newest: Release) -> bool:
    """Whether the newest release is the one that is run, and not known to work yet."""
    return (
        runtime.rollout.target.number == newest.number
        and newest.status in (Status.PROGRESSING, Status.FAILED)
        and not runtime.rollout.is_on_hold
    )
