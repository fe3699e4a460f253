"""Takes over what an earlier agent has left with the launcher: workers, how they ended, what is remembered.

A worker that lives and whose app is wanted goes on. One that ended while no agent was there is learnt of as
if its end had just come. One that nobody wants any more is drained. What can't be understood is let go: the
launcher's copy of its socket was the last, so it sees its end and stops by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from limpet.linux.process import read_start_ticks
from limpet.node.identity import FigureRecord, Identity, RecordError, SlotRecord, parse_record
from limpet.node.keeper import FIGURES, SLOT, WORKER, worker_name
from limpet.node.workers import Worker
from limpet.plan import stand_in_plan
from limpet.worker.channel import Channel, close_all
from limpet.worker.messages import Adopt, Drain, Finished
from limpet.worker.process import Process

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from limpet.manifest.model import App
    from limpet.node.apps import AppRuntime
    from limpet.node.holdings import End, Held
    from limpet.node.keeper import Keeper
    from limpet.plan import AppKey
    from limpet.worker.limits import Groups, SharedGroup
    from limpet.worker.messages import Message
    from limpet.worker.process import ExitInfo
    from limpet.worker.supervisor import Zygotes

_DESCRIPTORS = 3
_KINDS = {WORKER: Identity, SLOT: SlotRecord, FIGURES: FigureRecord}


@dataclass(slots=True)
class Estate:
    """What an earlier agent has left, by the names it is held under."""

    workers: dict[str, tuple[Identity, Held]] = field(default_factory=dict)
    slots: dict[str, SlotRecord] = field(default_factory=dict)
    figures: dict[str, FigureRecord] = field(default_factory=dict)
    strange: dict[str, Held] = field(default_factory=dict)

    @property
    def groups(self) -> frozenset[str]:
        """The control groups of all workers, also of those that have ended."""
        return frozenset(identity.group for identity, _ in self.workers.values())


def read_estate(held: Mapping[str, Held]) -> Estate:
    """Understand what the launcher holds."""
    estate = Estate()
    for name, entry in held.items():
        kind = _KINDS.get(name.partition(" ")[0])
        try:
            if kind is None or (kind is Identity and len(entry.descriptors) != _DESCRIPTORS):
                raise RecordError("nothing of this version's")
            record = parse_record(kind, entry.text)
        except RecordError:
            estate.strange[name] = entry
            continue
        if isinstance(record, Identity):
            estate.workers[name] = (record, entry)
        elif isinstance(record, SlotRecord):
            estate.slots[name] = record
        else:
            estate.figures[name] = record
    return estate


@dataclass(slots=True)
class Taken:
    """One worker as its new agent has it; `pidfd` is None when it has ended."""

    identity: Identity
    process: Process
    logs: tuple[int, int]
    pidfd: int | None
    end: End | None

    @property
    def is_alive(self) -> bool:
        """Whether it may still run."""
        return self.pidfd is not None

    def as_worker(self, app: App) -> Worker:
        """Return it as a worker of this app.

        Whether it has the plan that is in force is known when that is prepared.
        """
        identity = self.identity
        plan = stand_in_plan(
            replace(app, grace_seconds=identity.grace_seconds),
            engine=identity.engine,
            fingerprint=identity.fingerprint,
        )
        return Worker(
            identity.number,
            identity.slot,
            plan,
            identity.incarnation,
            self.process,
            started_at=identity.started_at,
            assigned_at=identity.assigned_at,
            start_ticks=identity.start_ticks,
            was_ready=identity.was_ready,
            has_probes=identity.has_probes,
            is_from_zero=identity.is_from_zero,
            drain_until=identity.drain_until,
            is_adopted=True,
            is_confirmed=False,
        )

    def begin(self, zygotes: Zygotes) -> None:
        """Watch over it, or learn at once how it has ended."""
        identity, process = self.identity, self.process
        if identity.said is not None:
            process.finished = Finished(*identity.said)
        zygotes.of(identity.engine).adopt(process, identity.pid, self.pidfd)
        if self.is_alive:
            process.catch_up()
            process.send(Adopt())
            if identity.drain_until is not None:
                process.send(Drain())
        elif self.end is not None:
            ago = time.monotonic() - self.end.at
            zygotes.of(identity.engine).let_go(identity.pid)
            process.set_status(self.end.status, self.end.peak_bytes, seconds_ago=ago)
        else:
            zygotes.of(identity.engine).let_go(identity.pid)
            process.end_unseen()


class Adoption:
    """Carries an estate over to the apps that are wanted."""

    def __init__(self, estate: Estate, *, zygotes: Zygotes, groups: Groups, keeper: Keeper) -> None:
        self._estate = estate
        self._zygotes = zygotes
        self._groups = groups
        self._keeper = keeper
        self._found_groups: dict[str, SharedGroup | None] = {}

    def carry_out(self, apps: Mapping[AppKey, AppRuntime]) -> int:
        """Give every app what is its own; return how many workers go on."""
        for name, entry in self._estate.strange.items():
            entry.close()
            self._keeper.drop(name)
        records: dict[str, SlotRecord | FigureRecord] = {}
        records |= self._estate.slots
        records |= self._estate.figures
        for name, record in records.items():
            runtime = apps.get(record.key)
            if runtime is None or runtime.created_at != record.created_at:
                self._keeper.drop(name)
                continue
            self._keeper.know(record.key, name)
            runtime.recall(record)
        count = 0
        for identity, entry in self._in_order():
            self._keeper.know(identity.key, worker_name(identity.key, identity.number))
            runtime = apps.get(identity.key)
            taken = self._take(identity, entry)
            count += taken.is_alive
            if runtime is None:
                _Leftover(taken, self._keeper).begin(self._zygotes)
            else:
                runtime.adopt(taken)
        return count

    def _in_order(self) -> Iterator[tuple[Identity, Held]]:
        """Younger workers last: the last one of a slot is the one that counts."""
        yield from sorted(self._estate.workers.values(), key=lambda each: each[0].number)

    def _take(self, identity: Identity, entry: Held) -> Taken:
        control, stdout, stderr = entry.descriptors
        pidfd = None if entry.end is not None else open_process(identity.pid, identity.start_ticks)
        process = Process(
            f"{identity.key}#{identity.number}",
            Channel.from_descriptor(control),
            on_message=_ignore,
            on_exit=_ignore,
        )
        process.uid = identity.uid
        process.is_component = identity.is_component
        group = self._group(identity, is_alive=pidfd is not None)
        process.group = group.enter() if group is not None else None
        return Taken(identity, process, (stdout, stderr), pidfd, entry.end)

    def _group(self, identity: Identity, *, is_alive: bool) -> SharedGroup | None:
        name = identity.group
        if name not in self._found_groups:
            found = self._groups.find(name)
            if found is not None and is_alive:
                with contextlib.suppress(OSError):  # then a kill is told of twice
                    found.forget_kills()
            self._found_groups[name] = found
        return self._found_groups[name]


class _Leftover:
    """A worker of an app that is gone: it is let finish, and ended when its grace period is over."""

    def __init__(self, taken: Taken, keeper: Keeper) -> None:
        self._taken = taken
        self._keeper = keeper

    def begin(self, zygotes: Zygotes) -> None:
        taken = self._taken
        close_all(taken.logs)  # its log is gone with its app
        taken.process.hand_over(on_message=_ignore, on_exit=self._on_exit)
        taken.begin(zygotes)
        if taken.is_alive:
            taken.process.send(Drain())
            grace = remaining_grace(taken.identity)
            asyncio.get_running_loop().call_later(grace, taken.process.kill)

    def _on_exit(self, _process: Process, _info: ExitInfo) -> None:
        self._keeper.release_worker(self._taken.identity.key, self._taken.identity.number)


def remaining_grace(identity: Identity) -> float:
    """Return how many seconds a worker that is drained still has."""
    if identity.drain_until is None:
        return identity.grace_seconds
    return max(0.0, identity.drain_until - time.monotonic())


def open_process(pid: int, start_ticks: int) -> int | None:
    """Return a pidfd of exactly this process; None when it has ended and another may have its number."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    if read_start_ticks(pid) != start_ticks:
        os.close(pidfd)
        return None
    return pidfd


def _ignore(_process: Process, _message: Message | ExitInfo) -> None:
    """For the moment between taking a process and giving it to its app."""
