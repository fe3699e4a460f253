"""The process that `limpet up` is: it starts the zygote and the agent and starts them again when they die.

It holds no state but a copy of each listening socket and of what reaches each worker, so that a new agent
finds them as they were: no client is refused meanwhile, and workers don't notice
(docs/decisions/adoption.md). It never parses anything that an app or a client wrote.

It imports only what agent and zygote both use, and forks them: a page that one of them alone needs
would be kept twice, here and by the process that writes to it (docs/decisions/process-memory.md).
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
import sys
import time
import traceback
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

from limpet.engine import DEFAULT_ENGINE, engine_names
from limpet.linux.memory import set_oom_score
from limpet.linux.process import (
    become_subreaper,
    die_with_parent,
    disable_core_dumps,
    set_process_name,
)
from limpet.node.handover import Handover, Trial
from limpet.node.holdings import End, Held, Holdings
from limpet.node.mounts import make_private_mounts
from limpet.node.succession import STOP_SIGNALS, disarm, go_back, try_version
from limpet.worker.channel import Channel, close_all
from limpet.worker.messages import (
    ConfirmVersion,
    Drop,
    Exited,
    Hold,
    Keep,
    MessageError,
    RefuseVersion,
    Release,
    StartZygote,
    TryVersion,
    ZygoteStarted,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from limpet.settings import Settings
    from limpet.worker.messages import Message

# Started again at once; one that keeps dying within this time is started ever more slowly.
_STABLE_SECONDS = 10.0
_MAX_PAUSE_SECONDS = 5.0
_OOM_SCORE = -900  # close to never: who kills the node kills every app
_SPILL_SECONDS = 0.1
# An agent that ends with one of these said why: starting it again would only say it again, and is worth
# it only where workers serve on meanwhile.
_EXPLAINED_CODES = range(2, 8)
# A version on trial says by itself when its time is over; its launcher and then the alarm come after that.
_LAUNCHER_SHARE, _LAUNCHER_SECONDS = 1.25, 8.0
_ALARM_SHARE, _ALARM_SECONDS = 1.5, 12.0


@dataclass(frozen=True, slots=True)
class Inheritance:
    """What an agent finds: listening sockets by name, how many agents died, the last wait status.

    `unlock` is the descriptor of the key that `limpet up` made from a passphrase. `held` is what agents
    before this one have left, by name. `is_on_trial` is of the version; `trial_failure` says why one that
    was has not stayed.
    """

    sockets: Mapping[str, socket.socket]
    restarts: int = 0
    last_status: int = 0
    unlock: int | None = None
    held: Mapping[str, Held] = field(default_factory=dict)
    is_on_trial: bool = False
    trial_failure: str | None = None


class Launcher:
    """Runs a node in the foreground; the two functions are what its children become.

    `options` are the node's, for another version of it; `handover` is what that has left, or only what
    `limpet up` brings. `trial` is for a version on trial, `trial_failure` for one that is back.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        run_agent: Callable[[Settings, Channel, Inheritance], int],
        run_zygote: Callable[[Settings, Channel, str], NoReturn],
        options: Sequence[str],
        handover: Handover,
        trial: Trial | None = None,
        trial_failure: str | None = None,
    ) -> None:
        self._settings = settings
        self._run_agent = run_agent
        self._run_zygote = run_zygote
        self._options = options
        self._kept = dict(handover.sockets)
        self._holdings = Holdings(handover.held)
        self._trial = trial
        self._trial_until: float | None = None
        self._is_handing_over = False
        self._trial_failure = trial_failure
        self._is_successor = trial is not None or trial_failure is not None
        # What the agent was not told yet: waiting for it to read could be waiting for each other.
        self._untold: deque[tuple[Message, tuple[int, ...]]] = deque()
        self._agent_pid = 0
        self._agent: Channel | None = None
        self._agent_restarts = 0
        self._zygotes: dict[str, int] = {}  # engine -> process
        self._asked_for: set[str] = set()  # engines whose zygote was to start before it had ended
        # engine -> how many died before, and the last one's wait status
        self._zygote_ends: dict[str, tuple[int, int]] = {}
        self._failures = 0
        self._started_at = 0.0
        self._start_at: float | None = None  # when the next agent is to be started
        self._is_stopping = False
        self._last_status = 0
        self._own: tuple[int, ...] = ()
        self._unlock = handover.unlock  # held for agents to come, never read here

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT; return the exit code."""
        self._prepare()
        if self._is_stopping:  # it was told so while another version's program gave way to this one
            return 0
        self._start_both()
        while True:
            self._wait_and_serve()
            code = self._reap()
            if code is not None:
                return code
            if self._trial_until is not None and time.monotonic() >= self._trial_until:
                self.go_back("its agent did not say in time whether it is healthy")
            if self._start_at is not None:
                if self._is_stopping:
                    return 0
                self._start_when_due(self._start_at)

    def _prepare(self) -> None:
        """Make this process what it is to be, and have its signals wake it."""
        set_process_name("limpet")
        set_oom_score(_OOM_SCORE)  # as far as this user may; agent and zygote inherit it
        keep_memory_private()
        become_subreaper()
        if not self._is_successor:  # else this process has them
            make_private_mounts(self._settings.node.data_directory)
        wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, self._on_signal)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        self._own = (wake_read, wake_write)
        if self._trial is not None:
            self._own += (self._trial.descriptor,)
            patience = self._settings.upgrade.trial_seconds * _LAUNCHER_SHARE
            self._trial_until = time.monotonic() + patience + _LAUNCHER_SECONDS

    def _wait_and_serve(self) -> None:
        wake = self._own[0]
        poll = select.poll()
        poll.register(wake, select.POLLIN)
        if self._agent is not None:
            events = select.POLLIN | (select.POLLOUT if self._untold else 0)
            poll.register(self._agent.fileno(), events)
        for descriptor, events in poll.poll(self._patience_milliseconds()):
            if descriptor == wake:
                os.read(wake, 4096)
                continue
            if events & select.POLLOUT:
                self._tell_rest()
            if events & ~select.POLLOUT:
                self._serve_agent()

    def _patience_milliseconds(self) -> float | None:
        """How long nothing has to be done unless something happens; None for ever."""
        if self._start_at is not None:
            pause = max(self._start_at - time.monotonic(), 0.0)
            return min(pause, _SPILL_SECONDS) * 1e3
        if self._trial_until is not None:
            return max(self._trial_until - time.monotonic(), 0.0) * 1e3 + 1
        return None

    def _start_when_due(self, when: float) -> None:
        if time.monotonic() >= when:
            self._start_at = None
            self._start_both()
        else:
            self._holdings.spill()

    def _on_signal(self, number: int, _frame: object) -> None:
        if number == signal.SIGCHLD:
            return
        if self._is_stopping and number == signal.SIGINT:
            self._kill_everything()
        self._is_stopping = True
        if self._agent_pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._agent_pid, signal.SIGTERM)

    def _kill_everything(self) -> None:
        for pid in (self._agent_pid, *self._zygotes.values()):
            if pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    # Starting

    def _start_both(self) -> None:
        """Start the first zygote and the agent that uses it. Zygotes end with their agent."""
        self._started_at = time.monotonic()
        ours, theirs = Channel.pair()
        self._agent_pid = self._start_child(lambda: self._become_agent(ours, theirs))
        theirs.close()
        ours.set_blocking(False)
        self._agent = ours
        self._start_zygote(DEFAULT_ENGINE)

    def _start_zygote(self, engine: str) -> None:
        """Start an engine's zygote; one that is there still has left its agent, and ends first."""
        if engine in self._zygotes:
            self._asked_for.add(engine)
            return
        ours, theirs = Channel.pair()
        pid = self._start_child(lambda: self._become_zygote(engine, ours, theirs))
        theirs.close()
        assert self._agent is not None, "the agent is started first"
        self._zygotes[engine] = pid
        ends, last_status = self._zygote_ends.get(engine, (0, 0))
        self._tell(ZygoteStarted(engine, pid, ends, last_status), os.dup(ours.fileno()))
        ours.close()

    def _start_child(self, become: Callable[[], int]) -> int:
        """Fork a process that becomes this and ends with the code that it returns; return its number.

        Whatever is raised in it ends it: what called this one must not go on a second time.
        """
        parent = os.getpid()
        pid = os.fork()
        if pid != 0:
            return pid
        code = 1
        try:
            self._leave_launcher(parent)
            code = become()
        except BaseException:
            traceback.print_exc()
        finally:
            try:
                sys.stderr.flush()
            finally:
                os._exit(code)

    def _leave_launcher(self, parent: int) -> None:
        die_with_parent(signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
        close_all(self._own)

    def _become_agent(self, ours: Channel, theirs: Channel) -> int:
        ours.close()
        inheritance = Inheritance(
            self._kept,
            self._agent_restarts,
            self._last_status,
            self._unlock,
            self._holdings.entries,
            self.is_on_trial,
            self._trial_failure,
        )
        return self._run_agent(self._settings, theirs, inheritance)

    def _become_zygote(self, engine: str, ours: Channel, theirs: Channel) -> int:
        ours.close()
        if self._unlock is not None:
            os.close(self._unlock)  # before any code that an app could reach
        if self._agent is not None:
            self._agent.close()
        for listening in self._kept.values():
            listening.close()
        self._holdings.close()
        self._forget_untold()
        _let_go_of_terminal()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # its agent has gone
            self._run_zygote(self._settings, theirs, engine)
        return 0

    # Serving

    def _tell(self, message: Message, *descriptors: int) -> None:
        """Send this to the agent when it can take it; the descriptors go with the message."""
        if self._agent is None:
            close_all(descriptors)
            return
        self._untold.append((message, descriptors))
        self._tell_rest()

    def _tell_rest(self) -> None:
        while self._agent is not None and self._untold:
            message, descriptors = self._untold[0]
            try:
                self._agent.send(message, descriptors)
            except BlockingIOError:
                return
            except (BrokenPipeError, ConnectionResetError):
                self._forget_untold()  # it is dead: its end is about to be seen
                return
            self._untold.popleft()
            close_all(descriptors)

    def _forget_untold(self) -> None:
        for _, descriptors in self._untold:
            close_all(descriptors)
        self._untold.clear()

    def _let_agent_go(self) -> None:
        if self._agent is not None:
            self._agent.close()
            self._agent = None
        self._forget_untold()

    def _serve_agent(self) -> None:
        assert self._agent is not None, "only an agent that is there is served"
        try:
            received = self._agent.receive()
        except BlockingIOError:
            return
        except MessageError:
            received = None
        if received is None:
            self._let_agent_go()
            return
        message, descriptors = received
        if isinstance(message, Keep) and len(descriptors) == 1:
            self._forget(message.name)
            self._kept[message.name] = socket.socket(fileno=descriptors[0])
            return
        if isinstance(message, Hold):
            self._holdings.hold(message, descriptors)
            return
        close_all(descriptors)
        if isinstance(message, Drop):
            self._forget(message.name)
        elif isinstance(message, Release):
            self._holdings.release(message.name)
        elif isinstance(message, StartZygote) and message.engine in engine_names():
            self._start_zygote(message.engine)
        else:
            self._serve_upgrade(message)

    def _serve_upgrade(self, message: Message) -> None:
        if isinstance(message, ConfirmVersion):
            self._confirm()
        elif self._is_handing_over or self._is_stopping:
            return  # its last words: they change nothing any more
        elif isinstance(message, RefuseVersion) and self._trial is not None:
            self.go_back(message.reason)
        elif isinstance(message, TryVersion) and self._trial is None:
            self._try_version(message.python)

    # Another version

    @property
    def is_on_trial(self) -> bool:
        """Whether the version before may yet come back."""
        return self._trial is not None

    def _try_version(self, python: str) -> None:
        handover = self._prepare_handover()
        if self._is_stopping:
            self._go_on()
            return
        alarm_seconds = self._settings.upgrade.trial_seconds * _ALARM_SHARE + _ALARM_SECONDS
        try:
            try_version(python, self._options, handover, alarm_seconds=alarm_seconds)
        except OSError as error:
            self._trial_failure = f"{python} can't be executed: {error.strerror}"
            self._go_on()

    def go_back(self, reason: str) -> None:
        """Give a version up that is on trial: the process is the version before from then on.

        Raises OSError.
        """
        disarm()
        handover = self._prepare_handover()
        if self._trial is None or self._is_stopping:  # confirmed by the agent's last words, or over
            self._go_on()
            return
        os.set_inheritable(self._trial.descriptor, False)
        go_back(self._trial.back, self._options, handover, reason=reason)

    def _go_on(self) -> None:
        """Start an agent after all, or stop."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        self._is_handing_over = False
        self._start_at = time.monotonic()

    def _prepare_handover(self) -> Handover:
        """End the agent and the zygotes; return what goes on.

        Who stops the node from here on is heard by the next program.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        self._is_handing_over = True
        if self._agent_pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._agent_pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._agent_pid, 0)
            self._agent_pid = 0
        self._drain_agent()
        self._let_agent_go()
        self._end_zygotes()
        self._holdings.spill()
        return Handover(sockets=self._kept, held=self._holdings.entries, unlock=self._unlock)

    def _confirm(self) -> None:
        if self._trial is not None:
            disarm()
            os.close(self._trial.descriptor)
            self._own = self._own[:2]
            self._trial = self._trial_until = None

    def _forget(self, name: str) -> None:
        kept = self._kept.pop(name, None)
        if kept is not None:
            kept.close()

    def _reap(self) -> int | None:
        """Collect the dead: start what must live again; the node's exit code when it is over."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:  # nothing runs: fine while the next agent is waited for
                return 1 if self._start_at is None else None
            if pid == 0:
                return None
            if pid == self._agent_pid:
                code = self._on_agent_end(status)
                if code is not None:
                    return code
            elif pid in self._zygotes.values():
                self._on_zygote_end(pid, status)
            else:
                # A worker whose zygote has died: it became ours, its end is the agent's to know, or
                # that of the next one.
                peak_bytes = usage.ru_maxrss * 1024
                self._holdings.note_end(pid, End(status, peak_bytes, time.monotonic()))
                self._tell(Exited(pid, status, peak_bytes))

    def _on_zygote_end(self, pid: int, status: int) -> None:
        engine = next(name for name, number in self._zygotes.items() if number == pid)
        del self._zygotes[engine]
        is_asked_for = engine in self._asked_for
        self._asked_for.discard(engine)
        if self._agent is None or self._is_stopping:
            return
        # One that ended by itself saw its agent die, and all are about to be started anew; or it was not
        # needed any more; or it has no engine, and has said so. An agent that misses one asks for it, and
        # waits longer each time when it keeps dying.
        if status != 0:
            ends, _ = self._zygote_ends.get(engine, (0, 0))
            self._zygote_ends[engine] = (ends + 1, status)
        if is_asked_for:
            self._start_zygote(engine)

    def _on_agent_end(self, status: int) -> int | None:
        self._agent_pid = 0
        self._drain_agent()
        self._let_agent_go()
        code = os.waitstatus_to_exitcode(status)
        self._end_zygotes()
        if self._trial is not None and not self._is_stopping:
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            self.go_back(f"its agent ended by {how}; the node's output says why")
            return None
        if self._is_stopping or (code in _EXPLAINED_CODES and not self._holdings.has_workers):
            return max(code, 0)
        lived = time.monotonic() - self._started_at
        self._failures = 0 if lived > _STABLE_SECONDS else self._failures + 1
        self._agent_restarts += 1
        self._last_status = status
        pause = (
            min(0.1 * 2 ** min(self._failures, 9), _MAX_PAUSE_SECONDS)
            if self._failures > 1
            else 0.0
        )
        self._start_at = time.monotonic() + pause
        return None

    def _drain_agent(self) -> None:
        """Take what an agent said before it died: what it gave to be held is held."""
        while self._agent is not None:
            poll = select.poll()
            poll.register(self._agent.fileno(), select.POLLIN)
            if not poll.poll(0):
                return
            self._serve_agent()

    def _end_zygotes(self) -> None:
        """End the zygotes, as they would when their agent has; then nothing of the old ones is left."""
        for pid in self._zygotes.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        self._zygotes.clear()
        self._asked_for.clear()


def keep_memory_private() -> None:
    """Keep keys and secrets out of core files, here and in every process to come.

    Root's processes become undumpable, too. Others can't: they would lose their own `/proc/self/fd`.
    """
    if os.geteuid() == 0:
        disable_core_dumps()
    else:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _let_go_of_terminal() -> None:
    """Read nothing from a terminal that the node was started in, and only print to it, if that is allowed."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    for stream in (1, 2):
        if os.isatty(stream):
            try:
                write_only = os.open(f"/proc/self/fd/{stream}", os.O_WRONLY | os.O_NOCTTY)
            except PermissionError:  # another user's, as after su: nothing is said there
                write_only = os.open(os.devnull, os.O_WRONLY)
            os.dup2(write_only, stream)
            os.close(write_only)
