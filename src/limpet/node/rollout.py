"""Releases: which one is in force, when one has succeeded or failed, which may go. Pure.

How workers are exchanged is decided in `limpet.node.state`; here it is decided for which release.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from limpet.manifest.model import App

CRASHES = 3
"""So many ends of one place in a row, none after a stable time, are a crash loop."""


class Status(StrEnum):
    """What was decided about a release. Superseded: a newer one came before it was decided."""

    PROGRESSING = "progressing"
    COMPLETE = "complete"
    FAILED = "failed"
    SUPERSEDED = "superseded"


class Numbered(Protocol):
    """What is to be known of a release here."""

    @property
    def number(self) -> int:
        """Which one; later ones have higher numbers."""

    @property
    def status(self) -> str:
        """A `Status`."""


_Release = TypeVar("_Release", bound=Numbered)


def find_fallback(releases: Sequence[_Release]) -> _Release | None:
    """Return the release to go back to: the last complete one before the newest."""
    complete = [release for release in releases[:-1] if release.status == Status.COMPLETE]
    return complete[-1] if complete else None


def decide_in_force(releases: Sequence[_Release], *, is_paused: bool = False) -> _Release:
    """Return the release that is to run, of at least one, oldest first.

    That is the newest. When it has failed, or waits because the rollout is paused, it is the last
    complete one; without one the newest, which goes on trying.
    """
    newest = releases[-1]
    fallback = find_fallback(releases)
    if fallback is None or newest.status == Status.COMPLETE:
        return newest
    return fallback if is_paused or newest.status == Status.FAILED else newest


def decide_undo(releases: Sequence[_Release]) -> _Release | None:
    """Return the release that `undo` without a number takes: the one before the newest that worked,
    else the one before.
    """
    found = find_fallback(releases)
    return found if found is not None or len(releases) < 2 else releases[-2]


def decide_forgotten(releases: Sequence[_Release], *, limit: int) -> list[_Release]:
    """Return what is beyond `limit` releases before the newest; never one that may have to run."""
    fallback = find_fallback(releases)
    older = list(releases[:-1])
    return [release for release in older[: max(0, len(older) - limit)] if release is not fallback]


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutView:
    """The newest release as it stands, `slots` workers being wanted.

    `available` of its workers are, `others` are left of other plans. `is_prepared` says that it can be
    started, `is_asleep` that nothing of it is to run now. `crashes` counts the ends in a row of its
    worst place, `crash` tells the last. `problem` is what keeps it from being prepared: reason, message
    and whether only a change helps. `progressed_at` is when it last came forward, `settles_at` when
    what has got ready counts as working.
    """

    slots: int
    is_prepared: bool
    is_asleep: bool = False
    available: int = 0
    others: int = 0
    crashes: int = 0
    crash: str = ""
    problem: tuple[str, str, bool] | None = None
    progressed_at: float
    deadline_seconds: float
    settles_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """The end of a rollout: complete, or failed and why."""

    status: Status
    reason: str = ""
    message: str = ""


def decide_verdict(view: RolloutView, now: float) -> Verdict | None:
    """Judge a release that is being rolled out; None while it is open."""
    if view.problem is not None and view.problem[2]:
        return Verdict(Status.FAILED, view.problem[0], view.problem[1])
    if view.is_prepared and view.is_asleep:
        return Verdict(Status.COMPLETE)
    is_there = view.is_prepared and view.available >= view.slots and not view.others
    if is_there and now >= view.settles_at:
        return Verdict(Status.COMPLETE)
    if view.crashes >= CRASHES:
        times = f"its workers ended {view.crashes} times in a row, the last one by"
        return Verdict(Status.FAILED, "CrashLoopBackOff", f"{times} {view.crash}")
    if not is_there and now >= view.progressed_at + view.deadline_seconds:
        return Verdict(Status.FAILED, "ProgressDeadlineExceeded", _explain_standstill(view))
    return None


def _explain_standstill(view: RolloutView) -> str:
    seconds = f"no progress within {view.deadline_seconds:g} s"
    if view.problem is not None:
        return f"{seconds}: {view.problem[0]}: {view.problem[1]}"
    if view.crash:
        return f"{seconds}; the last worker ended by {view.crash}"
    return f"{seconds}: {view.available} of {view.slots} workers became available"


def decide_wake_up_for_verdict(view: RolloutView, now: float) -> float | None:
    """Return when a verdict may be due that no event announces."""
    times = [view.progressed_at + view.deadline_seconds, view.settles_at]
    due = [when for when in times if when > now]
    return min(due) if due else None


def count_share(share: int | str, replicas: int, *, rounds_up: bool) -> int:
    """Return how many replicas a number or a share like `25%` is (IntOrString)."""
    if isinstance(share, int):
        return share
    hundredths = int(share[:-1]) * replicas
    return -(-hundredths // 100) if rounds_up else hundredths // 100


def surge_slots(app: App) -> int:
    """Return how many workers may be there beyond those that are wanted."""
    return count_share(app.rollout.max_surge, app.replicas, rounds_up=True) * app.workers


def unavailable_slots(app: App) -> int:
    """Return how many of the wanted workers may be missing while others come."""
    missing = count_share(app.rollout.max_unavailable, app.replicas, rounds_up=False)
    if missing == 0 and surge_slots(app) == 0:
        missing = 1  # both were shares that came to nothing
    return missing * app.workers


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What two releases side by side need, and what there is, in bytes.

    `workers` are to start while old ones run, each with what the old ones used at most
    (`used_bytes`, 0 when nobody knows), at least `initial_bytes`, and never more than `limit_bytes`.
    `reserve_bytes` of `available_bytes` stay free.
    """

    workers: int
    initial_bytes: int
    used_bytes: int
    limit_bytes: int
    available_bytes: int
    reserve_bytes: int

    @property
    def needed_bytes(self) -> int:
        """What the new workers are expected to take."""
        return self.workers * min(self.limit_bytes, max(self.initial_bytes, self.used_bytes))


def decide_side_by_side(room: Room) -> str | None:
    """Return why two releases can't run side by side, for people; None when they can."""
    free = room.available_bytes - room.reserve_bytes
    if room.needed_bytes <= free:
        return None
    return (
        f"the new release needs {room.needed_bytes >> 20} MiB beside the old one, and "
        f"{room.available_bytes >> 20} MiB are available, of which {room.reserve_bytes >> 20} MiB "
        "stay free: the old workers stop before the new ones start"
    )
