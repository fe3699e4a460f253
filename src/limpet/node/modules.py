"""From a module to an artifact that workers can map: compiled once, in a short-lived process."""

from __future__ import annotations

import asyncio
import os
import weakref
from typing import TYPE_CHECKING

from limpet.engine.protocol import DEFAULT_OPTIONS, CompileOptions, ModuleInfo
from limpet.node.tasks import refusal, run_task
from limpet.plan import PlanError
from limpet.worker.config import CompileConfig, write_config
from limpet.worker.messages import Compiled, Failed

if TYPE_CHECKING:
    from limpet.store.modules import Artifact, ModuleStore
    from limpet.worker.supervisor import Zygote, Zygotes

_COMPILE_SECONDS = 600.0


class Modules:
    """Compiles through the zygotes; what is in the store is not done again."""

    def __init__(self, store: ModuleStore, zygotes: Zygotes) -> None:
        self._store = store
        self._zygotes = zygotes
        # Those that somebody has; each is closed when nobody has it any more.
        self._artifacts: weakref.WeakValueDictionary[str, Artifact] = weakref.WeakValueDictionary()
        self._compiling: dict[str, asyncio.Lock] = {}

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
                answer = await run_task(
                    zygote,
                    "compile",
                    write_config(config),
                    [module, artifact],
                    seconds=_COMPILE_SECONDS,
                    is_component=self._store.is_component(digest),
                )
                if isinstance(answer, Failed) and answer.reason == "DigestMismatch":
                    self._store.remove_module(digest)  # so that it can be uploaded or pulled again
                    raise PlanError(answer.reason, f"{answer.message}: that copy is removed")
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
