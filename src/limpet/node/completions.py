"""How Jobs and Pods ended, kept on disk: what has ended for good does not run again."""

from __future__ import annotations

import contextlib
from collections import deque
from typing import TYPE_CHECKING

from limpet.errors import LimpetError
from limpet.store.database import Completion
from limpet.worker.process import ExitInfo

if TYPE_CHECKING:
    from limpet.node.apps import AppRuntime
    from limpet.node.objects import Objects
    from limpet.store.database import Database, ObjectKey


class Completions:
    """What has ended. It is written at once, or again and again while the disk is full."""

    def __init__(self, database: Database, objects: Objects) -> None:
        self._database = database
        self._objects = objects
        self._unwritten: deque[Completion] = deque()
        self._loaded: dict[ObjectKey, Completion] = {}

    def load(self) -> None:
        """Read how apps ended before the agent was started."""
        found = self._database.load_completions()
        self._loaded = {(each.kind, each.namespace, each.name): each for each in found}

    def restore(self, runtime: AppRuntime) -> None:
        """Have an app be over that was so when the agent started, unless it was changed since."""
        completion = self._loaded.pop(runtime.object_key, None)
        if completion is not None and completion.generation == runtime.generation:
            info = ExitInfo(
                reason=completion.reason,
                message=completion.message,
                exit_code=completion.exit_code,
                finished_at=completion.finished_at,
            )
            runtime.slots.restore_end(runtime.wanted_slots, info)

    def note(self, runtime: AppRuntime) -> None:
        """Learn that an app has ended, if it has: a Job or Pod whose slots are all over."""
        if runtime.prepared is None or runtime.app.kind == "Deployment":
            return
        info = runtime.slots.take_end(runtime.prepared.plan.slots)
        if info is None:
            return
        self._unwritten.append(
            Completion(
                kind=runtime.app.kind,
                namespace=runtime.key.namespace,
                name=runtime.key.name,
                generation=runtime.generation,
                reason=info.reason,
                message=info.message,
                exit_code=info.exit_code,
                finished_at=info.finished_at,
            )
        )
        with contextlib.suppress(LimpetError):  # a full disk: tried again until it is written
            self.write()

    def write(self) -> None:
        """Write what was not, unless an app was changed since. Raises the store's error."""
        while self._unwritten:
            ended = self._unwritten[0]
            stored = self._objects.stored.get((ended.kind, ended.namespace, ended.name))
            if stored is not None and stored.generation == ended.generation:
                self._database.write_completion(ended)
            self._unwritten.popleft()
