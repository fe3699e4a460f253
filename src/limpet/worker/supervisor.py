"""The agent's side of the zygotes: have one for each engine, and processes forked by it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import time
from collections import deque
from typing import TYPE_CHECKING

from limpet.engine import DEFAULT_ENGINE
from limpet.engine.missing import EngineMissingError
from limpet.linux.cgroup import Limits
from limpet.worker.channel import Channel, close_all
from limpet.worker.messages import (
    Assign,
    Drain,
    EngineMissing,
    EngineReady,
    Exited,
    MessageError,
    Spawn,
    Spawned,
    SpawnFailed,
)
from limpet.worker.process import Process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from limpet.worker.limits import Groups, SharedGroup
    from limpet.worker.messages import Message
    from limpet.worker.process import ExitInfo

_STABLE_SECONDS = 10.0
_MAX_PAUSE_SECONDS = 5.0
_IDLE_SECONDS = 60.0


class Zygotes:
    """The node's zygotes, one for each engine: the default one's from the start, others on demand.

    `uids` are the users of which each process gets one. `start` asks the launcher for the zygote of an
    engine.
    """

    def __init__(self, groups: Groups, uids: range, *, start: Callable[[str], None]) -> None:
        self._groups = groups
        self._uids = uids
        self._start = start
        # Workers of an agent that was killed may live on: where to begin is left to chance.
        self._next_uid = int.from_bytes(os.urandom(4), "little")
        self._by_engine: dict[str, Zygote] = {}
        self.default = self.of(DEFAULT_ENGINE)

    def __iter__(self) -> Iterator[Zygote]:
        return iter(self._by_engine.values())

    def of(self, engine: str) -> Zygote:
        """Return the connection to an engine's zygote, be it there already or not."""
        found = self._by_engine.get(engine)
        if found is None:
            found = Zygote(
                engine,
                self._groups,
                take_uid=self._take_uid,
                start=self._start,
                is_kept=engine == DEFAULT_ENGINE,
            )
            self._by_engine[engine] = found
        return found

    def _take_uid(self) -> int:
        """Return the next number that no living process has. Raises OSError when there is none."""
        taken = {process.uid for zygote in self for process in zygote.processes()}
        for _ in self._uids:
            self._next_uid += 1
            uid = self._uids[self._next_uid % len(self._uids)]
            if uid not in taken:
                return uid
        raise OSError(
            errno.EAGAIN,
            f"all {len(self._uids)} users are taken: raise sandbox.uids in the settings",
        )


class Zygote:
    """The agent's connection to one zygote, which may be replaced while the agent lives.

    `take_uid` gives a new process its user, `start` asks the launcher for the zygote. One that
    `is_kept` comes unasked at first, and stays when there is nothing to do.
    """

    def __init__(
        self,
        name: str,
        groups: Groups,
        *,
        take_uid: Callable[[], int],
        start: Callable[[str], None],
        is_kept: bool,
    ) -> None:
        self.name = name
        self.pid: int | None = None
        self.is_known = False
        self.restarts = 0
        self.groups = groups
        self._take_uid = take_uid
        self._start = start
        self._is_kept = is_kept
        self._is_asked_for = is_kept
        self._attached_at = 0.0
        self._failures = 0
        self._engine: asyncio.Future[EngineReady] | None = None
        self._channel: Channel | None = None
        self._waiting: deque[tuple[Process, Spawn, list[int]]] = deque()
        self._starting: dict[str, Process] = {}
        self._running: dict[int, Process] = {}
        self._spare: Process | None = None
        self._serial = 0

    def attach(self, channel: Channel, pid: int) -> None:
        """Use this zygote from now on, beginning with what waits for one."""
        self.detach()
        channel.set_blocking(False)
        self._channel = channel
        self.pid = pid
        self.is_known = True
        self._is_asked_for = False
        self._attached_at = time.monotonic()
        asyncio.get_running_loop().add_reader(channel.fileno(), self._read)
        while self._waiting:
            process, spawn, descriptors = self._waiting.popleft()
            self._send(process, spawn, descriptors)

    def detach(self) -> None:
        """Let go of the zygote. What it has not confirmed is given up: that process sees EOF."""
        if self._channel is not None:
            asyncio.get_running_loop().remove_reader(self._channel.fileno())
            self._channel.close()
            self._channel = None
            self.pid = None
            has_lasted = time.monotonic() - self._attached_at > _STABLE_SECONDS
            self._failures = 0 if has_lasted else self._failures + 1
            unconfirmed, self._starting = self._starting, {}
            for process in unconfirmed.values():
                process.fail("the zygote died")

    def _ask(self) -> None:
        """Have the zygote started; one that keeps dying, ever more slowly."""
        if self._is_asked_for or self._channel is not None:
            return
        self._is_asked_for = True
        pause = (
            min(0.1 * 2 ** min(self._failures, 9), _MAX_PAUSE_SECONDS)
            if self._failures > 1
            else 0.0
        )
        asyncio.get_running_loop().call_later(pause, self._start, self.name)

    def spawn(
        self,
        name: str,
        role: str,
        descriptors: Sequence[int],
        *,
        limits: Limits,
        is_component: bool = False,
        on_message: Callable[[Process, Message], None],
        on_exit: Callable[[Process, ExitInfo], None],
    ) -> Process:
        """Fork a process for a task and assign it. The descriptors stay the caller's.

        `name` is unique. Raises OSError when the kernel refuses the limits.
        """
        group = self.groups.make(role, limits)
        process = self._fork(name, role, group, on_message, on_exit, is_component=is_component)
        process.send(Assign(), descriptors)
        return process

    def _fork(
        self,
        name: str,
        role: str,
        group: SharedGroup | None,
        on_message: Callable[[Process, Message], None],
        on_exit: Callable[[Process, ExitInfo], None],
        *,
        is_component: bool,
    ) -> Process:
        with contextlib.ExitStack() as on_failure:
            if group is not None:
                on_failure.callback(group.enter().leave)
            uid = self._take_uid()
            ours, theirs = Channel.pair()
            on_failure.pop_all()
        process = Process(name, ours, on_message=on_message, on_exit=on_exit)
        process.group = group
        process.uid = uid
        control = os.dup(theirs.fileno())
        theirs.close()
        process.is_component = is_component
        self._send(process, Spawn(name, role, process.uid, is_component), [control])
        return process

    def processes(self) -> Iterator[Process]:
        """Give every process that was asked for and has not ended."""
        yield from self._running.values()
        yield from self._starting.values()
        yield from (process for process, _, _ in self._waiting)

    def adopt(self, process: Process, pid: int, pidfd: int | None) -> None:
        """Have a process that an earlier agent's zygote forked; `pidfd` is None when it has ended."""
        self._running[pid] = process
        process.adopt(pid, pidfd)

    def let_go(self, pid: int) -> None:
        """Expect no status of this process any more: it is known, or nobody has it."""
        self._running.pop(pid, None)

    def end_when_idle(self) -> None:
        """Let a zygote go that has nothing to do; one that is needed again is asked for again."""
        if self._is_kept or self._channel is None or next(self.processes(), None) is not None:
            return
        if time.monotonic() - self._attached_at > _IDLE_SECONDS:
            self.detach()

    def take_worker(
        self,
        *,
        limits: Limits,
        is_component: bool = False,
        beside: Process | None,
        on_message: Callable[[Process, Message], None],
        on_exit: Callable[[Process, ExitInfo], None],
    ) -> Process:
        """Return a process that waits to be assigned an app: the spare if it fits, or a new one.

        It shares the limits of the process `beside`, or has these alone. Raises OSError when the kernel
        refuses them.
        """
        shared = beside.group if beside is not None else None
        spare = self._spare
        if spare is not None and spare.is_component >= is_component:
            self._spare = None
            try:
                spare.change_limits(limits, shared)
            except OSError:
                spare.send(Drain())  # nobody knows it any more
                raise
            spare.hand_over(on_message=on_message, on_exit=on_exit)
            return spare
        group = shared or self.groups.make("app", limits)
        return self._spawn_worker("app", group, on_message, on_exit, is_component=is_component)

    @property
    def has_spare(self) -> bool:
        """Whether a worker waits for the next cold start."""
        return self._spare is not None

    @property
    def has_forked_spare(self) -> bool:
        """Whether that worker is a process already."""
        return self._spare is not None and self._spare.pid is not None

    def keep_spare(self, *, is_wanted: bool, is_component: bool = False) -> None:
        """Have a worker wait for the next cold start, one that can take a component, or none."""
        spare = self._spare
        if spare is not None and spare.is_component < is_component:
            self._spare = None
            spare.send(Drain())
        if is_wanted and self._spare is None and self._channel is not None:
            group = self.groups.make("spare", Limits())
            self._spare = self._spawn_worker(
                "spare", group, lambda *_: None, self._on_spare_exit, is_component=is_component
            )
        elif not is_wanted and self._spare is not None:
            self._spare.send(Drain())
            self._spare = None

    def _spawn_worker(
        self,
        role: str,
        group: SharedGroup | None,
        on_message: Callable[[Process, Message], None],
        on_exit: Callable[[Process, ExitInfo], None],
        *,
        is_component: bool,
    ) -> Process:
        self._serial += 1
        name = f"worker-{self._serial}"
        return self._fork(name, role, group, on_message, on_exit, is_component=is_component)

    def _on_spare_exit(self, process: Process, _info: ExitInfo) -> None:
        if self._spare is process:
            self._spare = None

    def _send(self, process: Process, spawn: Spawn, descriptors: list[int]) -> None:
        if self._channel is None:
            self._waiting.append((process, spawn, descriptors))
            self._ask()
            return
        try:
            self._channel.send(spawn, descriptors)
        except (BrokenPipeError, ConnectionResetError, BlockingIOError):
            # Dead or drowned: the launcher will bring another one.
            self.detach()
            self._waiting.append((process, spawn, descriptors))
            self._ask()
            return
        self._starting[spawn.worker] = process
        close_all(descriptors)

    def _read(self) -> None:
        while self._channel is not None:
            try:
                received = self._channel.receive()
            except BlockingIOError:
                return
            except MessageError:
                received = None
            if received is None:
                self._on_end()
                return
            message, descriptors = received
            close_all(descriptors)
            if isinstance(message, Spawned):
                process = self._starting.pop(message.worker, None)
                if process is not None:
                    self._running[message.pid] = process
                    process.set_pid(message.pid)
            elif isinstance(message, SpawnFailed):
                process = self._starting.pop(message.worker, None)
                if process is not None:
                    process.fail(message.message)
            elif isinstance(message, Exited):
                self.on_exited(message)
            elif isinstance(message, EngineReady):
                self._expect_engine().set_result(message)
            elif isinstance(message, EngineMissing):
                self._fail_engine(message.message)

    def _on_end(self) -> None:
        """Learn that the zygote has ended, or speaks nonsense. The one that is kept is replaced."""
        self.detach()
        if self._is_kept:
            self._ask()
            return
        if self._engine is not None and not self._engine.done():
            self._fail_engine(
                f"the process that was to run {self.name} ended before the engine was ready: see the "
                "node's own output, and `limpet engine list`"
            )

    def _expect_engine(self) -> asyncio.Future[EngineReady]:
        """Return the future that the next news of the engine is for."""
        if self._engine is None or self._engine.done():
            self._engine = asyncio.get_running_loop().create_future()
        return self._engine

    def _fail_engine(self, why: str) -> None:
        """Learn that there is no such engine here: nothing that waits for its zygote gets one."""
        expected = self._expect_engine()
        expected.set_exception(EngineMissingError(why))
        expected.exception()  # seen here; whoever waits sees it too
        waiting, self._waiting = self._waiting, deque()
        for process, _, descriptors in waiting:
            close_all(descriptors)
            process.fail(why)

    @property
    def engine_name(self) -> str:
        """The engine's name and version for people; empty until the first zygote has told."""
        ready = self._ready()
        return f"{ready.name} {ready.version}" if ready is not None else ""

    @property
    def walls(self) -> frozenset[str] | None:
        """The walls that workers raise (`limpet.worker.sandbox.Wall`); None before the first zygote."""
        ready = self._ready()
        return frozenset(ready.walls) if ready is not None else None

    def _ready(self) -> EngineReady | None:
        engine = self._engine
        if engine is None or not engine.done() or engine.exception() is not None:
            return None
        return engine.result()

    async def engine(self) -> EngineReady:
        """Return what the zygote's engine is, having the zygote started if need be.

        Raises `EngineMissingError` when this machine does not have the engine.
        """
        self._ask()
        expected = self._engine
        if expected is None or (self._is_asked_for and expected.done() and expected.exception()):
            expected = self._expect_engine()
        return await asyncio.shield(expected)

    def on_exited(self, message: Exited) -> None:
        """Take a status that the zygote, or the launcher in its place, has reaped."""
        process = self._running.pop(message.pid, None)
        if process is not None:
            process.set_status(message.status, message.peak_bytes)
