"""One process that a zygote forked for the agent: talk to it, limit it, notice its end, say why."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from limpet.worker.channel import close_all
from limpet.worker.messages import Finished, MessageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from limpet.linux.cgroup import Limits
    from limpet.worker.channel import Channel
    from limpet.worker.limits import SharedGroup
    from limpet.worker.messages import Message

_STATUS_PATIENCE_SECONDS = 0.5
_MESSAGES_AT_ONCE = 4
# What a worker may give as its reason: an OutcomeKind, or its own endings.
_SAID_REASONS = frozenset(
    {
        "Trap",
        "OOMKilled",
        "DeadlineExceeded",
        "CostExceeded",
        "Interrupted",
        "LoadFailed",
        "Idle",
        "Drained",
        "Error",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitInfo:
    """How a process ended.

    `reason` is one word: Completed, Error, Trap, OOMKilled, DeadlineExceeded, CostExceeded,
    SystemCallDenied, Signal, LoadFailed, InternalError, SpawnFailed or Unknown.
    """

    reason: str
    message: str
    exit_code: int | None = None
    signal: str | None = None
    peak_bytes: int = 0
    finished_at: float = 0.0

    @property
    def is_success(self) -> bool:
        """Whether the process did what it was there for."""
        return self.reason == "Completed"


class Process:
    """One process that the zygote forked for us."""

    def __init__(
        self,
        name: str,
        channel: Channel,
        *,
        on_message: Callable[[Process, Message], None],
        on_exit: Callable[[Process, ExitInfo], None],
    ) -> None:
        self.name = name
        self.uid = 0
        self.is_component = False  # whether it can run one
        self.group: SharedGroup | None = None
        self.pid: int | None = None
        self.finished: Finished | None = None
        self._verdict: Finished | None = None  # ours; what the process says of itself is `finished`
        self._channel: Channel | None = channel
        self._on_message = on_message
        self._on_exit = on_exit
        self._pidfd: int | None = None
        self._killed_by: int | None = None
        self._is_over = False
        self._held: list[tuple[Message, list[int]]] = []
        self._before_work: Callable[[], None] | None = None
        channel.set_blocking(False)
        asyncio.get_running_loop().add_reader(channel.fileno(), self._read)

    def hand_over(
        self,
        *,
        on_message: Callable[[Process, Message], None],
        on_exit: Callable[[Process, ExitInfo], None],
    ) -> None:
        """Give the process to somebody else."""
        self._on_message = on_message
        self._on_exit = on_exit

    @property
    def control(self) -> int | None:
        """The descriptor of our end of its control socket; None when that is closed."""
        return self._channel.fileno() if self._channel is not None else None

    def before_work(self, call: Callable[[], None]) -> None:
        """Call once the process exists and has its limits, before it is sent anything."""
        if self.pid is None:
            self._before_work = call
        else:
            call()

    def catch_up(self) -> None:
        """Take all messages that are there: what it says next finds room in its channel."""
        self._read(sys.maxsize)

    def adopt(self, pid: int, pidfd: int | None) -> None:
        """Take over a process that has its limits and its work; `pidfd` is None when it has ended."""
        self.pid = pid
        if pidfd is not None:
            self._watch(pidfd)

    def change_limits(self, limits: Limits, shared: SharedGroup | None) -> None:
        """Have other limits, alone or those of `shared`. Raises OSError when the kernel refuses."""
        if shared is None:
            if self.group is not None:
                self.group.set_limits(limits)
            return
        if self.pid is not None:
            shared.move(self.pid)
        if self.group is not None:
            self.group.leave()
        self.group = shared.enter()

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> bool:
        """Send a message; False when the process is gone or does not read.

        Nothing is sent to a process before its limits hold: until then it is kept here.
        """
        if self._channel is None:
            return False
        if self.pid is None:
            self._held.append((message, [os.dup(descriptor) for descriptor in descriptors]))
            return True
        try:
            self._channel.send(message, descriptors)
        except OSError:
            return False
        return True

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal, once the process exists. A pidfd can't hit another that got its number."""
        if self.pid is None:
            self._killed_by = number
        if self._pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def _read(self, most: int = _MESSAGES_AT_ONCE) -> None:
        """Take messages, so few at once that others get their turn; the rest is still readable then."""
        for _ in range(most):
            if self._channel is None:
                return
            try:
                received = self._channel.receive()
            except BlockingIOError:
                return
            except MessageError as error:
                # A worker that breaks the protocol is not asked again.
                self._close_channel()
                self._verdict = Finished("Error", 1, f"ended for breaking the protocol: {error}", 0)
                self.kill()
                return
            if received is None:
                self._close_channel()
                if self.pid is None:
                    self._end(
                        ExitInfo(reason="SpawnFailed", message="the zygote died", exit_code=None)
                    )
                return
            message, descriptors = received
            close_all(descriptors)
            if isinstance(message, Finished):
                self.finished = message
            self._on_message(self, message)

    def set_pid(self, pid: int) -> None:
        """Learn the process's number, put it under its limits, give it its work, watch its life."""
        self.pid = pid
        if self.group is not None:
            try:
                self.group.move(pid)
            except ProcessLookupError:
                pass  # it is over already; its status is on the way
            except OSError as error:
                self._verdict = Finished(
                    "Error", 1, f"its limits can't be put in force: {error}", 0
                )
                self._close_channel()  # without work it ends
        call, self._before_work = self._before_work, None
        if call is not None and self._channel is not None:
            call()
        held, self._held = self._held, []
        for message, descriptors in held:
            self.send(message, descriptors)
            close_all(descriptors)
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return  # it is over already; its status is on the way
        self._watch(pidfd)
        if self._killed_by is not None:
            self.kill(self._killed_by)

    def _watch(self, pidfd: int) -> None:
        self._pidfd = pidfd
        asyncio.get_running_loop().add_reader(pidfd, self._on_death)

    def _on_death(self) -> None:
        self._close_pidfd()
        loop = asyncio.get_running_loop()
        # Its parent reports the status. A parent that died with it can't, so don't wait for ever.
        loop.call_later(_STATUS_PATIENCE_SECONDS, self.end_unseen)

    def end_unseen(self) -> None:
        """Learn that it has ended and that nobody saw how: then what it says of itself has to do."""
        if self._is_over:
            return
        self._read(sys.maxsize)
        said = self._verdict or self.finished
        if said is not None:
            self._end(classify_exit(0, said))
            return
        message = "ended, and nobody saw how"
        self._end(ExitInfo(reason="Unknown", message=message, finished_at=time.time()))

    def set_status(self, status: int, peak_bytes: int, *, seconds_ago: float = 0.0) -> None:
        """Learn how the process ended, and how long ago."""
        self._read(
            sys.maxsize
        )  # its last words come before its death, and no more than fit the socket
        # What a process says of itself doesn't count when it was killed.
        said = self.finished if os.WIFEXITED(status) else None
        info = classify_exit(status, self._verdict or said, peak_bytes=peak_bytes)
        if self.group is not None:
            info = _learn_from_group(info, self.group)
        self._end(replace(info, finished_at=info.finished_at - seconds_ago))

    def fail(self, message: str) -> None:
        """Give up a process that could not be forked."""
        self._end(ExitInfo(reason="SpawnFailed", message=message))

    def _end(self, info: ExitInfo) -> None:
        if self._is_over:
            return
        self._is_over = True
        for _, descriptors in self._held:
            close_all(descriptors)
        self._held.clear()
        self._close_channel()
        self._close_pidfd()
        if self.group is not None:
            self.group.leave()
        self._on_exit(self, info)

    def _close_channel(self) -> None:
        if self._channel is not None:
            asyncio.get_running_loop().remove_reader(self._channel.fileno())
            self._channel.close()
            self._channel = None

    def _close_pidfd(self) -> None:
        if self._pidfd is not None:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None


def classify_exit(status: int, finished: Finished | None, *, peak_bytes: int = 0) -> ExitInfo:
    """Combine a wait status with the process's last words into one reason."""
    code = os.waitstatus_to_exitcode(status)
    common = {"peak_bytes": peak_bytes, "finished_at": time.time()}
    if finished is not None:
        if finished.reason == "Exit":
            is_success = finished.exit_code == 0
            return ExitInfo(
                reason="Completed" if is_success else "Error",
                message="" if is_success else f"exited with code {finished.exit_code}",
                exit_code=finished.exit_code,
                **common,  # type: ignore[arg-type]
            )
        reason = finished.reason if finished.reason in _SAID_REASONS else "Error"
        return ExitInfo(reason=reason, message=finished.message[:2000], exit_code=1, **common)  # type: ignore[arg-type]
    if code == -signal.SIGSYS:
        return ExitInfo(
            reason="SystemCallDenied",
            message="killed for a system call that no app is allowed",
            signal="SIGSYS",
            **common,  # type: ignore[arg-type]
        )
    if code < 0:
        name = _signal_name(-code)
        return ExitInfo(reason="Signal", message=f"killed by {name}", signal=name, **common)  # type: ignore[arg-type]
    if code == 0:
        return ExitInfo(reason="Completed", message="", exit_code=0, **common)  # type: ignore[arg-type]
    return ExitInfo(
        reason="InternalError",
        message=f"the worker itself failed (exit code {code}); its log has the traceback",
        exit_code=code,
        **common,  # type: ignore[arg-type]
    )


def _learn_from_group(info: ExitInfo, group: SharedGroup) -> ExitInfo:
    """Tell whether the kernel killed a process for its memory limit, and how much there was."""
    try:
        was_killed = info.signal == "SIGKILL" and group.take_oom_kill()
        peak_bytes = group.usage().memory_peak_bytes or info.peak_bytes
    except OSError:
        return info  # the group is gone: somebody else tidied up
    if was_killed:
        message = (
            "killed by the kernel at its memory limit, with "
            f"{peak_bytes / (1 << 20):.1f} MiB in use"
        )
        info = replace(info, reason="OOMKilled", message=message)
    return replace(info, peak_bytes=peak_bytes)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
