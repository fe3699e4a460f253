"""The alarm that makes a guest look at its deadline.

Guest code compares an epoch counter at every loop and function entry; when it moved, Wasmtime calls
back and we compare the clock. Moving it takes no thread of ours: a POSIX timer's expiry calls
`wasmtime_engine_increment_epoch` itself (timer_create(2), SIGEV_THREAD), which works while the GIL
is held. The timer is not set for each run. One that is pending already, for any run's deadline at
or before this one's, is left alone: when it fires, the callback sees what is left and sets it anew.
At a steady load that is one system call per deadline's length, not one per run.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref

from limpet.engine.wasmtime import binding
from limpet.errors import UnavailableError

_CLOCK_MONOTONIC = 1
_SIGEV_THREAD = 2
_TIMER_ABSTIME = 1
_NS = 1_000_000_000


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class _Sigevent(ctypes.Structure):
    """`struct sigevent` of glibc and musl on 64-bit Linux: 64 bytes."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("function", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("padding", ctypes.c_char * 32),
    )


class EpochAlarm:
    """One per engine. Makes its timer when first needed, in the process that needs it."""

    def __init__(self, engine: int) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._timer: ctypes.c_void_p | None = None
        # When the pending timer fires (CLOCK_MONOTONIC); in the past when none is pending.
        self.expires_ns = 0
        _alarms.add(self)

    def forget(self) -> None:
        """In a forked child: timers are not inherited, and the lock may have been held."""
        self._timer = None
        self.expires_ns = 0
        self._lock = threading.Lock()

    def ensure(self, deadline_ns: int, now_ns: int) -> None:
        """See to it that the epoch moves at `deadline_ns` or earlier, and after `now_ns`.

        The caller's store must have its epoch deadline before it reads `now_ns`: then no expiry
        falls between the two unseen.
        """
        if now_ns < self.expires_ns <= deadline_ns:
            return
        with self._lock:
            if not now_ns < self.expires_ns <= deadline_ns:
                self._set(deadline_ns)
                self.expires_ns = deadline_ns

    def _set(self, deadline_ns: int) -> None:
        if self._timer is None:
            self._timer = self._create()
        when = _Itimerspec(_Timespec(0, 0), _Timespec(*divmod(deadline_ns, _NS)))
        if _libc.timer_settime(self._timer, _TIMER_ABSTIME, ctypes.byref(when), None):
            raise UnavailableError(f"timer_settime failed: {os.strerror(ctypes.get_errno())}")

    def _create(self) -> ctypes.c_void_p:
        event = _Sigevent(
            value=self._engine,
            notify=_SIGEV_THREAD,
            function=binding.engine_increment_epoch_address,
        )
        timer = ctypes.c_void_p()
        if _libc.timer_create(_CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(timer)):
            raise UnavailableError(
                f"this system gives no timers ({os.strerror(ctypes.get_errno())}), without which "
                "no app's deadline can be kept: raise the limit on pending signals (ulimit -i)"
            )
        return timer


_libc = ctypes.PyDLL(None, use_errno=True)
_libc.timer_delete.argtypes = (ctypes.c_void_p,)
_libc.timer_settime.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


_alarms: weakref.WeakSet[EpochAlarm] = weakref.WeakSet()


def _forget_all() -> None:
    for alarm in _alarms:
        alarm.forget()


os.register_at_fork(after_in_child=_forget_all)
