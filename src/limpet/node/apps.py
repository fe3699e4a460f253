"""One app as it runs on this node: what it is to be, what a start of it needs, and what became of it.

`AppRuntime` carries actions out and remembers what came of them; what to do is decided elsewhere
(`limpet.node.state`). Its parts own the rest: the live workers (`crew`), their places (`slots`), what they
print (`output`), what they have done (`figures`), whether clients want them (`demand`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from limpet.engine.choice import WASMEDGE
from limpet.node.crew import Crew
from limpet.node.demand import Demand
from limpet.node.figures import Figures
from limpet.node.identity import FigureRecord
from limpet.node.output import Output
from limpet.node.prepared import Prepared, worker_config
from limpet.node.progress import Rollout, Target
from limpet.node.slots import Slots
from limpet.node.state import Want, WorkerState
from limpet.worker.config import write_config

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from limpet.egress import EgressPolicy
    from limpet.manifest.model import App, Mount
    from limpet.node.adoption import Taken
    from limpet.node.identity import SlotRecord
    from limpet.node.keeper import Keeper
    from limpet.node.slots import Slot
    from limpet.node.volumes import Volumes
    from limpet.node.workers import Worker
    from limpet.plan import AppKey, Plan
    from limpet.settings import Settings
    from limpet.store.images import Usage
    from limpet.store.logs import AppLog, Record
    from limpet.store.modules import Artifact
    from limpet.worker.process import ExitInfo
    from limpet.worker.supervisor import Zygotes

# Its compiled code has no other way to notice that a stack is full.
_OVERFLOW_HINT = "on WasmEdge calls that nest too deep end so; Wasmtime makes a trap of them"


class AppRuntime:
    """One app. `problem` is what keeps it from being prepared: reason, message, only a change helps."""

    def __init__(
        self,
        key: AppKey,
        app: App,
        *,
        generation: int,
        created_at: float,
        settings: Settings,
        zygotes: Zygotes,
        volumes: Volumes,
        log: AppLog,
        keeper: Keeper,
        on_change: Callable[[AppKey], None],
        record: Callable[[AppRuntime, str, str, bool], None],
        egress: Callable[[App], EgressPolicy],
    ) -> None:
        self.key = key
        self.generation = generation
        self.created_at = created_at
        self.want = Want.RUNNING
        self.rollout = Rollout(Target(app, None))
        self.prepared: Prepared | None = None
        self.problem: tuple[str, str, bool] | None = ("Pending", "waiting to be prepared", False)
        self.slots = Slots()
        self.figures = Figures()
        self.log = log
        self._settings = settings
        self._volumes = volumes
        self._keeper = keeper
        self._tell_change = on_change
        self._report = record
        self._output = Output(log, settings.logs, app=key.name)
        self._demand = Demand(self._on_change)
        self._crew = Crew(
            key,
            zygotes=zygotes,
            volumes=volumes,
            keeper=keeper,
            output=self._output,
            figures=self.figures,
            egress=lambda: egress(self.app),
            on_change=self._on_change,
            on_idle=self._on_idle,
            on_end=self._on_end,
            record=self._record,
        )

    # What it is

    @property
    def app(self) -> App:
        """The app that is to run: the one of the release in force."""
        return self.rollout.target.app

    @property
    def object_key(self) -> tuple[str, str, str]:
        """Kind, namespace and name, for events."""
        return (self.app.kind, self.key.namespace, self.key.name)

    @property
    def workers(self) -> dict[int, Worker]:
        """The live workers, by number."""
        return self._crew.workers

    @property
    def wanted_slots(self) -> int:
        """How many workers the app is to have."""
        return self.app.replicas * self.app.workers

    @property
    def has_demand(self) -> bool:
        """Whether a client has come since it last had nothing to do, if it scales to zero."""
        return self._demand.is_there

    @property
    def is_stopped_until_asked(self) -> bool:
        """Whether the next client starts this app."""
        return self.want is Want.RUNNING and self._demand.is_watched

    @property
    def is_target_prepared(self) -> bool:
        """Whether what can be started is what is to run, not what ran before."""
        return self.prepared is not None and self.prepared.release == self.rollout.target.number

    @property
    def is_over(self) -> bool:
        """Whether the app has ended for good and everything it wrote is in its log."""
        is_ended = self.slots.ends(self.wanted_slots) is not None or self.want is Want.DELETED
        return not self.workers and self._output.is_read and is_ended

    @property
    def can_be_let_go(self) -> bool:
        """Whether its workers may be stopped at any time, as the next client starts them again."""
        plan = self.prepared.plan if self.prepared else None
        is_wanted = self.want is Want.RUNNING and self._demand.is_there
        return is_wanted and plan is not None and plan.scales_to_zero and bool(self.workers)

    def plans(self) -> list[Plan]:
        """Return every plan that is in use: the current one and those of workers still running."""
        found = [worker.plan for worker in self.workers.values()]
        return [*found, self.prepared.plan] if self.prepared else found

    # What a start needs

    def prepare(
        self, plan: Plan, artifact: Artifact, sockets: Sequence[socket.socket], *, release: int = 0
    ) -> None:
        """Take a plan that can be started from now on."""
        self.problem = None
        if release == self.rollout.target.number:
            self.rollout.progress.refusal = None
        if self.prepared is not None and self.prepared.plan == plan:
            self.prepared.release = release
            return
        if self.prepared is not None and self.prepared.plan.fingerprint != plan.fingerprint:
            self.slots.forgive()
        self.unprepare()
        if not self._crew.has_run:
            self._crew.count_from(incarnation=self._output.last_run())
        config = worker_config(plan, self._settings)
        self.prepared = Prepared(plan, artifact, sockets, write_config(config), release)
        self._crew.confirm(plan)

    def unprepare(self) -> None:
        """Give the current plan up; its workers run on."""
        self._demand.unwatch()
        if self.prepared is not None:
            self.prepared.close()
            self.prepared = None

    # Actions

    def start(self, index: int) -> None:
        """Start a worker of the current plan in this slot."""
        assert self.prepared is not None, "only a prepared app is started"
        self._demand.unwatch()
        try:
            self._crew.start(self.prepared, index, is_from_zero=self._demand.is_there)
        except OSError as error:
            first = self._settings.node.backoff_seconds
            pause = self.slots.of(index).fail_start(first_seconds=first)
            self._record("StartFailed", f"can't start: {error}; again in {pause:.0f} s", True)

    def drain(self, number: int) -> None:
        """Let a worker finish; end it when its grace period is over."""
        self._crew.drain(number)

    def watch(self) -> None:
        """Be told when a client comes to the sockets of an app that does not run."""
        if self.prepared is not None:
            self._demand.watch(self.prepared.sockets)

    def let_go(self) -> None:
        """Stop an app until its next client: what is in flight is finished."""
        self._demand.is_there = False
        self._on_change()

    # What came of them

    def _on_change(self) -> None:
        self._tell_change(self.key)

    def _on_idle(self) -> None:
        if self.want is Want.RUNNING:
            self.let_go()

    def _on_end(self, worker: Worker, info: ExitInfo) -> None:
        self._learn_end(worker, info)
        self._remember_end(worker)
        self._on_change()

    def _learn_end(self, worker: Worker, info: ExitInfo) -> None:
        slot = self.slots.of(worker.slot)
        if worker.state is WorkerState.DRAINING or worker.id <= slot.last_number:
            return
        said = worker.process.finished is not None
        if info.signal == "SIGSEGV" and worker.plan.engine == WASMEDGE:
            info = replace(info, message=f"{info.message}: {_OVERFLOW_HINT}")
        slot.note_end(worker, info)
        if info.reason == "SpawnFailed" and info.message == "the zygote died":
            return  # not the app's failure: it starts again at once
        if worker.is_adopted and info.is_success and not worker.has_spoken and not said:
            return  # its agent died before it had assigned it any work
        self._follow_end(worker, slot, info)

    def _follow_end(self, worker: Worker, slot: Slot, info: ExitInfo) -> None:
        """Plan what follows, and tell. What another plan's worker does says nothing of the one in force."""
        why = info.reason + (f": {info.message}" if info.message else "")
        what = f"worker {worker.name} ended: {why}"
        plan = self.prepared.plan if self.prepared is not None else None
        if plan is not None and worker.plan.fingerprint != plan.fingerprint:
            self._record(
                info.reason, f"{what}; what is in force now takes its place", not info.is_success
            )
            return
        restart = slot.decide(worker, info, first_seconds=self._settings.node.backoff_seconds)
        if restart is None:
            self._record(info.reason, what, not info.is_success)
            return
        if plan is not None:
            self.rollout.progress.note_crash(worker.slot, why, is_stable=restart.is_stable)
        pause = restart.pause_seconds
        when = f"it starts again in {pause:.0f} s" if pause else "it starts again at once"
        self._record(info.reason, f"{what}; {when}", not info.is_success)

    def _remember_end(self, worker: Worker) -> None:
        """Have it remembered that a worker has ended, and only then that there is none."""
        self._keeper.remember(self.figures.record(self.key, created_at=self.created_at))
        if worker.state is not WorkerState.DRAINING:
            self._keeper.remember(
                self.slots.record(
                    self.key,
                    worker.slot,
                    created_at=self.created_at,
                    generation=self.generation,
                )
            )
        self._keeper.release_worker(self.key, worker.id)

    def _record(self, reason: str, message: str, is_warning: bool) -> None:  # noqa: FBT001 - a callback
        self._report(self, reason, message, is_warning)

    # What an earlier agent left

    def recall(self, record: SlotRecord | FigureRecord) -> None:
        """Take up what it has remembered."""
        if isinstance(record, FigureRecord):
            self.figures.restore(record)
        else:
            self.slots.restore(record, generation=self.generation)
            self._crew.count_from(number=record.last_number)

    def adopt(self, taken: Taken) -> None:
        """Go on with a worker that it has started."""
        worker = taken.as_worker(self.app)
        is_at_work = taken.is_alive and worker.drain_until is None
        if is_at_work and self.app.http.idle_timeout_seconds:
            self._demand.is_there = True  # it says when that is over
        self._crew.adopt(taken, worker)

    # For who asks

    def volume_usage(self, mount: Mount) -> Usage | None:
        """Return how full a mounted claim is; None for one that has no size of its own here."""
        if mount.kind != "PersistentVolumeClaim":
            return None
        return self._volumes.usage(self.key.namespace, mount.source)

    def request_stats(self) -> None:
        """Ask every worker for its counters; they arrive a little later."""
        self._crew.request_stats()

    def count_idle_requests(self) -> int | None:
        """Return how many requests its workers have had; None when one is busy, or has not told yet."""
        return self._crew.count_idle_requests()

    def memory_bytes(self) -> int:
        """Return what the kernel charges to its workers; 0 where it does not count that."""
        return self._crew.memory_bytes()

    def last_output(self, lines: int) -> list[Record]:
        """Return the last lines of each worker that has failed, as it ended. Raises `LogFullError`."""
        runs = [
            (index, slot.last_incarnation)
            for index, slot in self.slots
            if slot.last_exit is not None and not slot.last_exit.is_success
        ]
        return self._output.last_lines(runs, lines)

    # Its end

    def drain_all(self) -> None:
        """Let every worker finish: the node stops."""
        self._demand.unwatch()
        for number in list(self.workers):
            self._crew.drain(number)

    def kill_all(self) -> None:
        """End every worker at once."""
        self._crew.kill_all()

    async def finish_streams(self) -> None:
        """Let what its workers printed reach the log."""
        await self._output.finish()

    def close(self) -> None:
        """Release what the app holds; its workers are gone."""
        self._crew.close()
        self.unprepare()
        self._output.close()

    def forget(self) -> None:
        """Have nothing remembered of an app that is deleted."""
        self._keeper.forget(self.key)
