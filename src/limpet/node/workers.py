"""A worker process as its node knows it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from limpet.node.state import WorkerState

if TYPE_CHECKING:
    from limpet.node.probes import Prober
    from limpet.plan import Plan
    from limpet.worker.messages import Stats
    from limpet.worker.process import Process


@dataclass(slots=True)
class Worker:
    """One live worker process."""

    id: int
    slot: int
    plan: Plan
    incarnation: int
    process: Process
    state: WorkerState = WorkerState.STARTING
    started_at: float = field(default_factory=time.time)
    is_loaded: bool = False
    ready_at: float | None = None
    ready_since: float = 0.0
    idle_until: float = 0.0
    is_from_zero: bool = False
    stats: Stats | None = None
    prober: Prober | None = None
    start_ticks: int | None = None
    has_spoken: bool = False  # whether any message of it was read
    has_finished: bool = False  # whether it has said how it ends
    has_probes: bool = False
    was_ready: bool = False
    assigned_at: float = field(default_factory=time.monotonic)
    drain_until: float | None = None
    is_adopted: bool = False
    is_confirmed: bool = True  # whether `plan` is its own, and not one that only stands in for it

    @property
    def is_idle(self) -> bool:
        """Whether it has had nothing to do for the idle timeout."""
        return time.monotonic() < self.idle_until

    @property
    def name(self) -> str:
        """The name that people see."""
        return f"{self.plan.key.name}-{self.slot}"
