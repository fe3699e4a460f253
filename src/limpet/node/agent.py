"""The agent: one asyncio process that makes what runs equal what was asked for.

Every change (an apply, a worker's end, a client at the door, a timer) leads to one place,
`_reconcile`, which looks at one app, lets `limpet.node.state` decide, and carries the actions out.
Nothing waits in it: fetching and compiling are tasks that end in another reconcile.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Protocol

from limpet import __version__
from limpet.errors import (
    ConflictError,
    LimpetError,
    UnavailableError,
)
from limpet.linux.process import set_process_name
from limpet.manifest.model import App, Ingress, PersistentVolumeClaim
from limpet.node.adoption import Adoption, read_estate
from limpet.node.apps import AppRuntime
from limpet.node.bundles import Bundles
from limpet.node.care import Care
from limpet.node.events import Events
from limpet.node.keeper import Keeper
from limpet.node.keys import NodeKeys
from limpet.node.listeners import Listeners
from limpet.node.manifests.folder import ManifestFolder
from limpet.node.manifests.parsing import Parser
from limpet.node.modules import Modules
from limpet.node.objects import Objects
from limpet.node.preparing import Preparer
from limpet.node.progress import Progress
from limpet.node.pulling import Puller
from limpet.node.rollouts import Rollouts
from limpet.node.router import RouterProcess
from limpet.node.state import (
    Drain,
    Forget,
    Start,
    Want,
    Watch,
    decide_actions,
    decide_wake_up,
)
from limpet.node.upgrading import Upgrades
from limpet.node.volumes import Volumes
from limpet.plan import (
    AppKey,
    Catalog,
    Listener,
    app_key,
    compile_egress,
    compile_listeners,
)
from limpet.provision.facilities import Standing
from limpet.store.database import Completion, Database, ObjectKey
from limpet.store.files import make_directory
from limpet.store.logs import LogStore
from limpet.store.modules import ModuleStore
from limpet.store.plain_logs import adopt_plain_logs
from limpet.store.reserve import Reserve
from limpet.worker.channel import Channel
from limpet.worker.limits import Groups
from limpet.worker.messages import (
    Drop,
    Exited,
    Keep,
    Message,
    MessageError,
    StartZygote,
    ZygoteStarted,
)
from limpet.worker.supervisor import Zygotes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from limpet.manifest.model import Resource
    from limpet.node.launcher import Inheritance
    from limpet.settings import Settings
    from limpet.store.images import Usage
    from limpet.store.unlock import Stretching

_FLUSH_SECONDS = 1.0
_SPARE_SECONDS = 0.02


class Api(Protocol):
    """What serves the agent to this device's operator."""

    async def start(self, path: Path) -> None:
        """Listen. Raises LimpetError."""

    async def stop(self) -> None:
        """Stop listening and end every call."""


class Agent:
    """The node's single owner of state."""

    def __init__(
        self,
        settings: Settings,
        *,
        launcher: Channel,
        inheritance: Inheritance,
    ) -> None:
        self.settings = settings
        self.name = settings.node.name or socket.gethostname()
        self.started_at = time.time()
        self.restarts = inheritance.restarts
        self.groups = Groups(_group_name(settings.node.data_directory))
        first_uid = settings.sandbox.first_uid
        self.zygotes = Zygotes(
            self.groups,
            range(first_uid, first_uid + settings.sandbox.uids),
            start=self._start_zygote,
        )
        directory = settings.node.data_directory
        self.reserve = Reserve(directory, settings.disk.reserve_bytes)
        self.database = Database(
            directory / "state.db",
            node=self.name,
            max_bytes=settings.state.max_bytes,
            kept_backups=settings.state.backups,
            make_room=self.reserve.give_up,
        )
        self.store = ModuleStore(directory)
        self.events = Events(self.database)
        self.logs = LogStore(
            directory / "logs.db",
            settings.logs,
            on_problem=lambda message: self._announce("LogsSetAside", message),
        )
        self.keys = NodeKeys(
            settings,
            descriptor=inheritance.unlock,
            database=self.database,
            logs=self.logs,
            modules=self.store,
        )
        self.apps: dict[AppKey, AppRuntime] = {}
        self.objects = Objects(self.database, self.store)
        self._launcher = launcher
        self._keeper = Keeper(self._tell_launcher)
        self._estate = read_estate(inheritance.held)
        self._last_status = inheritance.last_status
        self._volumes = Volumes(directory, self.keys, self._announce)
        self._listeners = Listeners(inheritance.sockets, keep=self._keep, drop=self._drop)
        self._catalog = Catalog([])
        self._dirty: set[AppKey] = set()
        self._is_reconcile_due = False
        self._unwritten: deque[Completion] = deque()
        self._wake_up: asyncio.TimerHandle | None = None
        self._stopping = asyncio.Event()
        self._is_stopping = False
        self.modules = Modules(self.store, self.zygotes)
        self.bundles = Bundles(settings, self.zygotes, self.store)
        self._puller = Puller(
            settings.registry,
            directory=directory,
            database=self.database,
            store=self.store,
            modules=self.modules,
            zygotes=self.zygotes,
            find_secret=self.objects.pull_secret,
        )
        self._preparer = Preparer(
            settings,
            node_name=self.name,
            objects=self.objects,
            store=self.store,
            modules=self.modules,
            puller=self._puller,
            volumes=self._volumes,
            listeners=self._listeners,
            zygotes=self.zygotes,
            catalog=lambda: self._catalog,
            standing=self.standing,
            on_prepared=self._on_change,
            record=self.record_app,
        )
        self.manifests = ManifestFolder(
            settings.manifests_folder,
            rescan_seconds=settings.node.manifests_rescan_seconds,
            retry_seconds=settings.node.resync_seconds,
            database=self.database,
            objects=self.objects,
            modules=self.store,
            parser=Parser(self.zygotes),
            change=self.change,
            record=self.record_node,
            record_object=lambda key, reason, message, is_warning: self.events.record(
                reason, message, of=key, is_warning=is_warning
            ),
        )
        self.rollouts = Rollouts(
            self.objects,
            settings,
            record=self.record_app,
            prepare=self._preparer.prepare,
            on_decided=self._reroute,
        )
        self._router = RouterProcess(
            self.zygotes.default, settings, self._listeners, self._announce
        )

        self.care = Care(self, self.modules)
        self.upgrades = Upgrades(
            self,
            is_on_trial=inheritance.is_on_trial,
            failure=inheritance.trial_failure,
            tell=self._tell_launcher,
            on_over=self.manifests.start,
        )

    # Life

    async def run(self, api: Api) -> None:
        """Serve until told to stop. Raises LimpetError when the node can't start."""
        set_process_name("limpet-agent")
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        self.reserve.give_up()  # on a full disk the state could not even be opened
        self.upgrades.open()
        self.keys.open()
        self.groups.open(keep=self._estate.groups)
        self.events.load()
        self._adopt_plain_logs()
        self._load()
        self.care.open()
        self.manifests.load()
        adopted = self._adopt_workers()
        self._volumes.remove_leftovers()
        self._launcher.set_blocking(False)
        loop.add_reader(self._launcher.fileno(), self._read_launcher)
        await api.start(self.settings.node.socket_path)
        if self.restarts:
            how = os.waitstatus_to_exitcode(self._last_status)
            what = f"signal {-how}" if how < 0 else f"exit code {how}"
            self._announce(
                "AgentRestarted",
                f"the agent had ended by {what} and was started again; {adopted} workers went on",
            )
        sys.stdout.write(
            f"limpet {__version__}: node {self.name} is up, its API on "
            f"{self.settings.node.socket_path}, its data in {self.settings.node.data_directory}\n"
        )
        sys.stdout.flush()
        flusher = loop.create_task(self._flush_forever(), name="events")
        trimmer = loop.create_task(self._trim_forever(), name="trim")
        carer = loop.create_task(self.care.run(), name="care")
        self._replan()
        self.upgrades.begin()
        if not self.upgrades.is_undecided:
            self.manifests.start()
        await self._stopping.wait()
        self._is_stopping = True
        self.upgrades.stop()
        self.manifests.stop()
        await api.stop()
        await self._drain_all()
        flusher.cancel()
        trimmer.cancel()
        carer.cancel()
        self.flush()
        with contextlib.suppress(LimpetError):
            self.logs.close()
        self._volumes.close()
        self.database.close()
        self.groups.close()

    def _adopt_plain_logs(self) -> None:
        """Take over what an earlier version logged. Logs are worth a try, not a node."""
        plain = self.settings.node.data_directory / "logs"
        if plain.is_dir():
            try:
                adopt_plain_logs(plain, self.logs)
            except (LimpetError, OSError, ValueError) as error:
                self._announce(
                    "PlainLogs", f"can't encrypt the logs in {plain} ({error}); remove that folder"
                )

    def _load(self) -> None:
        completions = {(c.kind, c.namespace, c.name): c for c in self.database.load_completions()}
        # Written by another version of Limpet: kept as it is, said aloud, not run.
        self.objects.load(lambda key, why: self._record(key, "InvalidObject", why))
        self._puller.sweep(self.objects.apps())
        for key in self.objects.resources:
            self._adopt(key, completions.get(key))

    def _adopt_workers(self) -> int:
        """Go on with what an earlier agent has left; return how many workers that are."""
        adoption = Adoption(
            self._estate, zygotes=self.zygotes, groups=self.groups, keeper=self._keeper
        )
        return adoption.carry_out(self.apps)

    async def _drain_all(self) -> None:
        self._preparer.cancel_all()
        self._router.stop()
        for runtime in self.apps.values():
            runtime.unwatch()
            for number in list(runtime.workers):
                runtime.drain(number)
        grace = max((r.app.grace_seconds for r in self.apps.values() if r.workers), default=0.0)
        deadline = time.monotonic() + grace + 2
        while time.monotonic() < deadline and any(r.workers for r in self.apps.values()):  # noqa: ASYNC110 - any of many ends
            await asyncio.sleep(0.01)
        for runtime in self.apps.values():
            runtime.kill_all()
            await runtime.finish_streams()
            runtime.close()

    async def _flush_forever(self) -> None:
        logs_due_at = 0.0
        while True:
            await asyncio.sleep(_FLUSH_SECONDS)
            flushes = [self._write_completions, self.events.flush_when_due]
            if time.monotonic() >= logs_due_at:
                logs_due_at = time.monotonic() + self.settings.logs.flush_seconds - _FLUSH_SECONDS
                flushes.append(self.logs.flush)
            for flush in flushes:
                # A full disk: they stay in memory and are tried again.
                with contextlib.suppress(LimpetError):
                    flush()

    def flush(self) -> None:
        """Write what waits. On a full disk that is not possible, and the rest goes on."""
        for flush in (self._write_completions, self.events.flush, self.logs.flush):
            with contextlib.suppress(LimpetError):
                flush()

    async def _trim_forever(self) -> None:
        while True:
            await asyncio.sleep(self.settings.volumes.trim_hours * 3600)
            try:
                await self._volumes.trim()
            except LimpetError as error:
                self._announce("VolumesNotTrimmed", str(error))

    # The launcher: zygotes come from it, listening sockets rest with it.

    def _read_launcher(self) -> None:
        try:
            received = self._launcher.receive()
        except BlockingIOError:
            return
        except MessageError:
            received = None
        if received is None:
            self._stopping.set()
            asyncio.get_running_loop().remove_reader(self._launcher.fileno())
            return
        message, descriptors = received
        if isinstance(message, ZygoteStarted):
            self._adopt_zygote(message, Channel.from_descriptor(descriptors[0]))
        elif isinstance(message, Exited):
            for zygote in self.zygotes:
                zygote.on_exited(message)

    def _adopt_zygote(self, started: ZygoteStarted, channel: Channel) -> None:
        zygote = self.zygotes.of(started.engine)
        is_replaced = zygote.is_known and started.restarts > zygote.restarts
        zygote.restarts = started.restarts
        zygote.attach(channel, started.pid)
        if is_replaced:
            how = os.waitstatus_to_exitcode(started.status)
            what = f"signal {-how}" if how < 0 else f"exit code {how}"
            self._announce(
                "ZygoteRestarted",
                f"the zygote for {started.engine} had ended by {what} and was started again",
            )

    def _start_zygote(self, engine: str) -> None:
        self._tell_launcher(StartZygote(engine))

    def _keep(self, name: str, listening: socket.socket) -> None:
        self._tell_launcher(Keep(name), [listening.fileno()])

    def _drop(self, name: str) -> None:
        self._tell_launcher(Drop(name))

    def _tell_launcher(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send to the launcher, which always reads: it never waits for the agent."""
        self._launcher.set_blocking(True)
        try:
            self._launcher.send(message, descriptors)
        finally:
            self._launcher.set_blocking(False)

    # Desired state

    def apply(
        self,
        requested: Sequence[tuple[dict[str, object], str | None]],
        *,
        dry_run: bool = False,
        carries_over: bool = True,
    ) -> list[dict[str, object]]:
        """Create or change objects, all or none; durable on return. Raises LimpetError."""
        results = self.change(requested, dry_run=dry_run, carries_over=carries_over)
        for result in results:
            key = (str(result["kind"]), str(result["namespace"]), str(result["name"]))
            warnings = result["warnings"]
            assert isinstance(warnings, list), "each result has its list"
            warnings += self.manifests.warn_by_hand(key)
        return results

    def change(
        self,
        requested: Sequence[tuple[dict[str, object], str | None]],
        *,
        removed: Sequence[ObjectKey] = (),
        alongside: Callable[[], None] | None = None,
        dry_run: bool = False,
        carries_over: bool = True,
    ) -> list[dict[str, object]]:
        """Create, change and delete objects, all or none; durable on return. Raises LimpetError.

        `alongside` is for what else belongs to the same transaction.
        """
        leaving = [self.objects.resources.get(key) for key in removed]
        results, changed = self.objects.apply(
            requested,
            dry_run=dry_run,
            removed=removed,
            alongside=alongside,
            carries_over=carries_over,
        )
        if dry_run:
            return results
        for resource in leaving:
            self._retire(resource)
        for key in changed:
            self._adopt(key, None)
        if changed or removed:
            self._replan()
        return results

    def delete(self, key: ObjectKey) -> None:
        """Delete an object; durable on return. Raises `NotFoundError`."""
        resource = self.objects.require(key)
        if isinstance(resource, PersistentVolumeClaim):
            self._check_unused(resource)
        self.objects.delete(key)
        self._retire(resource)
        self._replan()

    def _retire(self, resource: Resource | None) -> None:
        """Want no longer what a deleted object said."""
        if isinstance(resource, App):
            runtime = self.apps[app_key(resource)]
            runtime.want = Want.DELETED
            runtime.progress = Progress()
            runtime.unprepare()
        elif isinstance(resource, PersistentVolumeClaim):
            self._volumes.retire_claim(resource.namespace, resource.name)
            self._remove_retired_volumes()

    def _remove_retired_volumes(self) -> None:
        """Remove the data of deleted claims, once no app is left that drains."""
        if all(runtime.want is Want.RUNNING for runtime in self.apps.values()):
            self._volumes.remove_retired()

    def _check_unused(self, claim: PersistentVolumeClaim) -> None:
        for runtime in self.apps.values():
            apps = runtime.apps() if runtime.want is Want.RUNNING else []
            for mount in (mount for app in apps for mount in app.mounts):
                if (
                    mount.kind == "PersistentVolumeClaim"
                    and mount.source == claim.name
                    and runtime.key.namespace == claim.namespace
                ):
                    raise ConflictError(
                        f"volume {claim.namespace}/{claim.name} is used by app {runtime.key}; "
                        "delete that app first"
                    )

    def _adopt(self, key: ObjectKey, completion: Completion | None) -> None:
        """Want what an object says, when it is an app."""
        stored, resource = self.objects.stored[key], self.objects.resources[key]
        if not isinstance(resource, App):
            return
        runtime = self.apps.get(app_key(resource))
        if runtime is None:
            runtime = AppRuntime(
                app_key(resource),
                resource,
                generation=stored.generation,
                created_at=stored.created_at,
                settings=self.settings,
                zygotes=self.zygotes,
                volumes=self._volumes,
                log=self.logs.app(stored.namespace, stored.name),
                keeper=self._keeper,
                on_change=self._on_change,
                record=self.record_app,
                egress=lambda app: compile_egress(app, self._catalog),
            )
            self.apps[runtime.key] = runtime
        runtime.want = Want.RUNNING
        self.rollouts.adopt(runtime, resource)
        runtime.generation = stored.generation
        runtime.reset_slots()
        self._preparer.forgive(runtime.key)
        if completion is not None and completion.generation == stored.generation:
            runtime.restore_completion(completion)

    def rotate_keys(
        self, unlock_key: bytes | None, stretching: Stretching | None, *, dry_run: bool
    ) -> dict[str, object]:
        """Change the node's keys (`NodeKeys.rotate`). Raises LimpetError."""
        told = self.keys.rotate(unlock_key, stretching, dry_run=dry_run)
        if not dry_run:
            self.events.record(
                "KeysRotated",
                f"the node key has generation {told['generation']} now",
                of=("Node", "", self.name),
            )
            self.care.tell_problems()
        return told

    # Reconciling

    def _replan(self) -> None:
        """Look at everything again: what an app refers to may have changed."""
        self._catalog = Catalog(self.objects.resources.values())
        for runtime in self.apps.values():
            if runtime.want is Want.RUNNING:
                self._preparer.prepare(runtime)
        self._reroute()
        self._on_change(*self.apps)

    def _reroute(self) -> None:
        """Lead clients to what is to serve, and close the sockets that nothing needs."""
        self._router.update(self._catalog.all(Ingress), self._catalog, self.apps)
        self._close_listeners()

    def _on_change(self, *keys: AppKey) -> None:
        """Reconcile these apps soon, once for any number of changes."""
        self._dirty.update(keys)
        if not self._is_reconcile_due and not self._is_stopping:
            self._is_reconcile_due = True
            asyncio.get_running_loop().call_soon(self._reconcile)

    def _reconcile(self) -> None:
        self._is_reconcile_due = False
        dirty, self._dirty = self._dirty, set()
        if self._is_stopping:
            return
        for key in sorted(dirty):
            runtime = self.apps.get(key)
            if runtime is not None:
                self._reconcile_app(runtime)
        self._schedule_wake_up()
        asyncio.get_running_loop().call_later(_SPARE_SECONDS, self.keep_spares)

    def keep_spares(self) -> None:
        """Keep a worker in reserve while some app is stopped that the next client starts.

        An engine that no app uses any more gives its memory back.
        """
        waiting = [
            runtime.prepared.plan
            for runtime in self.apps.values()
            if runtime.prepared is not None and runtime.is_stopped_until_asked
        ]
        used = {r.prepared.plan.engine for r in self.apps.values() if r.prepared is not None}
        for zygote in self.zygotes:
            plans = [plan for plan in waiting if plan.engine == zygote.name]
            zygote.keep_spare(
                is_wanted=(bool(plans) or self.upgrades.is_on_trial)
                and not self._is_stopping
                and not self.care.is_memory_short,
                is_component=any(plan.is_component for plan in plans),
            )
            if zygote.name not in used:
                zygote.end_when_idle()

    def _reconcile_app(self, runtime: AppRuntime) -> None:
        self._note_completion(runtime)
        runtime.wakes_at = self.rollouts.observe(runtime) if runtime.want is Want.RUNNING else None
        for action in decide_actions(runtime.view(), time.monotonic()):
            if isinstance(action, Start):
                runtime.unwatch()
                runtime.start(action.slot)
            elif isinstance(action, Drain):
                runtime.drain(action.worker)
            elif isinstance(action, Watch):
                runtime.watch()
            elif isinstance(action, Forget):
                self._forget(runtime)

    def _schedule_wake_up(self) -> None:
        if self._wake_up is not None:
            self._wake_up.cancel()
        pause = decide_wake_up([r.view() for r in self.apps.values()], time.monotonic())
        pause = min(self.settings.node.resync_seconds, pause if pause is not None else float("inf"))
        self._wake_up = asyncio.get_running_loop().call_later(
            pause + 0.001, lambda: self._on_change(*self.apps)
        )

    def _note_completion(self, runtime: AppRuntime) -> None:
        completion = runtime.take_completion()
        if completion is not None:
            self._unwritten.append(completion)
            with contextlib.suppress(LimpetError):  # a full disk: tried again until it is written
                self._write_completions()

    def _write_completions(self) -> None:
        """Write how Jobs and Pods ended, unless they were changed since. Raises the store's error."""
        while self._unwritten:
            ended = self._unwritten[0]
            stored = self.objects.stored.get((ended.kind, ended.namespace, ended.name))
            if stored is not None and stored.generation == ended.generation:
                self.database.write_completion(ended)
            self._unwritten.popleft()

    def _forget(self, runtime: AppRuntime) -> None:
        self._preparer.cancel(runtime.key)
        runtime.close()
        runtime.forget()
        with contextlib.suppress(
            LimpetError
        ):  # a full disk: the lines go when others need the room
            runtime.log.remove()
        self._volumes.remove_app(runtime.key)
        del self.apps[runtime.key]
        self._remove_retired_volumes()
        self._close_listeners()

    def _close_listeners(self) -> None:
        wanted: list[Listener] = []
        for runtime in self.apps.values():
            for plan in runtime.plans():
                wanted += plan.listeners
            if runtime.want is Want.RUNNING:  # also what is not prepared yet, or not again
                for app in runtime.apps():
                    wanted += compile_listeners(app, self._catalog)
        self._listeners.close_unused([*wanted, *self._router.listeners])

    def volume_usage(self, namespace: str, claim: str) -> Usage | None:
        """Return how full a claimed volume is; None for one that is not in use, or a plain folder."""
        return self._volumes.usage(namespace, claim)

    def engine_of(self, runtime: AppRuntime) -> str:
        """Return the name and version of the engine that runs an app; empty before it is chosen."""
        if runtime.prepared is None:
            return ""
        return self.zygotes.of(runtime.prepared.plan.engine).engine_name

    def standing(self) -> Standing:
        """Return what stands between apps and the device, as far as it is known."""
        return Standing(
            walls=self.zygotes.default.walls,
            unenforced=self.groups.missing,
            volumes=self._volumes.known_support,
        )

    # Events

    def record_app(self, runtime: AppRuntime, reason: str, message: str, is_warning: bool) -> None:  # noqa: FBT001 - a callback
        self.events.record(reason, message, of=runtime.object_key, is_warning=is_warning)

    def _record(self, key: ObjectKey, reason: str, message: str) -> None:
        self.events.record(reason, message, of=key, is_warning=True)

    def record_node(self, reason: str, message: str, is_warning: bool) -> None:  # noqa: FBT001 - a callback
        """Record an event of the node alone."""
        self.events.record(reason, message, of=("Node", "", self.name), is_warning=is_warning)

    def _announce(self, reason: str, message: str) -> None:
        """Record an event of the node, and of each app: people look there first."""
        self.events.record(reason, message, of=("Node", "", self.name), is_warning=True)
        for runtime in self.apps.values():
            self._record(runtime.object_key, reason, message)


def _group_name(data_directory: Path) -> str:
    """Return the name of the node's tree of control groups: nodes are told apart by their data."""
    import hashlib

    mark = hashlib.blake2b(os.fsencode(data_directory.absolute()), digest_size=4).hexdigest()
    return f"limpet-{mark}"


def run_agent(
    settings: Settings,
    launcher: Channel,
    inheritance: Inheritance,
    *,
    make_api: Callable[[Agent], Api],
) -> int:
    """Run the agent in this process; return its exit code."""

    async def main() -> None:
        agent = Agent(settings, launcher=launcher, inheritance=inheritance)
        await agent.run(make_api(agent))

    try:
        lock = _lock(settings.node.data_directory)
        asyncio.run(main())
        os.close(lock)
    except LimpetError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


def _lock(directory: Path) -> int:
    """Claim the data directory; the kernel gives it back when this process ends."""
    try:
        path = make_directory(directory) / "lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UnavailableError(
            f"can't use the data directory {directory}: {error.strerror}; choose another with --data"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise ConflictError(
            f"another node runs on {directory}; stop it, or give this one its own --data"
        ) from error
    return descriptor
