"""From an app as it was applied to one that can be started: source, digest, artifact, plan, volumes, sockets.

All that may take long or fail happens here, ahead of any client: a start opens, compiles and mounts nothing.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from limpet.engine import DEFAULT_ENGINE
from limpet.engine.choice import (
    AUTO,
    INTERPRETER,
    WASMEDGE,
    Choice,
    choose_engine,
    is_listening,
    uses_socket_extension,
)
from limpet.engine.protocol import CompileOptions
from limpet.errors import LimpetError, UnavailableError
from limpet.node.restarts import decide_backoff
from limpet.node.state import Want
from limpet.node.tasks import RetryableError
from limpet.plan import PlanError, compile_plan, settle_trigger

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from limpet.manifest.model import App
    from limpet.node.apps import AppRuntime
    from limpet.node.listeners import Listeners
    from limpet.node.modules import Modules
    from limpet.node.objects import Objects
    from limpet.node.progress import Target
    from limpet.node.pulling import Puller
    from limpet.node.volumes import Volumes
    from limpet.plan import AppKey
    from limpet.provision.facilities import Standing
    from limpet.settings import Settings
    from limpet.store.modules import Artifact, ModuleStore
    from limpet.worker.supervisor import Zygotes

# WasmEdge's compiler takes a second and 80 MB for 22 KiB, half a minute and 290 MB for 1.4 MiB, on a
# machine ten times as fast as a device: what is larger is interpreted unless the app says otherwise.
_MOST_COMPILED_BYTES = 1 << 20
# What of a module's exports is kept beside its artifact (limpet.worker.child).
_KNOWN_EXPORTS = 256


class Preparer:
    """Prepares apps, one task each, and tries again what may succeed later.

    `on_prepared` is told when an attempt is over, whatever came of it; `record` makes an event.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        node_name: str,
        objects: Objects,
        store: ModuleStore,
        modules: Modules,
        puller: Puller,
        volumes: Volumes,
        listeners: Listeners,
        zygotes: Zygotes,
        standing: Callable[[], Standing],
        on_prepared: Callable[[AppKey], None],
        record: Callable[[AppRuntime, str, str, bool], None],
    ) -> None:
        self._settings = settings
        self._node_name = node_name
        self._objects = objects
        self._store = store
        self._modules = modules
        self._puller = puller
        self._volumes = volumes
        self._listeners = listeners
        self._zygotes = zygotes
        self._standing = standing
        self._on_prepared = on_prepared
        self._record = record
        self._tasks: dict[AppKey, asyncio.Task[None]] = {}
        self._failures: dict[AppKey, int] = {}
        self._uncompilable: set[str] = set()

    def prepare(self, runtime: AppRuntime) -> None:
        """Begin anew."""
        self.cancel(runtime.key)
        self._tasks[runtime.key] = asyncio.get_running_loop().create_task(
            self._run(runtime), name=f"prepare {runtime.key}"
        )

    def cancel(self, key: AppKey) -> None:
        """Give up on an app."""
        task = self._tasks.pop(key, None)
        if task is not None:
            task.cancel()

    def cancel_all(self) -> list[asyncio.Task[None]]:
        """Give up on all; return the tasks that end now."""
        tasks = list(self._tasks.values())
        for key in list(self._tasks):
            self.cancel(key)
        return tasks

    def forgive(self, key: AppKey) -> None:
        """Forget failures: the app was changed."""
        self._failures.pop(key, None)

    async def _run(self, runtime: AppRuntime) -> None:
        if runtime.prepared is None and runtime.rollout.standby is not None:
            await self._prepare_standby(runtime, runtime.rollout.standby)
        try:
            await self._prepare(runtime, runtime.rollout.target)
        except PlanError as error:
            self._set_problem(runtime, error.reason, str(error), is_final=error.is_final)
            if not error.is_final:  # a port gets free, an address appears: nobody tells, so look
                self._later(runtime, self._settings.node.resync_seconds)
        except (RetryableError, LimpetError, OSError) as error:
            self._retry(runtime, error)
        self._on_prepared(runtime.key)

    async def _prepare_standby(self, runtime: AppRuntime, standby: Target) -> None:
        """Have the release before the newest run until that one can: nobody waits for a download."""
        try:
            await self._prepare(runtime, standby)
        except (PlanError, RetryableError, LimpetError, OSError) as error:
            what = f"release {standby.number} can't run until release {runtime.rollout.target.number} does"
            self._record(runtime, "PreviousReleaseNotReady", f"{what}: {error}", True)
        else:
            self._on_prepared(runtime.key)

    async def _prepare(self, runtime: AppRuntime, target: Target) -> None:
        app = target.app
        digest = await self._obtain(runtime, target)
        if runtime.prepared is None:
            runtime.problem = ("CompilingModule", f"compiling {digest[:19]}", False)
        is_component = self._store.is_component(digest)
        artifact, choice = await self._compile(app, digest, is_component=is_component)
        plan = compile_plan(
            settle_trigger(app, listens=is_listening(artifact.info.imports)),
            digest=digest,
            engine=choice.engine,
            engine_reason=choice.reason,
            is_component=is_component,
            node_name=self._node_name,
            catalog=self._objects.catalog,
            available_facilities=await self._facilities(app),
            allowed_capabilities=_names(self._settings.sandbox.allowed_capabilities),
        )
        _check_probes(app, artifact.info.exports, is_component=is_component)
        if artifact.info.memory_bytes > plan.guest_memory_bytes:
            raise PlanError(
                "MemoryLimitTooLow",
                f"the module needs {artifact.info.memory_bytes >> 10} KiB of memory to start, more "
                f"than resources.limits.memory leaves it ({plan.guest_memory_bytes >> 10} KiB of "
                f"{app.memory_bytes >> 10}); raise the limit",
                is_final=True,
            )
        await self._volumes.prepare(runtime.key, plan.mounts, tell=partial(self._record, runtime))
        sockets = [self._listeners.open(listener) for listener in plan.listeners]
        self._failures.pop(runtime.key, None)
        runtime.prepare(plan, artifact, sockets, release=target.number)

    async def _obtain(self, runtime: AppRuntime, target: Target) -> str:
        """Have the module that the app's source is, or was when the release began: one that may run."""
        app, digest, tell = target.app, target.digest, partial(self._record, runtime)
        is_here = digest is not None and self._store.has_module(digest)
        if app.source.scheme == "file":
            if digest is None or not is_here:
                raise PlanError(
                    "MissingModule", f"the node has no module {digest}; apply the app again"
                )
            return digest

        def show(progress: str) -> None:
            runtime.problem = ("PullingModule", progress, False)

        if not is_here:
            show(f"asking for {app.source.location}")
        if digest is None:
            digest = await self._puller.obtain(app, tell=tell, show=show)
        elif not is_here:
            await self._puller.restore(app, digest, tell=tell, show=show)
        await self._puller.check(app, digest, tell=tell)
        if target is runtime.rollout.target and target.digest is None:
            self._objects.remember_digest(runtime.object_key, digest, release=target.number)
            runtime.rollout.target = replace(target, digest=digest)
        return digest

    async def _compile(
        self, app: App, digest: str, *, is_component: bool
    ) -> tuple[Artifact, Choice]:
        """Return the artifact for the engine that is to run the app, and why that one."""
        choice = Choice(app.engine, "the app asks for it")
        if app.engine == AUTO and app.execution == INTERPRETER:
            choice = Choice(WASMEDGE, "the app asks for an interpreter")
        elif app.engine == AUTO:
            likely = await self._artifact(app, digest, DEFAULT_ENGINE)  # kept until it is asked for
            imports = likely.info.imports
            choice = choose_engine(
                AUTO,
                imports,
                is_component=is_component,
                usable=await self._usable_engines(imports),
            )
        artifact = await self._artifact(app, digest, choice.engine)
        if self._is_interpreted(app, digest, choice.engine):
            choice = replace(choice, reason=f"{choice.reason}; its code is interpreted")
        return artifact, choice

    async def _artifact(self, app: App, digest: str, engine: str) -> Artifact:
        options = CompileOptions(
            is_metered=app.cost_limit is not None,
            is_interpreted=self._is_interpreted(app, digest, engine),
        )
        try:
            return await self._modules.artifact(digest, engine, options)
        except RetryableError:
            if app.execution or engine != WASMEDGE or options.is_interpreted:
                raise
        # It took more time or memory than compiling may: it would again.
        self._uncompilable.add(digest)
        return await self._artifact(app, digest, engine)

    def _is_interpreted(self, app: App, digest: str, engine: str) -> bool:
        if app.execution or engine != WASMEDGE:
            return app.execution == INTERPRETER
        is_large = self._store.module_bytes(digest) > _MOST_COMPILED_BYTES
        return is_large or digest in self._uncompilable

    async def _usable_engines(self, imports: Sequence[str]) -> dict[str, str]:
        """Return why each engine can't be used; the second one is only started for what it is for."""
        usable = {DEFAULT_ENGINE: ""}
        if uses_socket_extension(imports):
            try:
                await self._zygotes.of(WASMEDGE).engine()
            except UnavailableError as error:
                usable[WASMEDGE] = str(error)
            else:
                usable[WASMEDGE] = ""
        return usable

    async def _facilities(self, app: App) -> frozenset[str]:
        """Return what this node can promise an app, of what can be required."""
        await self._zygotes.default.engine()
        if app.mounts or {"volumes", "encryption"} & set(app.requires):
            await self._volumes.support()
        return self._standing().available()

    def _set_problem(
        self, runtime: AppRuntime, reason: str, message: str, *, is_final: bool
    ) -> None:
        if runtime.problem != (reason, message, is_final):
            self._record(runtime, reason, message, True)
        runtime.problem = (reason, message, is_final)
        if runtime.prepared is not None and (
            reason != "PortInUse" or runtime.rollout.standby is not None
        ):
            return  # what ran before the change runs on
        runtime.unprepare()

    def _retry(self, runtime: AppRuntime, error: Exception) -> None:
        failures = self._failures.get(runtime.key, 0) + 1
        pause = decide_backoff(failures + 1, first_seconds=self._settings.node.backoff_seconds)
        reason = error.reason if isinstance(error, LimpetError) else "PrepareFailed"
        if isinstance(error, LimpetError) and not error.is_retryable:
            runtime.rollout.progress.refusal = (reason, str(error))
        self._set_problem(
            runtime, reason, f"{error}; trying again in {pause:.0f} s", is_final=False
        )
        self._later(runtime, pause)

    def _later(self, runtime: AppRuntime, pause: float) -> None:
        failures = self._failures.get(runtime.key, 0) + 1
        self._failures[runtime.key] = failures
        asyncio.get_running_loop().call_later(pause, self._again, runtime, failures)

    def _again(self, runtime: AppRuntime, failures: int) -> None:
        if runtime.want is Want.RUNNING and self._failures.get(runtime.key) == failures:
            self.prepare(runtime)


def _check_probes(app: App, exports: Sequence[str], *, is_component: bool) -> None:
    """Refuse probes that could never succeed. Raises `PlanError`."""
    if app.probed_exports and is_component:
        raise PlanError(
            "UnsupportedProbe",
            f"app {app.namespace}/{app.name} is a component, which has no functions for exec probes; "
            "use httpGet or tcpSocket",
            is_final=True,
        )
    missing = [name for name in app.probed_exports if name not in exports]
    if missing and len(exports) < _KNOWN_EXPORTS:
        raise PlanError(
            "MissingExport",
            f"app {app.namespace}/{app.name}: the module exports no {missing[0]}, which a probe calls; "
            "export it when the module is built, or change the probe",
            is_final=True,
        )


def _names(text: str) -> frozenset[str]:
    return frozenset(name.strip() for name in text.split(",") if name.strip())
