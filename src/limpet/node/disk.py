"""Keeping the node alive on a disk that fills: looks now and then, evicts what was decided, tells.

`limpet.node.pressure` decides. Nothing here waits: a look is a statvfs, a sweep lists two folders.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from limpet.errors import TemporaryError
from limpet.manifest.quantity import format_bytes
from limpet.node.pressure import (
    Candidate,
    DiskBudget,
    DiskView,
    Rank,
    decide_disk_pressure,
    decide_evictions,
    decide_floor,
)
from limpet.store.modules import FileKind, StoredFile

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from pathlib import Path

    from limpet.node.conditions import Conditions
    from limpet.settings import DiskSettings
    from limpet.store.backups import Backups
    from limpet.store.modules import ModuleStore
    from limpet.store.reserve import Reserve

DISK_PRESSURE = "DiskPressure"
# Without pressure: how often what nobody needs is looked for.
_SWEEP_SECONDS = 600.0


class DiskPressureError(TemporaryError):
    """There is no room for anything new."""

    reason = "DiskPressure"


class Uses(Protocol):
    """Who needs what of the store."""

    def needed_digests(self) -> Collection[str]:
        """Return the modules that a desired object or a release needs."""

    def open_code(self) -> Collection[str]:
        """Return the names of the compiled code that something runs, or is about to."""

    def forget_missing(self) -> None:
        """Forget what is known of modules that are gone."""


@dataclass(slots=True)
class _Unused:
    """Since when a file has been of no use (monotonic, seconds), and what it was then."""

    since: float
    mark: int


class DiskKeeper:
    """Looks after the data directory's file system. `record` makes an event of the node."""

    def __init__(
        self,
        directory: Path,
        settings: DiskSettings,
        *,
        store: ModuleStore,
        backups: Backups,
        reserve: Reserve,
        uses: Uses,
        conditions: Conditions,
        record: Callable[[str, str, bool], None],
    ) -> None:
        self._directory = directory
        self._budget = DiskBudget(
            free_bytes=settings.free_bytes,
            modules_bytes=settings.modules_bytes,
            unused_seconds=settings.unused_hours * 3600,
            grace_seconds=settings.grace_minutes * 60,
        )
        self._store = store
        self._backups = backups
        self._reserve = reserve
        self._uses = uses
        self._conditions = conditions
        self._record = record
        self._unused: dict[str, _Unused] = {}
        self._swept_at: float | None = None
        self._had_reserve = True

    def look(self) -> None:
        """See how full the disk is, and do what follows. Raises OSError, LimpetError."""
        now = time.monotonic()
        is_short = self._is_short()
        if is_short or self._swept_at is None or now - self._swept_at >= _SWEEP_SECONDS:
            self._sweep(now)
        self._restore_reserve()
        self._tell()

    def admit(self) -> None:
        """Raise `DiskPressureError` when nothing new may be stored."""
        if self._is_short():
            self._sweep(time.monotonic())
            self._tell()
            if self._conditions.is_true(DISK_PRESSURE):
                free, floor = self._figures()
                raise DiskPressureError(
                    f"the disk of {self._directory} has {format_bytes(free)} free and the node keeps "
                    f"{format_bytes(floor)}: nothing new is stored. Delete apps or volumes, or free "
                    "space on that disk"
                )

    @property
    def is_short(self) -> bool:
        """Whether less was free at the last look than the node keeps."""
        return self._conditions.is_true(DISK_PRESSURE)

    def note_use(self, digest: str) -> None:
        """Begin a module's grace period anew: somebody is about to need it."""
        unused = self._unused.get(f"{digest.removeprefix('sha256:')}.wasm")
        if unused is not None:
            unused.since = time.monotonic()

    def _figures(self) -> tuple[int, int]:
        found = os.statvfs(self._directory)
        floor = decide_floor(self._budget, found.f_blocks * found.f_frsize)
        return found.f_bavail * found.f_frsize, floor

    def _is_short(self) -> bool:
        free, floor = self._figures()
        was_under = self._conditions.is_true(DISK_PRESSURE)
        return decide_disk_pressure(was_under=was_under, free_bytes=free, floor_bytes=floor)

    def _sweep(self, now: float) -> None:
        # A backup that is being made may take long, and this is the event loop's thread.
        with self._backups.held_if_free() as may_drop_backups:
            self._evict(now, may_drop_backups=may_drop_backups)

    def _evict(self, now: float, *, may_drop_backups: bool) -> None:
        files = list(self._store.files())
        candidates = [*self._unused_files(files, now)]
        if may_drop_backups:
            candidates += self._older_backups()
        found = os.statvfs(self._directory)
        view = DiskView(
            total_bytes=found.f_blocks * found.f_frsize,
            free_bytes=found.f_bavail * found.f_frsize,
            modules_bytes=sum(each.size_bytes for each in files),
        )
        chosen = decide_evictions(candidates, view, self._budget)
        self._swept_at = now
        by_name = {each.name: each for each in files}
        freed: dict[Rank, tuple[int, int]] = {}
        for each in chosen:
            if each.rank is Rank.BACKUP:
                self._backups.drop_all_but_newest()
            else:
                self._remove(by_name[each.name])
            count, size = freed.get(each.rank, (0, 0))
            freed[each.rank] = (count + 1, size + each.size_bytes)
        self._uses.forget_missing()
        if freed:
            self._record("Evicted", _describe(freed), False)

    def _unused_files(self, files: Iterable[StoredFile], now: float) -> Iterable[Candidate]:
        """Give what may go, and remember since when each has been of no use.

        The first look can't know since when: what was there before the agent has had its grace.
        """
        needed, code = self._uses.needed_digests(), self._uses.open_code()
        is_first = self._swept_at is None
        unused: dict[str, _Unused] = {}
        for each in files:
            rank = _rank(each, needed, code)
            if rank is None:
                continue
            mark = each.changed_at if rank is Rank.PARTIAL else 0
            known = self._unused.get(each.name)
            if known is None or known.mark != mark:
                begun = now - self._budget.grace_seconds if is_first else now
                known = _Unused(begun, mark)
            unused[each.name] = known
            yield Candidate(rank, each.name, each.size_bytes, now - known.since)
        self._unused = unused

    def _older_backups(self) -> Iterable[Candidate]:
        for path in self._backups.numbered()[1:]:
            size = path.stat().st_blocks * 512
            yield Candidate(Rank.BACKUP, path.name, size, self._budget.grace_seconds)

    def _remove(self, file: StoredFile) -> None:
        if file.kind is FileKind.ARTIFACT:
            self._store.remove_artifact(file.name)
        elif file.kind is FileKind.MODULE:
            self._store.remove_module(file.digest)
        else:
            file.path.unlink(missing_ok=True)

    def _restore_reserve(self) -> None:
        is_held = self._reserve.restore()
        if is_held != self._had_reserve:
            self._had_reserve = is_held
            if is_held:
                self._record("ReserveRestored", "there is room again for the reserve", False)
            else:
                self._record(
                    "ReserveGivenUp",
                    "the disk is full: the reserve was given up, so that apps can still be deleted; "
                    "free some space",
                    True,
                )

    def _tell(self) -> None:
        free, floor = self._figures()
        is_under = self._is_short()
        figures = f"{format_bytes(free)} of the disk are free, the node keeps {format_bytes(floor)}"
        if is_under:
            reason = "KubeletHasDiskPressure"
            figures += "; what may go now is gone: delete apps or volumes, or free space on it"
        else:
            reason = "KubeletHasNoDiskPressure"
        if self._conditions.set(DISK_PRESSURE, reason, figures, is_true=is_under):
            event = "NodeHasDiskPressure" if is_under else "NodeHasNoDiskPressure"
            self._record(event, figures, is_under)


def _rank(file: StoredFile, needed: Collection[str], code: Collection[str]) -> Rank | None:
    if file.kind is FileKind.PARTIAL:
        return Rank.PARTIAL
    if file.kind is FileKind.MODULE:
        return None if file.digest in needed else Rank.MODULE
    if file.name in code:
        return None
    return Rank.IDLE_CODE if file.digest in needed else Rank.CODE


_NOUNS = {
    Rank.PARTIAL: "unfinished files",
    Rank.CODE: "files of compiled code that nothing needs",
    Rank.MODULE: "modules that no app and no release needs",
    Rank.BACKUP: "older backups of the state",
    Rank.IDLE_CODE: "files of compiled code that nothing runs (made again when needed)",
}


def _describe(freed: dict[Rank, tuple[int, int]]) -> str:
    parts = [
        f"{count} {_NOUNS[rank]} ({format_bytes(size)})"
        for rank, (count, size) in sorted(freed.items())
    ]
    return "removed " + ", ".join(parts)
