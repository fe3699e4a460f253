"""Volumes that the kernel has made read-only: noticed, checked and opened again without help.

A volume whose space is not set aside can't write its journal when the disk is full, and a disk can fail.
Either way the file system in it stays read-only until it is mounted anew, for which nobody may use it:
the workers that have it are stopped for a moment, once there is room again.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from limpet.node.state import Want, WorkerState

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path

    from limpet.node.apps import AppRuntime
    from limpet.node.volumes import Volumes

# A volume that fails again within this time is tried ever more slowly: its apps can at least read.
_FORGIVEN_SECONDS = 600.0
_FIRST_PAUSE_SECONDS = 5.0
_MAX_PAUSE_SECONDS = 300.0
_WAIT_SECONDS = 0.05


@dataclass(slots=True)
class _Trouble:
    """What is known of a volume that is or was read-only; times are monotonic seconds."""

    attempts: int = 0
    not_before: float = 0.0
    recovered_at: float | None = None


class VolumeRecovery:
    """Looks every few seconds, and recovers what can be.

    `has_room` tells whether the disk is short of space no more, `prepare` begins to prepare an app anew.
    """

    def __init__(
        self,
        volumes: Volumes,
        *,
        apps: Callable[[], Collection[AppRuntime]],
        has_room: Callable[[], bool],
        prepare: Callable[[AppRuntime], None],
        record_app: Callable[[AppRuntime, str, str, bool], None],
        record_node: Callable[[str, str, bool], None],
    ) -> None:
        self._volumes = volumes
        self._apps = apps
        self._has_room = has_room
        self._prepare = prepare
        self._record_app = record_app
        self._record_node = record_node
        self._troubles: dict[Path, _Trouble] = {}
        self._tasks: dict[Path, asyncio.Task[None]] = {}

    def look(self) -> None:
        """See which volumes are read-only, and begin what can be done. Raises OSError."""
        now = time.monotonic()
        read_only = self._volumes.find_read_only()
        for folder in read_only:
            self._note(folder, now)
        for folder, trouble in list(self._troubles.items()):
            if folder in self._tasks:
                continue
            if folder not in read_only:
                self._settle(folder, trouble, now)
            elif now >= trouble.not_before and self._can_write(folder):
                trouble.attempts += 1
                trouble.not_before = now + _decide_pause(trouble.attempts)
                task = asyncio.get_running_loop().create_task(
                    self._recover(folder), name=f"recover {folder}"
                )
                self._tasks[folder] = task
                task.add_done_callback(partial(self._on_end, folder))

    def _on_end(self, folder: Path, task: asyncio.Task[None]) -> None:
        self._tasks.pop(folder)
        if not task.cancelled() and task.exception() is not None:
            self._record(
                folder,
                "VolumeNotRecovered",
                f"volume {_name(folder)} could not be closed: {task.exception()}; tried again",
                is_warning=True,
            )

    def stop(self) -> None:
        """Begin nothing any more."""
        for task in self._tasks.values():
            task.cancel()

    def _can_write(self, folder: Path) -> bool:
        return self._volumes.is_set_aside(folder) or self._has_room()

    def _note(self, folder: Path, now: float) -> None:
        trouble = self._troubles.get(folder)
        if trouble is None:
            trouble = self._troubles[folder] = _Trouble()
        elif trouble.recovered_at is None:
            return  # told
        if trouble.recovered_at is not None and now - trouble.recovered_at > _FORGIVEN_SECONDS:
            trouble.attempts = 0
        trouble.recovered_at = None
        self._record(
            folder,
            "VolumeReadOnly",
            f"volume {_name(folder)} could not be written and is read-only now; it is checked and opened "
            "again as soon as the disk has room, for which the apps that use it are started anew",
            is_warning=True,
        )

    def _settle(self, folder: Path, trouble: _Trouble, now: float) -> None:
        """Tell that a volume can be written again, once; forget it when that is long ago, or it is gone."""
        if not folder.exists():
            del self._troubles[folder]
        elif trouble.recovered_at is not None:
            if now - trouble.recovered_at > _FORGIVEN_SECONDS:
                del self._troubles[folder]
        elif self._volumes.is_open(folder):
            trouble.recovered_at = now
            self._record(
                folder,
                "VolumeRecovered",
                f"volume {_name(folder)} was checked and can be written again",
                is_warning=False,
            )

    async def _recover(self, folder: Path) -> None:
        """Stop who uses a volume and have it opened anew. What is wrong then, whoever prepares tells."""
        self._volumes.hold(folder)
        stopped: set[AppRuntime] = set()
        try:
            while users := self._stop_users(folder):
                stopped.update(users)
                if not any(runtime.workers for runtime in users):
                    break
                await asyncio.sleep(_WAIT_SECONDS)
            await self._volumes.shut(folder)
        finally:
            self._volumes.release(folder)
            for runtime in stopped:
                if runtime.want is Want.RUNNING:
                    self._prepare(runtime)

    def _stop_users(self, folder: Path) -> Sequence[AppRuntime]:
        """Have every app that has the volume stop, and prepare nothing; return these apps."""
        users = self._users(folder)
        for runtime in users:
            runtime.unprepare()
            runtime.problem = ("VolumeReadOnly", f"volume {_name(folder)} is being checked", False)
            for number, worker in list(runtime.workers.items()):
                if worker.state is not WorkerState.DRAINING:
                    runtime.drain(number)
        return users

    def _users(self, folder: Path) -> Sequence[AppRuntime]:
        return [
            runtime
            for runtime in self._apps()
            if any(
                self._volumes.uses(folder, runtime.key, app.mounts)
                for app in runtime.rollout.apps()
            )
            or any(
                self._volumes.uses(folder, runtime.key, worker.plan.app.mounts)
                for worker in runtime.workers.values()
            )
        ]

    def _record(self, folder: Path, reason: str, message: str, *, is_warning: bool) -> None:
        self._record_node(reason, message, is_warning)
        for runtime in self._users(folder):
            self._record_app(runtime, reason, message, is_warning)


def _name(folder: Path) -> str:
    """Name a volume as messages do: NAMESPACE/CLAIM, or the name of an emptyDir."""
    namespace = folder.parents[2] if folder.parent.name == "empty" else folder.parent
    return f"{namespace.name}/{folder.name}"


def _decide_pause(attempts: int) -> float:
    """Return how long after an attempt the next one may begin, in seconds."""
    return float(min(_FIRST_PAUSE_SECONDS * 2 ** min(attempts - 1, 16), _MAX_PAUSE_SECONDS))
