"""From a module to an artifact that workers can map: compiled once, in a short-lived process.

A hostile module, or a server (`limpet.node.pulling`), meets a process with nothing to lose.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections import deque
from typing import TYPE_CHECKING

from limpet.engine.protocol import DEFAULT_OPTIONS, CompileOptions, ModuleInfo
from limpet.errors import LimpetError
from limpet.linux.cgroup import Limits
from limpet.plan import PlanError
from limpet.worker.config import CompileConfig, write_config
from limpet.worker.messages import Compiled, Failed, Fetching, Message

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from limpet.store.modules import Artifact, ModuleStore
    from limpet.worker.process import ExitInfo, Process
    from limpet.worker.supervisor import Zygote, Zygotes

# A compiler takes some fifty times a module's size; what a hostile one makes of that ends here.
_LIMITS = {
    "compile": Limits(cpu_cores=1.0, memory_bytes=512 << 20, pids=16),
    "fetch": Limits(cpu_cores=1.0, memory_bytes=128 << 20, pids=16),
    "verify": Limits(cpu_cores=1.0, memory_bytes=128 << 20, pids=16),
}
_COMPILE_SECONDS = 600.0


class RetryableError(LimpetError):
    """A fetch or compile that may succeed later, without anybody changing anything."""

    is_retryable = True

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Modules:
    """Compiles through the zygotes; what is in the store is not done again."""

    def __init__(self, store: ModuleStore, zygotes: Zygotes) -> None:
        self._store = store
        self._zygotes = zygotes
        # Those that somebody has; each is closed when nobody has it any more.
        self._artifacts: weakref.WeakValueDictionary[str, Artifact] = weakref.WeakValueDictionary()
        self._compiling: dict[str, asyncio.Lock] = {}
        self._serial = 0

    async def artifact(
        self, digest: str, engine: str, options: CompileOptions = DEFAULT_OPTIONS
    ) -> Artifact:
        """Return the verified artifact of a module for an engine, compiling it if need be.

        Its descriptor is open for as long as somebody has the artifact. Raises `PlanError` when the
        module can't be used, `UnavailableError` when the engine is not here, `RetryableError` when
        compiling failed for reasons that are not the module's.
        """
        zygote = self._zygotes.of(engine)
        name = await self.artifact_name(digest, engine, options)
        async with self._compiling.setdefault(name, asyncio.Lock()):
            found = self._artifacts.get(name)
            if found is None:
                found = self._store.open_artifact(name)
                if found is None:
                    found = await self._compile(name, digest, zygote, options)
                self._artifacts[name] = found
                weakref.finalize(found, os.close, found.descriptor)
        self._compiling.pop(name, None)
        return found

    def open_artifacts(self) -> frozenset[str]:
        """Return the names of the artifacts that somebody has."""
        return frozenset(self._artifacts)

    async def artifact_name(self, digest: str, engine: str, options: CompileOptions) -> str:
        """Return what an artifact is called: by module, engine, settings, processor and options."""
        ready = await self._zygotes.of(engine).engine()
        return f"{digest[7:]}-{ready.artifact_key}{options.suffix}.cwasm"

    async def _compile(
        self, name: str, digest: str, zygote: Zygote, options: CompileOptions
    ) -> Artifact:
        try:
            module = self._store.open_module(digest)
        except FileNotFoundError as error:
            raise PlanError(
                "MissingModule",
                f"the node has no module {digest}; apply the app again",
                is_final=True,
            ) from error
        try:
            staged, artifact = self._store.stage_artifact(name)
            try:
                config = CompileConfig(
                    engine=zygote.name,
                    digest=digest,
                    is_metered=options.is_metered,
                    is_interpreted=options.is_interpreted,
                )
                answer = await self.run(
                    zygote,
                    "compile",
                    write_config(config),
                    [module, artifact],
                    seconds=_COMPILE_SECONDS,
                    is_component=self._store.is_component(digest),
                )
                if isinstance(answer, Failed) and answer.reason == "DigestMismatch":
                    self._store.remove_module(digest)  # so that it can be uploaded again
                if not isinstance(answer, Compiled):
                    raise refusal(answer, "InvalidModule", "can't compile the module")
                info = ModuleInfo(
                    imports=answer.imports,
                    exports=answer.exports,
                    memory_bytes=answer.memory_bytes,
                )
                return self._store.seal_artifact(name, staged, artifact, info)
            except BaseException:
                staged.unlink(missing_ok=True)
                raise
            finally:
                os.close(artifact)
        finally:
            os.close(module)

    async def run(
        self,
        zygote: Zygote,
        role: str,
        config: int,
        descriptors: Sequence[int],
        *,
        seconds: float,
        is_component: bool = False,
        on_progress: Callable[[Fetching], None] | None = None,
    ) -> Message | ExitInfo:
        """Run a process to its end; return its answer, or how it ended without one.

        `config` is closed. Raises `RetryableError` when it takes longer than `seconds`.
        """
        self._serial += 1
        done: asyncio.Future[ExitInfo] = asyncio.get_running_loop().create_future()
        answers: deque[Message] = deque(maxlen=1)  # its last word is the answer

        def on_message(_process: Process, message: Message) -> None:
            if not isinstance(message, Fetching):
                answers.append(message)
            elif on_progress is not None:
                on_progress(message)

        def on_exit(_process: Process, info: ExitInfo) -> None:
            if not done.done():
                done.set_result(info)

        try:
            process = zygote.spawn(
                f"{role}-{self._serial}",
                role,
                [config, *descriptors],
                limits=_LIMITS[role],
                is_component=is_component,
                on_message=on_message,
                on_exit=on_exit,
            )
        finally:
            os.close(config)
        try:
            # Not `wait_for`: Python 3.11's forgets a cancellation that comes together with the end.
            async with asyncio.timeout(seconds):
                info = await done
        except TimeoutError:
            raise RetryableError("TimedOut", f"{role} took over {seconds:.0f} s") from None
        finally:
            process.kill()
        return answers[-1] if answers else info


def refusal(answer: Message | ExitInfo, reason: str, what: str) -> LimpetError:
    """The error for an answer that is not the one that was hoped for."""
    if isinstance(answer, Failed):
        if answer.is_retryable:
            return RetryableError(answer.reason, answer.message)
        return PlanError(answer.reason, answer.message, is_final=True)
    message = getattr(answer, "message", "") or "its process gave no answer"
    return RetryableError(reason, f"{what}: {message}")
