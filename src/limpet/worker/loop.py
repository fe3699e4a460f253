"""The event loop of a worker: epoll, timers and nothing else.

A worker serves one app, so an epoll loop of its own costs the request path no more CPU than uvloop
and, unlike asyncio, no ten megabytes and no start-up (docs/decisions/worker-event-loop.md).
"""

from __future__ import annotations

import heapq
import itertools
import os
import select
import time
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

Handler: TypeAlias = "Callable[[int], None]"

READ = select.EPOLLIN | select.EPOLLRDHUP
WRITE = select.EPOLLOUT
# Of several processes that wait on one listening socket only one is woken (epoll_ctl(2)).
ACCEPT = select.EPOLLIN | select.EPOLLEXCLUSIVE


class Timer:
    """A pending call; `cancel` forgets it."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Make the call never happen."""
        self.call = None


class Loop:
    """Runs handlers as descriptors become ready and timers fall due, until stopped."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._is_stopped = False
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.register(self._wake, READ, lambda _: None)

    def register(self, descriptor: int, events: int, handler: Handler) -> None:
        """Call `handler(events)` whenever the descriptor is ready (level-triggered)."""
        self._handlers[descriptor] = handler
        self._epoll.register(descriptor, events)

    def modify(self, descriptor: int, events: int) -> None:
        """Change the events that a registered descriptor is watched for."""
        self._epoll.modify(descriptor, events)

    def unregister(self, descriptor: int) -> None:
        """Stop watching a descriptor, which must still be open."""
        del self._handlers[descriptor]
        self._epoll.unregister(descriptor)

    def call_later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call once after a pause."""
        timer = Timer(call)
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._order), timer))
        return timer

    def stop(self) -> None:
        """Leave `run` after the handler that is running; signal handlers may call it too."""
        self._is_stopped = True
        os.eventfd_write(self._wake, 1)  # a poll that a signal interrupted goes on by itself

    def run(self) -> None:
        """Serve until `stop`."""
        poll = self._epoll.poll
        handlers = self._handlers
        while not self._is_stopped:
            for descriptor, events in poll(self._timeout()):
                handler = handlers.get(descriptor)  # an earlier handler may have removed it
                if handler is not None:
                    handler(events)
                if self._is_stopped:
                    return
            if self._timers:
                self._run_due_timers()

    def _timeout(self) -> float:
        while self._timers and self._timers[0][2].call is None:
            heapq.heappop(self._timers)
        if not self._timers:
            return -1
        return max(0.0, self._timers[0][0] - time.monotonic())

    def _run_due_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            call = heapq.heappop(self._timers)[2].call
            if call is not None:
                call()

    def close(self) -> None:
        """Release the loop's own descriptors."""
        self._epoll.close()
        os.close(self._wake)
