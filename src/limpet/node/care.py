"""What the node does for its own health, now and then: backups of the state, room on disk and in memory."""

from __future__ import annotations

import asyncio
import time
import traceback
from typing import TYPE_CHECKING

from limpet.errors import LimpetError
from limpet.node.background import in_thread
from limpet.node.conditions import Conditions
from limpet.node.disk import DiskKeeper
from limpet.node.memory import MemoryKeeper
from limpet.node.saying import say_problem
from limpet.node.volume_recovery import VolumeRecovery
from limpet.store.backups import BackupError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from limpet.node.apps import AppRuntime
    from limpet.node.keys import NodeKeys
    from limpet.node.needs import Needs
    from limpet.node.reporting import Reporter
    from limpet.node.spares import Spares
    from limpet.node.volumes import Volumes
    from limpet.plan import AppKey
    from limpet.settings import Settings
    from limpet.store.database import Database
    from limpet.store.modules import ModuleStore
    from limpet.store.reserve import Reserve

_LOOK_SECONDS = 5.0


class Care:
    """Looks every few seconds. `conditions` is what it has found; `sweep` removes what was half downloaded
    for nobody any more, `is_undecided` says that a version of Limpet is on trial.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        store: ModuleStore,
        database: Database,
        reserve: Reserve,
        keys: NodeKeys,
        needs: Needs,
        apps: Mapping[AppKey, AppRuntime],
        spares: Spares,
        volumes: Volumes,
        prepare: Callable[[AppRuntime], None],
        sweep: Callable[[], None],
        is_undecided: Callable[[], bool],
        reporter: Reporter,
    ) -> None:
        self.conditions = Conditions()
        self._backup_seconds = settings.state.backup_minutes * 60
        self._store = store
        self._database = database
        self._keys = keys
        self._record = reporter.of_node
        self._backed_up_at: float | None = None
        self._problems: dict[str, str] = {}
        self._sweep = sweep
        self._is_undecided = is_undecided
        self.disk = DiskKeeper(
            settings.node.data_directory,
            settings.disk,
            store=store,
            backups=database.backups,
            reserve=reserve,
            uses=needs,
            conditions=self.conditions,
            record=reporter.of_node,
        )
        self.memory = MemoryKeeper(
            settings.memory,
            apps=apps.values,
            spares=spares.count,
            drop_spares=spares.keep,
            conditions=self.conditions,
            record=reporter.of_node,
            record_app=reporter.of_app,
        )
        self.volumes = VolumeRecovery(
            volumes,
            apps=apps.values,
            has_room=lambda: not self.disk.is_short,
            prepare=prepare,
            record_app=reporter.of_app,
            record_node=reporter.of_node,
        )

    def open(self) -> None:
        """Tell what was found when the node's files were opened; guard what is stored from now on."""
        self.tell_problems()
        if self._database.restored is not None:  # its event came with it
            say_problem(f"warning: {self._database.restored}")
        self._store.admit = self.disk.admit

    def stop(self) -> None:
        """End what is under way."""
        self.volumes.stop()

    def tell_problems(self) -> None:
        """Tell what people have to know of the keyring."""
        for reason, message in self._keys.take_problems():
            self._record(reason, message, True)
            say_problem(f"warning: {message}")

    @property
    def is_memory_short(self) -> bool:
        """Whether nothing is to be kept in reserve."""
        return self.memory.is_under_pressure

    async def run(self) -> None:
        """Look for ever."""
        while True:
            for name, look in (
                ("unfinished downloads", self._sweep),
                ("disk", self.disk.look),
                ("memory", self.memory.look),
                ("volumes", self.volumes.look),
            ):
                self._look(name, look)
            await asyncio.sleep(_LOOK_SECONDS)
            await self._back_up()

    def _look(self, name: str, look: Callable[[], None]) -> None:
        """Look once. What fails is told when it is new, and tried again: others may have caused it."""
        problem = ""
        try:
            look()
        except (LimpetError, OSError) as error:
            problem = f"can't look after the {name}: {error}; tried again every few seconds"
        except Exception as error:
            say_problem(traceback.format_exc())
            problem = f"a defect in Limpet: looking after the {name} met {error!r}"
        if problem and problem != self._problems.get(name):
            self._record("CareFailed", problem, True)
        self._problems[name] = problem

    async def _back_up(self) -> None:
        """Back the state up when something was acknowledged and the last backup is old enough."""
        now, pause = time.monotonic(), self._backup_seconds
        is_early = self._backed_up_at is not None and now - self._backed_up_at < pause
        if is_early or self._is_undecided():  # one of a schema that may not stay
            return
        if not self._database.take_changes():
            return
        try:
            made = await in_thread(self._database.back_up, name="backup")
        except (BackupError, OSError) as error:
            self._database.expect_changes()
            self._backed_up_at = now
            self._record(
                "BackupFailed",
                f"{error}; the next try is in {pause / 60:.0f} minutes",
                True,
            )
        else:
            if made is not None:
                self._backed_up_at = now
