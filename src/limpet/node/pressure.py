"""What has to go when disk or memory run short: decisions, from figures to a list in the stated order.

docs/storage.md states the order to people.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# A condition that ended may not begin again with the next byte.
_RELIEF = 1.1
# Stalls count only while memory is somewhat short: an app at its own limit stalls as well.
_STALL_FACTOR = 4


class Rank(IntEnum):
    """What goes first, second and so on. Volumes, the state and what a release needs never go."""

    PARTIAL = 1
    """A file that somebody began to write and nobody has finished."""
    CODE = 2
    """Compiled code of a module that nothing needs."""
    MODULE = 3
    """A module that no desired object and no release needs."""
    BACKUP = 4
    """A backup of the state that is not the newest."""
    IDLE_CODE = 5
    """Compiled code of a module that is needed, which nothing runs now: it is compiled again."""


_EXPIRING = frozenset({Rank.PARTIAL, Rank.CODE, Rank.MODULE})


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that may go: its size, and for how long it has been of no use."""

    rank: Rank
    name: str
    size_bytes: int
    unused_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskBudget:
    """What the operator has set (`DiskSettings`), in bytes and seconds."""

    free_bytes: int
    modules_bytes: int
    unused_seconds: float
    grace_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskView:
    """What is found: the disk's size and free space, and all that modules and compiled code take."""

    total_bytes: int
    free_bytes: int
    modules_bytes: int


def decide_floor(budget: DiskBudget, total_bytes: int) -> int:
    """Return how much the node keeps free: what is set, at most a tenth of the disk."""
    return min(budget.free_bytes, total_bytes // 10)


def decide_kept(free_bytes: int, total_bytes: int) -> int:
    """Return what stays free of a disk when volumes are set aside: room for modules and the state as well."""
    return 2 * min(free_bytes, total_bytes // 10)


def decide_disk_pressure(*, was_under: bool, free_bytes: int, floor_bytes: int) -> bool:
    """Whether the disk is under pressure now; it ends a little above where it begins."""
    return free_bytes < floor_bytes * (_RELIEF if was_under else 1)


def decide_evictions(
    candidates: Iterable[Candidate], view: DiskView, budget: DiskBudget
) -> list[Candidate]:
    """Name what goes now, in order: what is long unused, what is over the budget, what the floor needs.

    Within a rank the longest unused go first. What was of use within the grace period stays.
    """
    ordered = sorted(
        (each for each in candidates if each.unused_seconds >= budget.grace_seconds),
        key=lambda each: (each.rank, -each.unused_seconds, each.name),
    )
    free, used = view.free_bytes, view.modules_bytes
    floor = int(decide_floor(budget, view.total_bytes) * _RELIEF)
    chosen = []
    for each in ordered:
        is_module = each.rank in (Rank.CODE, Rank.MODULE, Rank.IDLE_CODE)
        is_expired = each.rank in _EXPIRING and each.unused_seconds >= budget.unused_seconds
        is_over_budget = is_module and used > budget.modules_bytes
        is_needed = view.free_bytes < floor and free < floor
        if is_expired or is_over_budget or is_needed:
            chosen.append(each)
            free += each.size_bytes
            used -= each.size_bytes if is_module else 0
    return chosen


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryView:
    """The kernel's figures; `stalled_percent` is None where it does not measure stalls."""

    available_bytes: int
    stalled_percent: float | None


@dataclass(frozen=True, slots=True)
class IdleApp:
    """An app that the next client starts again and that has had nothing to do for some seconds."""

    name: str
    idle_seconds: float
    memory_bytes: int


def decide_memory_pressure(
    view: MemoryView, *, was_under: bool, free_bytes: int, stall_percent: float
) -> bool:
    """Whether memory is under pressure: too little is available, or little and processes wait for it."""
    factor = _RELIEF if was_under else 1
    if view.available_bytes < free_bytes * factor:
        return True
    stalled = view.stalled_percent or 0.0
    return stalled * factor >= stall_percent and view.available_bytes < free_bytes * _STALL_FACTOR


def decide_relief(
    idle: Iterable[IdleApp], view: MemoryView, *, free_bytes: int, spares: int
) -> Sequence[IdleApp]:
    """Name the idle apps whose workers go now: the longest idle first, as many as may be enough.

    While there are spares none goes: those are let go first, and the next look tells what that gave.
    """
    if spares:
        return []
    missing = max(free_bytes * _RELIEF - view.available_bytes, 1)
    chosen = []
    for each in sorted(idle, key=lambda app: (-app.idle_seconds, app.name)):
        if missing <= 0:
            break
        chosen.append(each)
        missing -= each.memory_bytes
    return chosen
