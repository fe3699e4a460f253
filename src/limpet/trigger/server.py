"""Connections: accepting, reading, writing, time limits and closing, on the worker's loop.

What to do with a request is the owner's business: it is handed over as an `Exchange` and answered
whenever the owner is ready, in one piece or in many. A connection has one exchange at a time;
pipelined requests wait in it.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Protocol

from limpet.http1.connection import ConnectionLimits, HttpConnection
from limpet.worker.loop import ACCEPT, READ, WRITE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from limpet.http1.connection import BodySink
    from limpet.http1.message import Header, Request, Response
    from limpet.settings import HttpSettings
    from limpet.worker.loop import Loop

_GONE = select.EPOLLERR | select.EPOLLHUP
_READ_BYTES = 64 << 10
_SWEEP_SECONDS = 1.0
_LINGER_SECONDS = 2.0
_NEWCOMER_SECONDS = 1.0
_LINGER_BYTES = 1 << 20
_WRITE_STALL_SECONDS = 60.0
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger
_SLOWEST_BODY_BYTES_PER_SECOND = 1024


class Client(Protocol):
    """Where an exchange comes from."""

    peer: bytes
    port: bytes
    is_closed: bool

    def respond(self, response: Response) -> None:
        """Answer the request that was handed over last."""

    def resume(self) -> None:
        """Go on with the next request, after an answer that came later than its request."""


class Watcher(Protocol):
    """Who answers in pieces and wants to know how the client is doing."""

    def on_writable(self) -> None:
        """Take note that the client has read everything so far."""

    def on_gone(self) -> None:
        """Take note that the client has gone, or was ended for not reading."""


class Exchange:
    """One request that waits for its answer."""

    __slots__ = ("connection", "received_at", "request")

    def __init__(self, connection: Client, request: Request, received_at: float) -> None:
        self.connection = connection
        self.request = request
        self.received_at = received_at

    @property
    def is_abandoned(self) -> bool:
        """Whether the client has gone."""
        return self.connection.is_closed

    def respond(self, response: Response) -> None:
        """Answer; without effect when the client has gone."""
        self.connection.respond(response)


class Connection:
    """One client."""

    __slots__ = (
        "_backlog",
        "_events",
        "_expires_at",
        "_has_asked",
        "_head_started_at",
        "_http",
        "_is_answering",
        "_lingered",
        "_peer_is_done",
        "_pending",
        "_received",
        "_server",
        "_socket",
        "descriptor",
        "is_closed",
        "peer",
        "port",
        "watcher",
    )

    def __init__(self, server: Server, client: socket.socket, peer: bytes, port: bytes) -> None:
        self._server = server
        self._socket = client
        self.descriptor = client.fileno()
        self.peer = peer
        self.port = port
        self.is_closed = False
        self.watcher: Watcher | None = None
        self._http = HttpConnection(self._on_request, server.limits, server.choose_sink)
        self._backlog: deque[Request] = deque()
        self._has_asked = False
        self._is_answering = False
        self._pending = b""
        self._peer_is_done = False
        self._lingered = -1
        self._received = 0
        self._events = READ
        self._head_started_at = 0.0
        self._expires_at = time.monotonic() + server.settings.head_timeout_seconds

    def on_ready(self, events: int) -> None:
        """Handle what epoll reported."""
        if events & WRITE and self._pending:
            self._write()
            if not self._pending:
                self.resume()
        if self._peer_is_done and events & _GONE:
            self.close()  # a reset: nobody is left to read what is still being made
        elif not self.is_closed and events & ~WRITE:
            self._read()

    def _read(self) -> None:
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if self._lingered >= 0:
            self._lingered += len(data)
            if not data or self._lingered > _LINGER_BYTES:
                self.close()
            return
        if not data:
            self._peer_is_done = True
            if self.watcher is not None:
                self.close()  # who watches takes the end of a client's input for the client's end
            elif self._is_answering or self._pending or self._backlog:
                self._watch()
            else:
                self.close()
            return
        self._http.feed(data)
        self._pump()
        if not self.is_closed:
            self._set_expiry(len(data))

    def _on_request(self, request: Request) -> None:
        self._has_asked = True
        self._backlog.append(request)

    def _pump(self) -> None:
        """Hand over the next request, unless one is being answered or the client must read first."""
        while self._backlog and not self._is_answering and not self._pending and not self.is_closed:
            self._is_answering = True
            request = self._backlog.popleft()
            self._server.on_exchange(Exchange(self, request, time.monotonic()))
        if self._http.output:
            self._write()
        elif self._backlog or self._events != READ:
            self._watch()

    def respond(self, response: Response) -> None:
        """Answer the request that was handed over last."""
        if self.is_closed:
            return
        self._is_answering = False
        if self._server.is_draining:
            self._http.closes_after_response = True
        self._http.respond(response)
        if self._http.is_closing:
            self._backlog.clear()
        self._write()

    def begin_response(self, status: int, headers: Iterable[Header], length: int | None) -> None:
        """Begin an answer in pieces (see `HttpConnection`); `flush` sends what was written."""
        if self._server.is_draining:
            self._http.closes_after_response = True
        self._http.begin_response(status, headers, length=length)

    def write_body(self, data: bytes) -> None:
        """Write the next piece."""
        self._http.write_body(data)

    def end_response(self) -> None:
        """End the answer; `resume` goes on with the next request."""
        self._is_answering = False
        self.watcher = None
        self._http.end_response()
        if self._http.is_closing:
            self._backlog.clear()
        self._write()

    def flush(self) -> bool:
        """Send what was written; whether the client took all of it. Else its watcher will hear."""
        if not self.is_closed:
            self._write()
        return not self._pending

    def resume(self) -> None:
        """Go on with the next request, after an answer that came later than its request."""
        if not self.is_closed:
            self._pump()
            if not self.is_closed:
                self._set_expiry(0)

    def _write(self) -> None:
        output = self._http.output
        if output:
            data = output[0] if len(output) == 1 else b"".join(output)
            output.clear()
            self._pending = self._pending + data if self._pending else data
        had_to_wait = bool(self._events & WRITE)
        try:
            sent = self._socket.send(self._pending)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        if sent < len(self._pending):
            self._pending = self._pending[sent:]
            self._expires_at = time.monotonic() + _WRITE_STALL_SECONDS
            self._watch()
            return
        self._pending = b""
        if self._http.is_closing and not self._is_answering:
            self._finish()
        elif had_to_wait:
            self._watch()
            if self.watcher is not None:
                self._expires_at = float("inf")
                self.watcher.on_writable()

    def _finish(self) -> None:
        """Close so that the client can still read the answer: unread input would reset it."""
        if self._peer_is_done:
            self.close()
            return
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()
            return
        self._lingered = 0
        self._expires_at = time.monotonic() + _LINGER_SECONDS
        self._watch()

    def _watch(self) -> None:
        """Watch for what this connection can take now: no reading while the client is behind."""
        if self.is_closed:
            return
        events = WRITE if self._pending else 0
        is_behind = self._pending or self._backlog
        if not self._peer_is_done and (not is_behind or self._lingered >= 0):
            events |= READ
        if events != self._events:
            self._events = events
            self._server.loop.modify(self.descriptor, events)

    def _set_expiry(self, received: int) -> None:
        if self._lingered >= 0 or self._pending:
            return
        now = time.monotonic()
        settings = self._server.settings
        if self._is_answering:
            self._expires_at = float("inf")
        elif self._http.is_idle:
            self._expires_at = now + settings.keep_alive_seconds
            self._head_started_at = 0.0
            self._received = 0
        elif self._http.is_receiving_body:
            self._received += received
            patience = settings.body_timeout_seconds
            self._expires_at = now + patience
            if self._head_started_at:
                slowest = patience + self._received / _SLOWEST_BODY_BYTES_PER_SECOND
                self._expires_at = min(self._expires_at, self._head_started_at + slowest)
            else:
                self._head_started_at = now
        elif not self._head_started_at:
            self._head_started_at = now
            self._expires_at = now + settings.head_timeout_seconds

    def check_time(self, now: float) -> None:
        """End a connection whose time is over."""
        if now < self._expires_at:
            return
        if self._lingered >= 0 or self._pending or self._http.is_idle:
            self.close()
        else:
            self._http.refuse(408, "the request did not arrive in time")
            self._pump()

    def drain(self) -> None:
        """Close now when idle, else after the answer that is due; a newcomer may still ask once."""
        self._http.closes_after_response = True
        if self._is_idle:
            self._read()  # a request that is here already is still answered
        if self.is_closed or not self._is_idle:
            return
        if self._has_asked:
            self.close()
        else:  # its first request is on the way, and no client expects to have to repeat that one
            self._expires_at = min(self._expires_at, time.monotonic() + _NEWCOMER_SECONDS)

    @property
    def _is_idle(self) -> bool:
        return not self._is_answering and not self._pending and self._http.is_idle

    def abort(self) -> None:
        """Close so that the client can't take what it got for a whole answer."""
        if not self.is_closed:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self.close()

    def close(self) -> None:
        """Close at once."""
        if not self.is_closed:
            self.is_closed = True
            self._server.forget(self)
            self._socket.close()
            self._http.discard()
            self._backlog.clear()
            watcher, self.watcher = self.watcher, None
            if watcher is not None:
                watcher.on_gone()


class Server:
    """Serves HTTP/1.1 on listening sockets that somebody else bound."""

    def __init__(
        self,
        loop: Loop,
        listeners: Sequence[socket.socket],
        *,
        settings: HttpSettings,
        limits: ConnectionLimits,
        on_exchange: Callable[[Exchange], None],
        on_empty: Callable[[], None],
        choose_sink: Callable[[bytes, bytes], BodySink | None] | None = None,
    ) -> None:
        self.loop = loop
        self.settings = settings
        self.limits = limits
        self.on_exchange = on_exchange
        self.choose_sink = choose_sink
        self.is_draining = False
        self._on_empty = on_empty
        self._listeners = {listener.fileno(): listener for listener in listeners}
        self._ports = {
            descriptor: b"%d" % listener.getsockname()[1]
            for descriptor, listener in self._listeners.items()
        }
        self._connections: dict[int, Connection] = {}
        self._is_accepting = False
        self._is_sweeping = False

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._connections)

    def start(self) -> None:
        """Begin to accept, starting with who already waits: a cold start has a client at the door."""
        self.resume_accepting()
        for descriptor in self._listeners:
            self._accept(descriptor)

    def resume_accepting(self) -> None:
        """Accept again after a pause."""
        if not self._is_accepting and not self.is_draining:
            self._is_accepting = True
            for descriptor in self._listeners:
                self.loop.register(descriptor, ACCEPT, partial(self._accept, descriptor))

    def pause_accepting(self) -> None:
        """Leave new clients in the kernel's queue."""
        if self._is_accepting:
            self._is_accepting = False
            for descriptor in self._listeners:
                self.loop.unregister(descriptor)

    def drain(self) -> None:
        """Accept no more, end what is idle, let the rest finish; `on_empty` tells when done."""
        self.is_draining = True
        self.pause_accepting()
        if not self._connections:
            self._on_empty()
        for connection in list(self._connections.values()):
            connection.drain()

    def forget(self, connection: Connection) -> None:
        """Drop a connection that closes itself."""
        self._connections.pop(connection.descriptor, None)
        self.loop.unregister(connection.descriptor)
        if self.is_draining:
            if not self._connections:
                self._on_empty()
        elif not self._is_accepting and len(self._connections) < self.settings.connections:
            self.resume_accepting()

    def _accept(self, descriptor: int, _events: int = 0) -> None:
        # One at a time: the other workers that wait on this socket get their share.
        try:
            client, address = self._listeners[descriptor].accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            if error.errno in (errno.EBADF, errno.EINVAL, errno.ENOTSOCK):
                raise
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                self.pause_accepting()
                self.loop.call_later(0.1, self.resume_accepting)
            return  # the rest is the lost client's network speaking (accept(2), "Error handling")
        client.setblocking(False)
        peer = address[0].encode() if isinstance(address, tuple) else b""
        connection = Connection(self, client, peer, self._ports[descriptor])
        self._connections[connection.descriptor] = connection
        self.loop.register(connection.descriptor, READ, connection.on_ready)
        if len(self._connections) >= self.settings.connections:
            self.pause_accepting()
        if not self._is_sweeping:
            self._is_sweeping = True
            self.loop.call_later(_SWEEP_SECONDS, self._sweep)
        connection.on_ready(READ)  # the request is usually there already

    def _sweep(self) -> None:
        self._is_sweeping = bool(self._connections)
        if self._is_sweeping:
            now = time.monotonic()
            for connection in list(self._connections.values()):
                connection.check_time(now)
            self.loop.call_later(_SWEEP_SECONDS, self._sweep)
