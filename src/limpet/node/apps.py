"""One app as it runs on this node: its workers, their ends, its log and its figures.

`AppRuntime` carries actions out and remembers what came of them; what to do is decided elsewhere
(`limpet.node.state`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from limpet.engine.choice import WASMEDGE
from limpet.errors import LimpetError
from limpet.manifest.model import RestartPolicy
from limpet.node.egress import Connector
from limpet.node.identity import FigureRecord, SlotRecord
from limpet.node.keeper import restore_figures, restore_slot
from limpet.node.listeners import revive
from limpet.node.prepared import (
    Prepared,
    has_probes,
    kernel_limits,
    waits_for_readiness,
    worker_config,
)
from limpet.node.probes import Prober
from limpet.node.progress import Progress, Target
from limpet.node.rollout import surge_slots, unavailable_slots
from limpet.node.state import AppView, Want, WorkerState, WorkerView, decide_backoff
from limpet.node.streams import LogStream
from limpet.node.workers import Slot, Worker
from limpet.plan import serves, stand_in_plan
from limpet.store.database import Completion
from limpet.telemetry.histogram import Histogram
from limpet.worker.channel import close_all
from limpet.worker.config import write_config
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
    Serve,
    Stats,
    StatsRequest,
)
from limpet.worker.process import ExitInfo

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from limpet.egress import EgressPolicy
    from limpet.manifest.model import App, Mount
    from limpet.node.adoption import Taken
    from limpet.node.keeper import Keeper
    from limpet.node.volumes import Volumes
    from limpet.plan import AppKey, Plan
    from limpet.settings import Settings
    from limpet.store.images import Usage
    from limpet.store.logs import AppLog, Record
    from limpet.store.modules import Artifact
    from limpet.worker.process import Process
    from limpet.worker.supervisor import Zygotes

_KEPT_START_TIMES = 100
# A worker that a client waits for is given to the launcher when it has probably answered.
_HOLD_SECONDS = 0.02
# Its compiled code has no other way to notice that a stack is full.
_OVERFLOW_HINT = "on WasmEdge calls that nest too deep end so; Wasmtime makes a trap of them"


class AppRuntime:
    """One app's processes and figures."""

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
        self.app = app
        self.target = Target(app, None)
        self.standby: Target | None = None
        self.has_releases = False
        self.progress = Progress()
        self.is_held = False
        self.is_on_hold = False
        self.is_on_trial = False
        self.wakes_at: float | None = None
        self.generation = generation
        self.created_at = created_at
        self.want = Want.RUNNING
        self.prepared: Prepared | None = None
        self.problem: tuple[str, str, bool] | None = ("Pending", "waiting to be prepared", False)
        self.workers: dict[int, Worker] = {}
        self.slots: dict[int, Slot] = {}
        self.has_demand = False
        self.log = log
        self.latency = Histogram()
        self.requests = 0
        self.failed = 0
        self.start_times: deque[float] = deque(maxlen=_KEPT_START_TIMES)
        self.cold_starts = 0
        self._settings = settings
        self._zygotes = zygotes
        self._volumes = volumes
        self._keeper = keeper
        self._on_change = on_change
        self._record = record
        self._connector = Connector(
            lambda: egress(self.app),
            lambda what: record(self, "EgressDenied", what, True),
        )
        self._watched: list[socket.socket] = []
        self._serial = 0
        self._incarnation = 0
        self._streams: set[LogStream] = set()
        self._has_told_completion = False

    @property
    def object_key(self) -> tuple[str, str, str]:
        """Kind, namespace and name, for events."""
        return (self.app.kind, self.key.namespace, self.key.name)

    @property
    def is_stopped_until_asked(self) -> bool:
        """Whether the next client starts this app."""
        return self.want is Want.RUNNING and bool(self._watched)

    @property
    def is_target_prepared(self) -> bool:
        """Whether what can be started is what is to run, not what ran before."""
        return self.prepared is not None and self.prepared.release == self.target.number

    def slot(self, index: int) -> Slot:
        """Return what is remembered of a slot."""
        return self.slots.setdefault(index, Slot())

    def view(self) -> AppView:
        """Return the app as decisions see it."""
        plan = self.prepared.plan if self.prepared else None
        # A sleeping app's new release is started once, to see that it can be.
        is_tried = self.is_on_trial and self.is_target_prepared
        is_judged = plan is not None and self.progress.judged == plan.fingerprint
        return AppView(
            want=self.want,
            fingerprint=plan.fingerprint if plan else "",
            slots=plan.slots if plan else 0,
            is_prepared=plan is not None,
            scales_to_zero=plan is not None and plan.scales_to_zero,
            has_demand=self.has_demand or is_tried,
            replaces_before_start=plan is not None and self._replaces_before_start(plan),
            stops_first=is_judged and self.progress.no_room is not None,
            is_held=self.is_held,
            is_on_hold=self.is_on_hold,
            max_surge=surge_slots(self.app),
            max_unavailable=unavailable_slots(self.app),
            workers=tuple(
                WorkerView(
                    id=w.id,
                    slot=w.slot,
                    state=w.state,
                    fingerprint=w.plan.fingerprint,
                    available_at=w.ready_since + self.app.rollout.min_ready_seconds,
                )
                for w in self.workers.values()
            ),
            retry_at=tuple((index, slot.retry_at) for index, slot in self.slots.items()),
            wakes_at=self.wakes_at,
            completed=frozenset(index for index, slot in self.slots.items() if slot.is_completed),
        )

    def _replaces_before_start(self, plan: Plan) -> bool:
        """Whether no worker of another plan may be there when one of this plan starts."""
        return (
            plan.writes_volumes
            or self.app.rollout.is_recreated
            or any(plan.contends_with(worker.plan) for worker in self.workers.values())
        )

    def prepare(
        self, plan: Plan, artifact: Artifact, sockets: Sequence[socket.socket], *, release: int = 0
    ) -> None:
        """Take a plan that can be started from now on."""
        self.problem = None
        if self.prepared is not None and self.prepared.plan == plan:
            self.prepared.release = release
            return
        self.unprepare()
        if not self._incarnation:
            self._incarnation = self._read_last_run()
        config = worker_config(plan, self._settings)
        self.prepared = Prepared(plan, artifact, sockets, write_config(config), release)
        for worker in self.workers.values():
            if not worker.is_confirmed and worker.plan.fingerprint == plan.fingerprint:
                worker.plan = plan
                worker.is_confirmed = True
                self._begin_probes(worker)

    def _read_last_run(self) -> int:
        try:
            return self.log.last_run()
        except LimpetError:  # logs are worth a try, not an app
            return 0

    def unprepare(self) -> None:
        """Give the current plan up; its workers run on."""
        self.unwatch()
        if self.prepared is not None:
            self.prepared.close()
            self.prepared = None

    def reset_slots(self) -> None:
        """Forget failures and completions: the app was changed or applied anew."""
        self._has_told_completion = False
        for slot in self.slots.values():
            slot.failures = 0
            slot.restarts = 0
            slot.retry_at = 0.0
            slot.is_completed = False

    def start(self, index: int) -> None:
        """Start a worker of the current plan in this slot."""
        prepared = self.prepared
        assert prepared is not None, "only a prepared app is started"
        self._revive(prepared.sockets)
        self._serial += 1
        number = self._serial
        plan = prepared.plan
        # Runs are told apart and ordered by it: a clock that is set back must not undo that.
        self._incarnation = max(int(time.time() * 1000), self._incarnation + 1)
        incarnation = self._incarnation
        stdout_read, stdout_write = os.pipe2(os.O_CLOEXEC)
        stderr_read, stderr_write = os.pipe2(os.O_CLOEXEC)
        directories: list[int] = []
        try:
            directories = self._volumes.open_mounts(self.key, plan.mounts)
            process = self._zygotes.of(plan.engine).take_worker(
                limits=kernel_limits(plan),
                is_component=plan.is_component,
                beside=self._replica_of(index, plan),
                on_message=lambda _, message: self._on_message(number, message),
                on_exit=lambda _, info: self._on_exit(number, info),
            )
            worker = Worker(number, index, plan, incarnation, process)
            worker.is_from_zero = self.has_demand
            worker.has_probes = has_probes(
                plan.app
            )  # the next agent has to know before it is ready
            self.workers[number] = worker
            self._have_held(worker, (stdout_read, stderr_read))
            process.send(
                Assign(),
                [
                    prepared.config,
                    prepared.artifact.descriptor,
                    stdout_write,
                    stderr_write,
                    *(listening.fileno() for listening in prepared.sockets),
                    *directories,
                ],
            )
        except OSError as error:
            self.workers.pop(number, None)
            os.close(stdout_read)
            os.close(stderr_read)
            self._fail_start(index, error)
            return
        finally:
            for descriptor in (stdout_write, stderr_write, *directories):
                os.close(descriptor)
        self._read_logs((stdout_read, stderr_read), index, incarnation)

    def _read_logs(self, logs: tuple[int, int], index: int, incarnation: int) -> None:
        for descriptor, stream in zip(logs, (b"o", b"e"), strict=True):
            LogStream(
                descriptor,
                self.log,
                self._settings.logs,
                stream=stream,
                worker=f"{self.key.name}-{index}",
                incarnation=incarnation,
                registry=self._streams,
            )

    # For the next agent

    def _have_held(self, worker: Worker, logs: tuple[int, int]) -> None:
        """Give the worker to the launcher: before it works, unless that would keep a client waiting."""
        if not worker.is_from_zero or worker.plan.writes_volumes:
            worker.process.before_work(lambda: self._hold(worker, logs))
            return
        held = tuple(os.dup(descriptor) for descriptor in logs)  # the log may be over by then
        loop = asyncio.get_running_loop()
        loop.call_later(_HOLD_SECONDS, self._hold_late, worker, held)

    def _hold_late(self, worker: Worker, logs: tuple[int, ...]) -> None:
        if worker.process.pid is None and self.workers.get(worker.id) is worker:  # a slow start
            asyncio.get_running_loop().call_later(_HOLD_SECONDS, self._hold_late, worker, logs)
            return
        self._hold(worker, logs)
        close_all(logs)

    def _hold(self, worker: Worker, logs: tuple[int, ...]) -> None:
        if self.workers.get(worker.id) is worker:  # else it could not be started, or has ended
            self._keeper.hold(worker, logs)

    # After an earlier agent

    def recall(self, record: SlotRecord | FigureRecord) -> None:
        """Take up what an earlier agent has remembered."""
        if isinstance(record, FigureRecord):
            restore_figures(self, record)
        else:
            restore_slot(self, record)
            self._serial = max(self._serial, record.last_number)

    def adopt(self, taken: Taken) -> None:
        """Go on with a worker that an earlier agent has started.

        Whether it has the plan that is in force is known when that is prepared.
        """
        identity, process = taken.identity, taken.process
        number = identity.number
        self._serial = max(self._serial, number)
        self._incarnation = max(self._incarnation, identity.incarnation)
        app = replace(self.app, grace_seconds=identity.grace_seconds)
        plan = stand_in_plan(app, engine=identity.engine, fingerprint=identity.fingerprint)
        worker = Worker(number, identity.slot, plan, identity.incarnation, process)
        worker.started_at, worker.assigned_at = identity.started_at, identity.assigned_at
        worker.start_ticks = identity.start_ticks
        worker.was_ready, worker.has_probes = identity.was_ready, identity.has_probes
        worker.is_from_zero = identity.is_from_zero
        worker.drain_until = identity.drain_until
        worker.is_adopted, worker.is_confirmed = True, False
        self.workers[number] = worker
        if identity.drain_until is not None:
            worker.state = WorkerState.DRAINING
            grace = max(0.0, identity.drain_until - time.monotonic())
            asyncio.get_running_loop().call_later(grace, self._kill_drained, number)
        elif taken.is_alive and app.http.idle_timeout_seconds:
            self.has_demand = True  # it says when that is over
        process.hand_over(
            on_message=lambda _, message: self._on_message(number, message),
            on_exit=lambda _, info: self._on_exit(number, info),
        )
        self._read_logs(taken.logs, identity.slot, identity.incarnation)
        taken.begin(self._zygotes)

    def _revive(self, sockets: Sequence[socket.socket]) -> None:
        """Let sockets listen again that a hostile worker has shut down: it harms its own app alone."""
        for listening in sockets:
            if revive(listening):
                port = listening.getsockname()[1]
                what = f"a worker had shut down the socket on port {port}; it listens again"
                self._record(self, "ListenerShutDown", what, True)

    def _replica_of(self, index: int, plan: Plan) -> Process | None:
        """Return another worker of the same replica: they share the app's limits."""
        per_replica = plan.app.workers
        for worker in self.workers.values():
            if (
                worker.slot // per_replica == index // per_replica
                and worker.plan.fingerprint == plan.fingerprint
            ):
                return worker.process
        return None

    def _fail_start(self, index: int, error: OSError) -> None:
        slot = self.slot(index)
        slot.failures += 1
        pause = decide_backoff(slot.failures + 1, first_seconds=self._settings.node.backoff_seconds)
        slot.retry_at = time.monotonic() + pause
        self._record(self, "StartFailed", f"can't start: {error}; again in {pause:.0f} s", True)

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
            self._record(
                self,
                "Killed",
                f"{worker.name} did not finish in {seconds:.0f} s and was killed",
                True,
            )
            worker.process.kill()

    def watch(self) -> None:
        """Be told when a client comes to the sockets of an app that does not run."""
        if self._watched or self.prepared is None:
            return
        loop = asyncio.get_running_loop()
        self._watched = list(self.prepared.sockets)
        for listening in self._watched:
            loop.add_reader(listening.fileno(), self._on_demand)

    def unwatch(self) -> None:
        """Stop watching; workers accept by themselves."""
        for listening in self._watched:
            asyncio.get_running_loop().remove_reader(listening.fileno())
        self._watched = []

    def _on_demand(self) -> None:
        self.unwatch()
        self.has_demand = True
        self._on_change(self.key)

    def _on_message(self, number: int, message: Message) -> None:
        worker = self.workers.get(number)
        if worker is None:
            return
        worker.has_spoken = True
        if isinstance(message, Ready):
            self._on_ready(worker, message)
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
            # It repeats this for as long as it holds: what is not repeated is no longer so.
            patience = worker.plan.app.http.idle_timeout_seconds or 0.0
            worker.idle_until = time.monotonic() + 1.5 * patience
            if self.want is Want.RUNNING and all(w.is_idle for w in self.workers.values()):
                self.has_demand = False
                self._on_change(self.key)

    def _on_ready(self, worker: Worker, message: Ready) -> None:
        if worker.is_loaded:
            return  # it says so once; a hostile one may repeat it, and gets no further probes
        worker.is_loaded = True
        if not worker.has_probes or worker.was_ready:
            self._set_ready(worker, True, worker.assigned_at if worker.is_adopted else None)
        self._begin_probes(worker)
        if worker.is_adopted:
            return
        self.start_times.append(message.milliseconds)
        self.cold_starts += worker.is_from_zero
        self._record(self, "Started", f"worker {worker.name} started", False)

    def _begin_probes(self, worker: Worker) -> None:
        """Probe a worker that is loaded and has this app's plan."""
        if worker.has_probes and worker.is_loaded and worker.is_confirmed and worker.prober is None:
            worker.prober = Prober(
                worker,
                on_ready=self._set_ready,
                on_dead=self._on_probe_failure,
                was_ready=worker.was_ready,
            )
            worker.prober.start()

    def _set_ready(self, worker: Worker, is_ready: bool, since: float | None = None) -> None:  # noqa: FBT001 - a callback
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
        self._on_change(self.key)

    def _on_probe_failure(self, worker: Worker, message: str) -> None:
        self._record(self, "Unhealthy", f"worker {worker.name}: {message}; it is restarted", True)
        worker.process.kill()

    def _on_exit(self, number: int, info: ExitInfo) -> None:
        worker = self.workers.pop(number, None)
        if worker is None:
            return
        if worker.prober is not None:
            worker.prober.stop()
        if worker.stats is not None:
            self.requests += worker.stats.requests
            self.failed += worker.stats.failed
            if worker.stats.latency:
                self.latency.add(worker.stats.latency)
        self._learn_end(worker, info)
        self._keeper.remember_end(self, worker)
        self._on_change(self.key)

    def _learn_end(self, worker: Worker, info: ExitInfo) -> None:
        slot = self.slot(worker.slot)
        if worker.state is WorkerState.DRAINING or worker.id <= slot.last_number:
            return
        slot.last_number = worker.id
        said = worker.process.finished is not None
        if info.signal == "SIGSEGV" and worker.plan.engine == WASMEDGE:
            info = replace(info, message=f"{info.message}: {_OVERFLOW_HINT}")
        slot.last_exit = info
        slot.last_incarnation = worker.incarnation
        if info.reason == "SpawnFailed" and info.message == "the zygote died":
            return  # not the app's failure: it starts again at once
        if worker.is_adopted and info.is_success and not worker.has_spoken and not said:
            return  # its agent died before it had assigned it any work
        self._learn_exit(worker, slot, info)

    def _learn_exit(self, worker: Worker, slot: Slot, info: ExitInfo) -> None:
        app = worker.plan.app
        is_over = not self._should_restart(app, slot, info)
        what = f"worker {worker.name} ended: {info.reason}" + (
            f": {info.message}" if info.message else ""
        )
        if is_over:
            slot.is_completed = True
            self._record(self, info.reason, what, not info.is_success)
            return
        first = self._settings.node.backoff_seconds
        lasted = time.monotonic() - worker.ready_at if worker.ready_at is not None else 0.0
        pause = decide_backoff(slot.failures, first_seconds=first)
        is_stable = lasted >= max(pause, first)
        slot.failures = 1 if is_stable else slot.failures + 1
        if self.prepared is not None and worker.plan.fingerprint == self.prepared.plan.fingerprint:
            told = info.reason + (f": {info.message}" if info.message else "")
            self.progress.note_crash(worker.slot, told, is_stable=is_stable)
        slot.restarts += 1
        pause = decide_backoff(slot.failures, first_seconds=first)
        slot.retry_at = time.monotonic() + pause
        when = f"it starts again in {pause:.0f} s" if pause else "it starts again at once"
        self._record(self, info.reason, f"{what}; {when}", not info.is_success)

    def _should_restart(self, app: App, slot: Slot, info: ExitInfo) -> bool:
        if app.restart_policy is RestartPolicy.ALWAYS:
            return True
        if app.restart_policy is RestartPolicy.NEVER or info.is_success:
            return False
        return app.kind != "Job" or slot.restarts < app.backoff_limit

    def plans(self) -> list[Plan]:
        """Return every plan that is in use: the current one and those of workers still running."""
        found = [worker.plan for worker in self.workers.values()]
        return [*found, self.prepared.plan] if self.prepared else found

    @property
    def serving_app(self) -> App:
        """The app that clients are to be led to: until a release is available, the one before."""
        if self.standby is None or self.progress.has_arrived:
            return self.app
        return self.standby.app

    def apps(self) -> list[App]:
        """Return every app whose sockets and volumes are to stay: what runs, and what may again."""
        return [self.app, self.standby.app] if self.standby is not None else [self.app]

    @property
    def is_over(self) -> bool:
        """Whether the app has ended for good and everything it wrote is in its log."""
        slots = [self.slots.get(index) for index in range(self.app.replicas * self.app.workers)]
        is_ended = bool(slots) and all(slot is not None and slot.is_completed for slot in slots)
        return not self.workers and not self._streams and (is_ended or self.want is Want.DELETED)

    def take_completion(self) -> Completion | None:
        """Return how the app ended, once, when it has: a Job or Pod whose slots are all over."""
        if self._has_told_completion or self.prepared is None or self.app.kind == "Deployment":
            return None
        slots = [self.slots.get(index) for index in range(self.prepared.plan.slots)]
        if not slots or not all(slot is not None and slot.is_completed for slot in slots):
            return None
        self._has_told_completion = True
        info = next(
            (s.last_exit for s in slots if s and s.last_exit and not s.last_exit.is_success),
            slots[0].last_exit if slots[0] else None,
        )
        if info is None:
            return None
        return Completion(
            kind=self.app.kind,
            namespace=self.key.namespace,
            name=self.key.name,
            generation=self.generation,
            reason=info.reason,
            message=info.message,
            exit_code=info.exit_code,
            finished_at=info.finished_at,
        )

    def restore_completion(self, completion: Completion) -> None:
        """Take up how the app ended before the agent was restarted: it does not run again."""
        self._has_told_completion = True
        for index in range(self.app.replicas * self.app.workers):
            slot = self.slot(index)
            slot.is_completed = True
            slot.last_exit = ExitInfo(
                reason=completion.reason,
                message=completion.message,
                exit_code=completion.exit_code,
                finished_at=completion.finished_at,
            )

    def volume_usage(self, mount: Mount) -> Usage | None:
        """Return how full a mounted claim is; None for one that has no size of its own here."""
        if mount.kind != "PersistentVolumeClaim":
            return None
        return self._volumes.usage(self.key.namespace, mount.source)

    @property
    def can_be_let_go(self) -> bool:
        """Whether its workers may be stopped at any time, as the next client starts them again."""
        plan = self.prepared.plan if self.prepared else None
        is_wanted = self.want is Want.RUNNING and self.has_demand
        return is_wanted and plan is not None and plan.scales_to_zero and bool(self.workers)

    def let_go(self) -> None:
        """Stop an app until its next client: what is in flight is finished."""
        self.has_demand = False
        self._on_change(self.key)

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

    def last_output(self, lines: int) -> list[Record]:
        """Return the last lines of each worker that has failed, as it ended. Raises `LogFullError`."""
        found: list[Record] = []
        for index, slot in sorted(self.slots.items()):
            if slot.last_exit is not None and not slot.last_exit.is_success:
                run = (f"{self.key.name}-{index}", slot.last_incarnation)
                found += self.log.read(tail=lines, runs=[run])
        return found[-4 * lines :]

    def request_stats(self) -> None:
        """Ask every worker for its counters; they arrive a little later."""
        for worker in self.workers.values():
            if serves(worker.plan.app):
                worker.process.send(StatsRequest())

    def kill_all(self) -> None:
        """End every worker at once."""
        for worker in self.workers.values():
            worker.process.kill()

    def forget(self) -> None:
        """Have nothing remembered of an app that is deleted."""
        self._keeper.forget(self.key)

    def close(self) -> None:
        """Release what the app holds; its workers are gone."""
        self._connector.stop()
        self.unprepare()
        for stream in list(self._streams):
            stream.close()

    async def finish_streams(self, seconds: float = 1.0) -> None:
        """Let the log pipes run empty."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._streams:  # noqa: ASYNC110 - any of many ends
                    await asyncio.sleep(0.01)
