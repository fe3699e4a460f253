"""The places of an app's workers: what is remembered of each between one worker and the next."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from limpet.node.identity import SlotRecord
from limpet.node.restarts import decide_backoff, decide_restart, should_restart
from limpet.worker.process import ExitInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from limpet.node.restarts import Restart
    from limpet.node.workers import Worker
    from limpet.plan import AppKey


@dataclass(slots=True)
class Slot:
    """One place. `retry_at` is monotonic, in seconds; `last_number` is the worker whose end was learnt
    last.
    """

    failures: int = 0
    restarts: int = 0
    retry_at: float = 0.0
    last_exit: ExitInfo | None = None
    last_incarnation: int = 0
    is_completed: bool = False
    last_number: int = 0

    def note_end(self, worker: Worker, info: ExitInfo) -> None:
        """Remember who ended here last, and how."""
        self.last_number = worker.id
        self.last_incarnation = worker.incarnation
        self.last_exit = info

    def decide(self, worker: Worker, info: ExitInfo, *, first_seconds: float) -> Restart | None:
        """Plan what follows a worker's end; None when the place is over."""
        if not should_restart(worker.plan.app, restarts=self.restarts, is_success=info.is_success):
            self.is_completed = True
            return None
        now = time.monotonic()
        lasted = now - worker.ready_at if worker.ready_at is not None else 0.0
        restart = decide_restart(
            failures=self.failures, lasted_seconds=lasted, first_seconds=first_seconds
        )
        self.restarts += 1
        self.failures = restart.failures
        self.retry_at = now + restart.pause_seconds
        return restart

    def fail_start(self, *, first_seconds: float) -> float:
        """Learn that no worker could be started here; return how many seconds to wait."""
        self.failures += 1
        pause = decide_backoff(self.failures + 1, first_seconds=first_seconds)
        self.retry_at = time.monotonic() + pause
        return pause


class Slots:
    """All places that an app has had, by number."""

    def __init__(self) -> None:
        self._slots: dict[int, Slot] = {}
        self._has_told_end = False

    def of(self, index: int) -> Slot:
        """Return a place; nothing is remembered of one that was never used."""
        return self._slots.setdefault(index, Slot())

    def __iter__(self) -> Iterator[tuple[int, Slot]]:
        """Give every place that was used, lowest number first."""
        return iter(sorted(self._slots.items()))

    def reset(self) -> None:
        """Forget failures and completions: the app was changed or applied anew."""
        self.forgive()
        self._has_told_end = False
        for slot in self._slots.values():
            slot.is_completed = False

    def forgive(self) -> None:
        """Forget failures: what starts next is of another plan."""
        for slot in self._slots.values():
            slot.failures = 0
            slot.restarts = 0
            slot.retry_at = 0.0

    def ends(self, count: int) -> list[ExitInfo] | None:
        """Return how the first `count` places ended, when all of them are over for good."""
        slots = [self._slots.get(index) for index in range(count)]
        if not slots or not all(slot is not None and slot.is_completed for slot in slots):
            return None
        return [slot.last_exit for slot in slots if slot is not None and slot.last_exit is not None]

    def take_end(self, count: int) -> ExitInfo | None:
        """Return how all of them ended, once, when they have: a failure rather than a success."""
        ends = None if self._has_told_end else self.ends(count)
        if ends is None:
            return None
        self._has_told_end = True
        return next((info for info in ends if not info.is_success), ends[0] if ends else None)

    def restore_end(self, count: int, info: ExitInfo) -> None:
        """Take up how all of them ended before the agent was restarted: none runs again."""
        self._has_told_end = True
        for index in range(count):
            slot = self.of(index)
            slot.is_completed = True
            slot.last_exit = info

    def record(self, key: AppKey, index: int, *, created_at: float, generation: int) -> SlotRecord:
        """Return a place for the next agent."""
        slot = self.of(index)
        return SlotRecord(
            namespace=key.namespace,
            name=key.name,
            created_at=created_at,
            generation=generation,
            slot=index,
            failures=slot.failures,
            restarts=slot.restarts,
            retry_at=slot.retry_at,
            is_completed=slot.is_completed,
            last_number=slot.last_number,
            last_exit=asdict(slot.last_exit) if slot.last_exit else None,
        )

    def restore(self, record: SlotRecord, *, generation: int) -> None:
        """Let a place be as it was; what an app's change forgets is not brought back."""
        slot = self.of(record.slot)
        slot.last_number = record.last_number
        slot.last_exit = ExitInfo(**record.last_exit) if record.last_exit else None
        if record.generation == generation:
            slot.failures, slot.restarts = record.failures, record.restarts
            slot.retry_at, slot.is_completed = record.retry_at, record.is_completed
