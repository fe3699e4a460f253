"""When a run must end: its deadline, and an interrupt from another thread.

The engine checks both while guest code runs; host functions that wait do their waiting here, so
that a sleeping or blocked guest ends just as promptly.
"""

from __future__ import annotations

import os
import select
from contextlib import suppress
from time import monotonic_ns, sleep

from limpet.wasi.endings import GuestDeadline, GuestInterrupted

# poll(2) takes milliseconds in a C int: longer waits are cut into pieces of this length.
_LONGEST_POLL_MS = 1 << 30
_MS_IN_NS = 1_000_000
# poll(2) is exact to a millisecond: the last bit of a guest's sleep is slept, not polled.
_SHORT_SLEEP_NS = 3 * _MS_IN_NS


class Control:
    """One per program, used by one run at a time; only `interrupt` may come from elsewhere.

    Implements `limpet.wasi.streams.Waiter`. `deadline_ns` is in CLOCK_MONOTONIC, 0 for none.
    """

    __slots__ = ("_wake", "_wake_owner", "deadline_ns", "is_interrupted", "is_running")

    def __init__(self) -> None:
        self.deadline_ns = 0
        self.is_interrupted = False
        self.is_running = False
        self._wake = -1
        self._wake_owner = 0

    def begin(self, deadline_ns: int) -> None:
        self.deadline_ns = deadline_ns
        self.is_interrupted = False
        self.is_running = True

    def end(self) -> None:
        self.is_running = False

    def interrupt(self) -> bool:
        """Ask the run in progress to end; False when there is none. Any thread may call it."""
        if not self.is_running:
            return False
        # The order matters: a waiter publishes its descriptor first and reads the flag second.
        self.is_interrupted = True
        if self._wake >= 0 and self._wake_owner == os.getpid():
            os.eventfd_write(self._wake, 1)
        return True

    def check(self) -> None:
        """Raise a `GuestEnd` when the run must end now."""
        if self.is_interrupted:
            raise GuestInterrupted
        if self.deadline_ns and monotonic_ns() >= self.deadline_ns:
            raise GuestDeadline

    def wait(self, events: dict[int, int], until_ns: int | None) -> dict[int, int]:
        """Wait for one of `events` (descriptor -> poll mask) or for the moment `until_ns`.

        Returns what is ready, empty at that moment. `until_ns` None means for ever.
        """
        poller = select.poll()
        for descriptor, mask in events.items():
            poller.register(descriptor, mask)
        wake = self._open_wake()
        poller.register(wake, select.POLLIN)
        while True:
            self.check()
            left_ns = self._left_ns(until_ns)
            if not events and left_ns is not None and 0 < left_ns < _SHORT_SLEEP_NS:
                sleep(left_ns / 1e9)
                ready = {}
            else:
                ready = dict(poller.poll(_poll_timeout(left_ns, is_sleep=not events)))
                self.check()
                if ready.pop(wake, 0):  # left over from a run that ended meanwhile
                    with suppress(BlockingIOError):
                        os.eventfd_read(wake)
            if ready or (until_ns is not None and monotonic_ns() >= until_ns):
                return ready

    def _left_ns(self, until_ns: int | None) -> int | None:
        """How long to wait at most: until `until_ns` or the deadline; None for ever."""
        limits = [limit for limit in (until_ns, self.deadline_ns or None) if limit is not None]
        return max(min(limits) - monotonic_ns(), 0) if limits else None

    def wait_readable(self, descriptor: int) -> None:
        self.wait({descriptor: select.POLLIN}, None)

    def wait_writable(self, descriptor: int) -> None:
        self.wait({descriptor: select.POLLOUT}, None)

    def _open_wake(self) -> int:
        # An eventfd inherited over a fork is shared with the parent: this process needs its own.
        if self._wake < 0 or self._wake_owner != os.getpid():
            self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self._wake_owner = os.getpid()
        return self._wake

    def close(self) -> None:
        if self._wake >= 0:
            os.close(self._wake)
            self._wake = -1


def _poll_timeout(left_ns: int | None, *, is_sleep: bool) -> int | None:
    """Milliseconds for poll(2): rounded down for sleeps, whose rest is slept, else up."""
    if left_ns is None:
        return None
    timeout = left_ns // _MS_IN_NS - 1 if is_sleep else -(-left_ns // _MS_IN_NS)
    return min(max(timeout, 0), _LONGEST_POLL_MS)
