"""Ends a guest from another thread: at its deadline, or when it is interrupted.

A WasmEdge executor has a flag that guest code clears and obeys at every loop and call. The C API sets
it by `WasmEdge_AsyncCancel` alone, and what that sets is the flag of the executor that the asynchronous
call was made on, whether the call goes on or not (include/common/async.h): so one call of a function that
does nothing gives a handle that stops any later, ordinary run.

The flag stays until somebody looks. All here happens under one lock: nobody sets it outside of a run, and
a run that was to be stopped clears it when it ends, so that it never hits the next one.
"""

from __future__ import annotations

import os
import threading
import weakref
from time import monotonic_ns
from typing import TYPE_CHECKING

from limpet.errors import UnavailableError

if TYPE_CHECKING:
    from limpet.engine.wasmedge.binding import Binding
    from limpet.wasi.control import Control

_NEVER = 1 << 63
_NS = 1_000_000_000


class Watch:
    """One thread for all deadlines of a process, started when the first one is set.

    It sleeps until the earliest deadline that it knows of. A run whose deadline is later costs it
    nothing: when it wakes up it looks at what runs then. At a steady load that is one awakening per
    deadline's length, not one per run.
    """

    def __init__(self) -> None:
        self._start_afresh()
        _watches.add(self)

    def _start_afresh(self) -> None:
        """Also in a forked child: the thread stayed behind, and the lock may have been held."""
        self.lock = threading.Lock()
        self._earlier = threading.Condition(self.lock)
        self._stoppers: set[Stopper] = set()
        self._thread: threading.Thread | None = None
        self._is_closed = False
        # When the thread looks again (CLOCK_MONOTONIC).
        self.looks_at_ns = _NEVER

    def add(self, stopper: Stopper) -> None:
        """Stop it at its deadline. With the lock held. Raises UnavailableError."""
        if self._thread is None:
            self._thread = self._start_thread()
        self._stoppers.add(stopper)
        if stopper.deadline_ns < self.looks_at_ns:
            self.looks_at_ns = stopper.deadline_ns
            self._earlier.notify()

    def _start_thread(self) -> threading.Thread:
        thread = threading.Thread(target=self._stop_what_is_due, name="deadlines", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            raise UnavailableError(
                f"this process can start no thread ({error}), without which no app's deadline can be "
                "kept: raise the limit on processes (ulimit -u, pids.max)"
            ) from error
        return thread

    def discard(self, stopper: Stopper) -> None:
        """Forget it. With the lock held."""
        self._stoppers.discard(stopper)

    def close(self) -> None:
        """End the thread; nothing is stopped any more."""
        with self.lock:
            self._is_closed = True
            self._earlier.notify()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _stop_what_is_due(self) -> None:
        with self.lock:
            while not self._is_closed:
                now_ns = monotonic_ns()
                # Woken up earlier, it goes on to sleep: runs may have come and gone meanwhile, and the
                # next one finds the same awakening pending.
                if self.looks_at_ns <= now_ns:
                    for stopper in [each for each in self._stoppers if each.deadline_ns <= now_ns]:
                        self._stoppers.discard(stopper)
                        stopper.stop()
                    self.looks_at_ns = min(
                        (each.deadline_ns for each in self._stoppers), default=_NEVER
                    )
                if self.looks_at_ns == _NEVER:
                    self._earlier.wait()
                else:
                    left_ns = max(self.looks_at_ns - monotonic_ns(), 0)
                    self._earlier.wait(min(left_ns / _NS, threading.TIMEOUT_MAX))


class Stopper:
    """Stops the runs of one executor. `nothing` is a function instance that does nothing."""

    def __init__(self, binding: Binding, executor: int, *, nothing: int, watch: Watch) -> None:
        self._binding = binding
        self._executor = executor
        self._nothing = nothing
        self._watch = watch
        self._handle = 0
        self._is_running = False
        self._was_stopped = False
        # CLOCK_MONOTONIC, 0 for none.
        self.deadline_ns = 0

    def begin(self, deadline_ns: int) -> None:
        """A run begins, which may be stopped from now on. The executor's flag is clear."""
        watch = self._watch
        with watch.lock:
            self._is_running = True
            self.deadline_ns = deadline_ns
            if deadline_ns:
                watch.add(self)

    def end(self) -> None:
        """The run is over: nobody stops it any more."""
        watch = self._watch
        with watch.lock:
            self._is_running = False
            if self.deadline_ns:
                watch.discard(self)
        if self._was_stopped:
            self._was_stopped = False
            # The run may have ended without seeing the flag. A call looks at it first of all.
            self._binding.executor_invoke(self._executor, self._nothing, None, 0, None, 0)

    def interrupt(self, control: Control) -> None:
        """Stop the run in progress as interrupted, if there is one. From any thread."""
        with self._watch.lock:
            if self._is_running and control.interrupt():
                self.stop()

    def stop(self) -> None:
        """Set the flag, once in a run. With the lock held."""
        if not self._is_running or self._was_stopped:
            return
        binding = self._binding
        if not self._handle:
            self._handle = binding.executor_async_invoke(self._executor, self._nothing, None, 0)
            # While it goes on it would clear the flag itself.
            binding.async_wait(self._handle)
        self._was_stopped = True
        binding.async_cancel(self._handle)

    def close(self) -> None:
        """Free the handle, before the executor goes."""
        if self._handle:
            self._binding.async_delete(self._handle)
            self._handle = 0


_watches: weakref.WeakSet[Watch] = weakref.WeakSet()


def _start_all_afresh() -> None:
    for watch in _watches:
        watch._start_afresh()  # noqa: SLF001 - of this module


os.register_at_fork(after_in_child=_start_all_afresh)
