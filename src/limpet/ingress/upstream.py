"""Connections to apps: non-blocking, one request at a time, kept alive and used again."""

from __future__ import annotations

import errno
import os
import socket
import time
from typing import TYPE_CHECKING, Protocol

from limpet.worker.loop import READ, WRITE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from limpet.ingress.table import Address
    from limpet.worker.loop import Loop

_READ_BYTES = 64 << 10
# The connections of a busy moment come back at once: what is closed then is opened again at once.
_MAX_IDLE = 256
_IDLE_SECONDS = 10.0
# An app's workers share one listening socket and a connection stays with the worker that accepted
# it: now and then a new one lets the kernel choose the worker that has time.
_MAX_REQUESTS = 100


class Owner(Protocol):
    """Who waits for a response."""

    def on_data(self, data: bytes) -> None:
        """Take bytes from the app."""

    def on_end(self, reason: str) -> None:
        """Take note that nothing more will come."""


class Upstream:
    """One connection to an app. `active_at` is when bytes moved last."""

    __slots__ = (
        "_events",
        "_is_connecting",
        "_loop",
        "_socket",
        "_unsent",
        "active_at",
        "address",
        "is_closed",
        "is_paused",
        "owner",
        "requests",
    )

    def __init__(self, loop: Loop, address: Address) -> None:
        """Begin to connect. Raises OSError."""
        self._loop = loop
        self.address = address
        self.owner: Owner | None = None
        self.requests = 0
        self.is_closed = False
        self.is_paused = False
        self.active_at = time.monotonic()
        self._unsent: list[memoryview] = []
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            code = self._socket.connect_ex(address)
            if code not in (0, errno.EINPROGRESS):
                raise OSError(code, os.strerror(code))
        except OSError:
            self._socket.close()
            raise
        self._is_connecting = code != 0
        self._events = WRITE if self._is_connecting else READ
        loop.register(self._socket.fileno(), self._events, self._on_ready)

    @property
    def has_sent_all(self) -> bool:
        """Whether the whole request is on its way."""
        return not self._unsent

    def is_alive(self) -> bool:
        """Whether an idle connection is neither closed nor has bytes that nobody asked for."""
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def send(self, owner: Owner, buffers: Sequence[bytes | bytearray]) -> None:
        """Send a request; its owner is told of what comes back, never before this returns."""
        self.owner = owner
        self.requests += 1
        self.active_at = time.monotonic()
        self._unsent = [memoryview(buffer) for buffer in buffers if buffer]
        if not self._is_connecting:
            self._write()
            self._watch()

    def pause(self) -> None:
        """Read no more until `resume`: the client is behind."""
        self.is_paused = True
        self._watch()

    def resume(self) -> None:
        """Read again."""
        self.is_paused = False
        self.active_at = time.monotonic()
        self._watch()

    def close(self) -> None:
        """Close at once; the owner is not told."""
        if not self.is_closed:
            self.is_closed = True
            self.owner = None
            self._unsent = []
            self._loop.unregister(self._socket.fileno())
            self._socket.close()

    def _on_ready(self, events: int) -> None:
        if self._is_connecting:
            code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                self._end(os.strerror(code))
                return
            self._is_connecting = False
        elif events & ~WRITE:
            self._read()
        if not self.is_closed:
            if self._unsent:
                self._write()
            self._watch()

    def _read(self) -> None:
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(os.strerror(error.errno or errno.EIO))
            return
        if not data or self.owner is None:
            self._end("the app closed the connection")
            return
        self.active_at = time.monotonic()
        self.owner.on_data(data)

    def _write(self) -> None:
        try:
            sent = self._socket.sendmsg(self._unsent)
        except BlockingIOError:
            return
        except OSError:
            # An app may answer and close before it has read everything: that answer counts. When
            # there is none, reading tells.
            self._unsent = []
            return
        self.active_at = time.monotonic()
        while self._unsent and sent >= len(self._unsent[0]):
            sent -= len(self._unsent.pop(0))
        if sent:
            self._unsent[0] = self._unsent[0][sent:]

    def _watch(self) -> None:
        if self.is_closed or self._is_connecting:
            return
        events = (0 if self.is_paused else READ) | (WRITE if self._unsent else 0)
        if events != self._events:
            self._events = events
            self._loop.modify(self._socket.fileno(), events)

    def _end(self, reason: str) -> None:
        owner = self.owner
        self.close()
        if owner is not None:
            owner.on_end(reason)


class Pool:
    """Idle connections by address, the one used last first."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._idle: dict[Address, list[Upstream]] = {}

    @property
    def idle(self) -> int:
        """How many connections wait for a request."""
        return sum(len(waiting) for waiting in self._idle.values())

    def take(self, address: Address) -> Upstream:
        """Return an idle connection that is still good, else a new one. Raises OSError."""
        waiting = self._idle.get(address)
        while waiting:
            upstream = waiting.pop()
            if not upstream.is_closed and upstream.is_alive():
                return upstream
            upstream.close()
        return self.connect(address)

    def connect(self, address: Address) -> Upstream:
        """Return a new connection. Raises OSError."""
        return Upstream(self._loop, address)

    def give(self, upstream: Upstream) -> None:
        """Take back a connection whose response is complete."""
        waiting = self._idle.setdefault(upstream.address, [])
        if upstream.requests >= _MAX_REQUESTS or len(waiting) >= _MAX_IDLE:
            upstream.close()
            return
        upstream.owner = None
        if upstream.is_paused:
            upstream.resume()
        waiting.append(upstream)

    def sweep(self, now: float) -> None:
        """Close what has been idle for long and forget what the apps have closed."""
        for address, waiting in list(self._idle.items()):
            for upstream in waiting:
                if now - upstream.active_at > _IDLE_SECONDS:
                    upstream.close()
            waiting[:] = [upstream for upstream in waiting if not upstream.is_closed]
            if not waiting:
                del self._idle[address]

    def clear(self) -> None:
        """Close every idle connection."""
        for waiting in self._idle.values():
            for upstream in waiting:
                upstream.close()
        self._idle.clear()
