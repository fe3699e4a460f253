"""The agent: one asyncio process that makes what runs equal what was asked for.

Here its parts are put together, started and stopped. What is asked for is changed in
`limpet.node.desired`; every change leads to `limpet.node.reconciler`, which decides and acts. This is long
because it names every part; nothing is decided here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
import traceback
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from limpet import __version__
from limpet.errors import LimpetError
from limpet.linux.process import set_process_name
from limpet.node.adoption import Adoption, read_estate
from limpet.node.apps import AppRuntime
from limpet.node.care import Care
from limpet.node.completions import Completions
from limpet.node.data_directory import claim_directory, group_name
from limpet.node.desired import Desired
from limpet.node.endpoints import Endpoints
from limpet.node.events import Events
from limpet.node.keeper import Keeper
from limpet.node.keys import NodeKeys
from limpet.node.launcher_link import LauncherLink, explain_status
from limpet.node.listeners import Listeners
from limpet.node.manifests.managed import ManagedObjects
from limpet.node.modules import Modules
from limpet.node.needs import Needs
from limpet.node.objects import Objects
from limpet.node.preparing import Preparer
from limpet.node.pulling import Puller
from limpet.node.reconciler import Reconciler
from limpet.node.reporting import Reporter
from limpet.node.rollouts import Rollouts
from limpet.node.router import RouterProcess
from limpet.node.saying import say, say_problem
from limpet.node.spares import Spares
from limpet.node.upgrading import Upgrades
from limpet.node.verifying import Verifier
from limpet.node.volumes import Volumes
from limpet.plan import app_key, compile_egress
from limpet.provision.facilities import Standing
from limpet.store.database import Database, StoreDamagedError
from limpet.store.logs import LogStore
from limpet.store.modules import ModuleStore
from limpet.store.plain_logs import adopt_plain_logs
from limpet.store.pulls import Pulls
from limpet.store.reserve import Reserve
from limpet.worker.limits import Groups
from limpet.worker.supervisor import Zygotes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from limpet.manifest.model import App
    from limpet.node.bundles import Bundles
    from limpet.node.launcher import Inheritance
    from limpet.node.manifests.folder import ManifestFolder
    from limpet.plan import AppKey
    from limpet.settings import Settings
    from limpet.store.database import ObjectKey, StoredObject
    from limpet.store.images import Usage
    from limpet.store.unlock import Stretching
    from limpet.worker.channel import Channel

_FLUSH_SECONDS = 1.0
# Ended to have a damaged state restored. Not one of those that say why a node can't run.
_DAMAGED_CODE = 10
_DEFECT_CODE = 1


class Api(Protocol):
    """What serves the agent to this device's operator."""

    async def start(self, path: Path) -> None:
        """Listen. Raises LimpetError."""

    async def stop(self) -> None:
        """Stop listening and end every call."""


class Agent:
    """The node's single owner of state, each piece of it in the part that is called after it."""

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
        self.exit_code = 0
        self.apps: dict[AppKey, AppRuntime] = {}
        self._last_status = inheritance.last_status
        self._estate = read_estate(inheritance.held)
        self._launcher = LauncherLink(launcher)
        self._keeper = Keeper(self._launcher.tell)
        self._stopping = asyncio.Event()
        self._open_stores(inheritance.unlock)
        self._make_processes()
        self._make_network(inheritance)
        self._make_desired()
        self.care = Care(
            settings,
            store=self.store,
            database=self.database,
            reserve=self.reserve,
            keys=self.keys,
            needs=Needs(self.database, self.objects, self.pulls, self.modules),
            apps=self.apps,
            spares=self.spares,
            volumes=self._volumes,
            prepare=self._preparer.prepare,
            sweep=self._sweep_downloads,
            is_undecided=lambda: self.upgrades.is_undecided,
            reporter=self.reporter,
        )
        self.upgrades = Upgrades(
            settings,
            database=self.database,
            apps=self.apps,
            zygotes=self.zygotes,
            record=self.reporter.of_node,
            flush=self._flush,
            is_on_trial=inheritance.is_on_trial,
            failure=inheritance.trial_failure,
            tell=self._launcher.tell,
            on_over=self._start_manifests,
        )

    def _open_stores(self, unlock: int | None) -> None:
        """Make what keeps things on disk; nothing is opened yet."""
        settings, directory = self.settings, self.settings.node.data_directory
        self.reserve = Reserve(directory, settings.disk.reserve_bytes)
        self.database = Database(
            directory / "state.db",
            node=self.name,
            max_bytes=settings.state.max_bytes,
            kept_backups=settings.state.backups,
            make_room=self.reserve.give_up,
            on_damage=self._on_damage,
        )
        self.store = ModuleStore(directory)
        self.events = Events(self.database)
        self.reporter = Reporter(self.events, self.name, self.apps)
        self.logs = LogStore(
            directory / "logs.db",
            settings.logs,
            on_problem=lambda message: self.reporter.to_all("LogsSetAside", message),
        )
        self.keys = NodeKeys(
            settings,
            descriptor=unlock,
            database=self.database,
            logs=self.logs,
            modules=self.store,
        )
        self.objects = Objects(self.database, self.store)
        self._completions = Completions(self.database, self.objects)
        self._volumes = Volumes(
            directory, self.keys, self.reporter.to_all, free_bytes=settings.disk.free_bytes
        )

    def _make_processes(self) -> None:
        """Make what starts processes and hands work to them."""
        settings = self.settings
        self.groups = Groups(group_name(settings.node.data_directory))
        first_uid = settings.sandbox.first_uid
        self.zygotes = Zygotes(
            self.groups,
            range(first_uid, first_uid + settings.sandbox.uids),
            start=self._launcher.start_zygote,
        )
        self.modules = Modules(self.store, self.zygotes)
        self._verifier = Verifier(self.zygotes)
        self.spares = Spares(
            self.apps,
            self.zygotes,
            may_keep=lambda: not (self._reconciler.is_stopped or self.care.is_memory_short),
            is_tried=lambda: self.upgrades.is_on_trial,
        )
        self.pulls = Pulls(self.database, self.store.has_module)
        self._puller = Puller(
            settings.registry,
            directory=settings.node.data_directory,
            pulls=self.pulls,
            store=self.store,
            zygotes=self.zygotes,
            verifier=self._verifier,
            find_secret=self.objects.pull_secret,
        )

    def _make_network(self, inheritance: Inheritance) -> None:
        """Make what leads clients to apps."""
        self._listeners = Listeners(
            inheritance.sockets, keep=self._launcher.keep, drop=self._launcher.drop
        )
        self._endpoints = Endpoints(
            self.apps,
            objects=self.objects,
            listeners=self._listeners,
            router=RouterProcess(
                self.zygotes.default, self.settings, self._listeners, self.reporter.to_all
            ),
        )

    def _make_desired(self) -> None:
        """Make what decides and carries out what apps are to be."""
        settings = self.settings
        self._reconciler = Reconciler(
            self.apps,
            resync_seconds=settings.node.resync_seconds,
            observe=self._observe,
            forget=self._forget,
            keep_spares=self.spares.keep,
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
            standing=self.standing,
            on_prepared=self._reconciler.mark,
            record=self.reporter.of_app,
        )
        self.rollouts = Rollouts(
            self.objects,
            settings,
            record=self.reporter.of_app,
            prepare=self._preparer.prepare,
            on_decided=self._endpoints.update,
        )
        self._desired = Desired(
            self.apps,
            objects=self.objects,
            completions=self._completions,
            rollouts=self.rollouts,
            preparer=self._preparer,
            volumes=self._volumes,
            endpoints=self._endpoints,
            make_runtime=self._make_runtime,
            on_change=self._reconciler.mark_all,
        )
        self.managed = ManagedObjects(self.database)
        self.manifests = self._make_manifests()

    def _make_manifests(self) -> ManifestFolder | None:
        """Make what follows the manifests folder, where one is set; its code costs nothing elsewhere."""
        settings = self.settings
        if settings.manifests_folder is None:
            return None
        from limpet.node.manifests.folder import ManifestFolder
        from limpet.node.manifests.parsing import Parser

        return ManifestFolder(
            settings.manifests_folder,
            rescan_seconds=settings.node.manifests_rescan_seconds,
            retry_seconds=settings.node.resync_seconds,
            managed=self.managed,
            objects=self.objects,
            modules=self.store,
            parser=Parser(self.zygotes),
            change=self._desired.change,
            record=self.reporter.of_node,
            record_object=self.reporter.of_object,
        )

    def _start_manifests(self) -> None:
        if self.manifests is not None:
            self.manifests.start()

    def _make_runtime(self, app: App, stored: StoredObject) -> AppRuntime:
        return AppRuntime(
            app_key(app),
            app,
            generation=stored.generation,
            created_at=stored.created_at,
            settings=self.settings,
            zygotes=self.zygotes,
            volumes=self._volumes,
            log=self.logs.app(stored.namespace, stored.name),
            keeper=self._keeper,
            on_change=self._reconciler.mark,
            record=self.reporter.of_app,
            egress=lambda app: compile_egress(app, self.objects.catalog),
        )

    def _observe(self, runtime: AppRuntime) -> None:
        """Learn from how an app stands now, before anything is decided for it."""
        self._completions.note(runtime)
        self.rollouts.observe(runtime)

    def _forget(self, runtime: AppRuntime) -> None:
        self._desired.forget(runtime)

    # Life

    async def run(self, api: Api) -> None:
        """Serve until told to stop. Raises LimpetError when the node can't start."""
        set_process_name("limpet-agent")
        self._loop = loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        self._open()
        adopted = self._adopt_workers()
        self._volumes.remove_leftovers()
        self._launcher.listen(
            self.zygotes, announce=self.reporter.to_all, on_gone=self._stopping.set
        )
        await api.start(self.settings.node.socket_path)
        self._tell_up(adopted)
        tasks = [
            loop.create_task(work, name=name)
            for name, work in (
                ("events", self._flush_forever()),
                ("trim", self._trim_forever()),
                ("care", self.care.run()),
            )
        ]
        for task in tasks:
            task.add_done_callback(self._on_loop_end)
        self._desired.replan()
        self.upgrades.begin()
        if not self.upgrades.is_undecided:
            self._start_manifests()
        await self._stopping.wait()
        self._reconciler.stop()
        self.upgrades.stop()
        if self.manifests is not None:
            self.manifests.stop()
        await api.stop()
        if self.exit_code:
            self._leave()
            return
        await self._drain_all()
        for task in tasks:
            task.cancel()
        await self._close()

    def _open(self) -> None:
        """Open what is on disk and want what it says."""
        self.reserve.give_up()  # on a full disk the state could not even be opened
        self.upgrades.open()
        self.keys.open()
        self.groups.open(keep=self._estate.groups)
        self.events.load()
        self._adopt_plain_logs()
        # Written by another version of Limpet: kept as it is, said aloud, not run.
        self.objects.load(lambda key, why: self.reporter.of_object(key, "InvalidObject", why, True))
        self._desired.load()
        self.care.open()
        self.managed.load()

    async def _close(self) -> None:
        self.care.stop()
        self._flush()
        with contextlib.suppress(LimpetError):  # a full disk: what waits is lost, the rest is not
            self.logs.close()
        await self._volumes.close()
        self.database.close()
        self.groups.close()

    def _on_damage(self, why: str) -> None:
        """End soon, from any thread: the next agent restores the state, and workers serve on meanwhile."""
        if not self.exit_code:
            self.exit_code = _DAMAGED_CODE
            say_problem(f"warning: the state is damaged ({why}); it is restored now")
            self._loop.call_soon_threadsafe(self._stopping.set)

    def _on_loop_end(self, task: asyncio.Task[None]) -> None:
        """End when what should go on for ever has met a defect: the next agent has it again."""
        if not task.cancelled() and (error := task.exception()) is not None:
            say_problem("".join(traceback.format_exception(error)))
            self.exit_code = self.exit_code or _DEFECT_CODE
            self._stopping.set()

    def _leave(self) -> None:
        """Leave everything to the next agent, as when this one is killed; logs are their own file."""
        self._preparer.cancel_all()
        self.care.stop()
        with contextlib.suppress(LimpetError):
            self.logs.close()
        self.database.leave()

    def _tell_up(self, adopted: int) -> None:
        if self.restarts:
            what = explain_status(self._last_status)
            if os.waitstatus_to_exitcode(self._last_status) == _DAMAGED_CODE:
                what = "itself to have the damaged state restored"
            self.reporter.to_all(
                "AgentRestarted",
                f"the agent had ended by {what} and was started again; {adopted} workers went on",
            )
        say(
            f"limpet {__version__}: node {self.name} is up, its API on "
            f"{self.settings.node.socket_path}, its data in {self.settings.node.data_directory}"
        )

    def _adopt_plain_logs(self) -> None:
        """Take over what an earlier version logged. Logs are worth a try, not a node."""
        plain = self.settings.node.data_directory / "logs"
        if plain.is_dir():
            try:
                adopt_plain_logs(plain, self.logs)
            except (LimpetError, OSError, ValueError) as error:
                self.reporter.to_all(
                    "PlainLogs", f"can't encrypt the logs in {plain} ({error}); remove that folder"
                )

    def _sweep_downloads(self) -> None:
        """Remove what was half downloaded for apps that are gone or want something else now."""
        running = [app for runtime in self.apps.values() for app in runtime.rollout.apps()]
        self._puller.sweep([*self.objects.apps(), *running])

    def _adopt_workers(self) -> int:
        """Go on with what an earlier agent has left; return how many workers that are."""
        adoption = Adoption(
            self._estate, zygotes=self.zygotes, groups=self.groups, keeper=self._keeper
        )
        return adoption.carry_out(self.apps)

    async def _drain_all(self) -> None:
        self._preparer.cancel_all()
        self._endpoints.stop()
        for runtime in self.apps.values():
            runtime.drain_all()
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
            flushes = [self._completions.write, self.events.flush_when_due]
            if time.monotonic() >= logs_due_at:
                logs_due_at = time.monotonic() + self.settings.logs.flush_seconds - _FLUSH_SECONDS
                flushes.append(self.logs.flush)
            for flush in flushes:
                # A full disk: they stay in memory and are tried again.
                with contextlib.suppress(LimpetError):
                    flush()

    def _flush(self) -> None:
        """Write what waits. On a full disk that is not possible, and the rest goes on."""
        for flush in (self._completions.write, self.events.flush, self.logs.flush):
            with contextlib.suppress(LimpetError):
                flush()

    async def _trim_forever(self) -> None:
        while True:
            await asyncio.sleep(self.settings.volumes.trim_hours * 3600)
            try:
                await self._volumes.trim()
            except LimpetError as error:
                self.reporter.to_all("VolumesNotTrimmed", str(error))

    # What its API asks

    @cached_property
    def bundles(self) -> Bundles:
        """What judges bundles; made when the first one comes."""
        from limpet.node.bundles import Bundles

        return Bundles(
            self.settings, zygotes=self.zygotes, store=self.store, verifier=self._verifier
        )

    def apply(
        self,
        requested: Sequence[tuple[dict[str, object], str | None]],
        *,
        dry_run: bool = False,
        carries_over: bool = True,
        alongside: Callable[[], None] | None = None,
    ) -> list[dict[str, object]]:
        """Create or change objects, all or none; durable on return. Raises LimpetError."""
        results = self._desired.change(
            requested, dry_run=dry_run, carries_over=carries_over, alongside=alongside
        )
        for result in results:
            key = (str(result["kind"]), str(result["namespace"]), str(result["name"]))
            warnings = result["warnings"]
            assert isinstance(warnings, list), "each result has its list"
            warnings += self.managed.warn_by_hand(key)
        return results

    def delete(self, key: ObjectKey) -> None:
        """Delete an object; durable on return. Raises `NotFoundError`, `ConflictError`."""
        self._desired.delete(key)

    def rotate_keys(
        self, unlock_key: bytes | None, stretching: Stretching | None, *, dry_run: bool
    ) -> dict[str, object]:
        """Change the node's keys (`NodeKeys.rotate`). Raises LimpetError."""
        told = self.keys.rotate(unlock_key, stretching, dry_run=dry_run)
        if not dry_run:
            generation = told["generation"]
            self.reporter.of_node(
                "KeysRotated", f"the node key has generation {generation} now", False
            )
            self.care.tell_problems()
        return told

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


def run_agent(
    settings: Settings,
    launcher: Channel,
    inheritance: Inheritance,
    *,
    make_api: Callable[[Agent], Api],
) -> int:
    """Run the agent in this process; return its exit code."""

    async def main() -> int:
        agent = Agent(settings, launcher=launcher, inheritance=inheritance)
        try:
            await agent.run(make_api(agent))
        except StoreDamagedError:  # noticed while it started
            if agent.exit_code != _DAMAGED_CODE:
                raise
        return agent.exit_code

    try:
        lock = claim_directory(settings.node.data_directory)
        code = asyncio.run(main())
        os.close(lock)
    except LimpetError as error:
        say_problem(f"error: {error}")
        return error.exit_code
    return code
