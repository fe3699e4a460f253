"""What the node does for its own health, now and then: backups of the state, room on disk and in memory."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING

from limpet.errors import LimpetError
from limpet.node.conditions import Conditions
from limpet.node.disk import DiskKeeper
from limpet.node.memory import MemoryKeeper
from limpet.store.backups import BackupError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from limpet.node.agent import Agent
    from limpet.node.modules import Modules

_LOOK_SECONDS = 5.0


class Care:
    """Looks every few seconds. `conditions` is what it has found."""

    def __init__(self, agent: Agent, modules: Modules) -> None:
        self.conditions = Conditions()
        self._agent = agent
        self._backed_up_at: float | None = None
        self._problems: dict[str, str] = {}
        self.disk = DiskKeeper(
            agent.settings.node.data_directory,
            agent.settings.disk,
            store=agent.store,
            backups=agent.database.backups,
            reserve=agent.reserve,
            uses=_Uses(agent, modules),
            conditions=self.conditions,
            record=agent.record_node,
        )
        self.memory = MemoryKeeper(
            agent.settings.memory,
            apps=agent.apps.values,
            spares=lambda: sum(zygote.has_spare for zygote in agent.zygotes),
            drop_spares=agent.keep_spares,
            conditions=self.conditions,
            record=agent.record_node,
            record_app=agent.record_app,
        )

    def open(self) -> None:
        """Tell what was found when the node's files were opened; guard what is stored from now on."""
        self.tell_problems()
        if self._agent.database.restored is not None:  # its event came with it
            sys.stderr.write(f"warning: {self._agent.database.restored}\n")
        sys.stderr.flush()
        self._agent.store.admit = self.disk.admit

    def tell_problems(self) -> None:
        """Tell what people have to know of the keyring."""
        for reason, message in self._agent.keys.take_problems():
            self._agent.record_node(reason, message, is_warning=True)
            sys.stderr.write(f"warning: {message}\n")

    @property
    def is_memory_short(self) -> bool:
        """Whether nothing is to be kept in reserve."""
        return self.memory.is_under_pressure

    async def run(self) -> None:
        """Look for ever."""
        while True:
            for name, look in (("disk", self.disk.look), ("memory", self.memory.look)):
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
        if problem and problem != self._problems.get(name):
            self._agent.record_node("CareFailed", problem, is_warning=True)
        self._problems[name] = problem

    async def _back_up(self) -> None:
        """Back the state up when something was acknowledged and the last backup is old enough."""
        now, pause = time.monotonic(), self._agent.settings.state.backup_minutes * 60
        is_early = self._backed_up_at is not None and now - self._backed_up_at < pause
        if is_early or self._agent.upgrades.is_undecided:  # one of a schema that may not stay
            return
        if not self._agent.database.take_changes():
            return
        try:
            made = await asyncio.to_thread(self._agent.database.back_up)
        except BackupError as error:
            self._agent.database.expect_changes()
            self._backed_up_at = now
            self._agent.record_node(
                "BackupFailed",
                f"{error}; the next try is in {pause / 60:.0f} minutes",
                is_warning=True,
            )
        else:
            if made is not None:
                self._backed_up_at = now


class _Uses:
    """Who needs what of the store, as the agent knows it (`limpet.node.disk.Uses`)."""

    def __init__(self, agent: Agent, modules: Modules) -> None:
        self._agent = agent
        self._modules = modules

    def needed_digests(self) -> Collection[str]:
        return self._agent.database.load_needed_digests()

    def open_code(self) -> Collection[str]:
        return self._modules.open_artifacts()
