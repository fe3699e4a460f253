"""TCP sockets as a component sees them, and the streams from and to whoever they are connected with."""

from __future__ import annotations

import select
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from limpet.wasi.endings import GuestTrap
from limpet.wasi.preview2.interface import Refused
from limpet.wasi.preview2.network import (
    Connection,
    form_address,
    form_name,
    require_network,
    require_room,
)
from limpet.wasi.preview2.polling import DescriptorPollable, Pollable
from limpet.wasi.preview2.resources import Resource, Shared
from limpet.wasi.preview2.streams import CHUNK_BYTES, CLOSED, InputStream, OutputStream

if TYPE_CHECKING:
    from limpet.wasi.preview2.network import SocketAddress
    from limpet.wasi.preview2.run import ComponentRun

# How an operation that the guest started goes on: what `finish-` finds.
NEW, BINDING, BOUND, LISTENING_SOON, LISTENING, CONNECTING, CONNECTED, FAILED = range(8)
# What an option says until it is set: the kernel's defaults, in nanoseconds where it is a time.
_OPTIONS: dict[str, int] = {
    "keep-alive-enabled": 0,
    "keep-alive-idle-time": 7200 * 1_000_000_000,
    "keep-alive-interval": 75 * 1_000_000_000,
    "keep-alive-count": 9,
    "hop-limit": 64,
    "receive-buffer-size": 128 * 1024,
    "send-buffer-size": 128 * 1024,
}


class ConnectionInput(InputStream):
    __slots__ = ("_connection", "_is_over", "_shared")

    def __init__(self, connection: Connection, shared: Shared) -> None:
        self._connection = connection
        self._shared = shared
        self._is_over = False
        shared.retain()

    def read(self, _run: ComponentRun, length: int) -> bytes:
        if self._is_over:
            raise Refused(CLOSED)
        if not length:
            return b""
        try:
            data = self._connection.require().recv(length)
        except BlockingIOError:
            return b""
        if not data:
            self._is_over = True
            raise Refused(CLOSED)
        return data

    def subscribe(self) -> Pollable:
        return DescriptorPollable(self._connection.descriptor, select.POLLIN)

    def close(self) -> None:
        self._shared.release()


class ConnectionOutput(OutputStream):
    """Lets nothing more in while the kernel has not taken what came before."""

    __slots__ = ("_connection", "_shared")

    def __init__(self, connection: Connection, shared: Shared) -> None:
        self._connection = connection
        self._shared = shared
        shared.retain()

    def room(self, _run: ComponentRun) -> int:
        connection = self._connection
        connection.send(b"")
        if connection.pending:
            return 0
        poller = select.poll()
        poller.register(connection.require(), select.POLLOUT)
        return CHUNK_BYTES if poller.poll(0) else 0

    def write(self, _run: ComponentRun, data: bytes) -> None:
        if len(self._connection.pending) + len(data) > 2 * CHUNK_BYTES:
            raise GuestTrap("wrote to a connection more than `check-write` permitted")
        self._connection.send(data)

    def flush(self, _run: ComponentRun) -> None:
        self._connection.flush()

    def subscribe(self) -> Pollable:
        return DescriptorPollable(self._connection.descriptor, select.POLLOUT)

    def close(self) -> None:
        self._shared.release()


class TcpSocket(Resource):
    """A socket as the guest sees it, whatever is behind it by now."""

    __slots__ = (
        "_connection",
        "_listeners",
        "_shared",
        "family",
        "local",
        "options",
        "remote",
        "state",
    )

    def __init__(self, family: str) -> None:
        self.family = family
        self.state = NEW
        self.local: tuple[str, int] | None = None
        self.remote: tuple[str, int] | None = None
        self.options = dict(_OPTIONS)
        self._listeners: list[socket.socket] = []
        self._connection: Connection | None = None
        self._shared: Shared | None = None

    def require(self, *states: int) -> None:
        if self.state not in states:
            raise Refused("invalid-state")

    def finish(self, under_way: int, done: int) -> None:
        if self.state != under_way:
            raise Refused("not-in-progress")
        self.state = done

    def listen(self, run: ComponentRun) -> None:
        assert self.local is not None
        port = self.local[1]
        if not port:
            raise Refused("access-denied")  # a port of the kernel's choice is nobody's declared one
        self._listeners = list(require_network(run).listen(port))

    def adopt(self, run: ComponentRun, connected: socket.socket) -> None:
        """Take over a connected socket."""
        self._connection = Connection(run, connected)
        self._shared = Shared(self._connection)
        self._shared.retain()

    def streams(self) -> tuple[InputStream, OutputStream]:
        assert self._connection is not None
        assert self._shared is not None
        connection, shared = self._connection, self._shared
        return ConnectionInput(connection, shared), ConnectionOutput(connection, shared)

    def accept(self, run: ComponentRun) -> TcpSocket:
        """The next connection; BlockingIOError when there is none."""
        require_room(run)
        accepted = TcpSocket(self.family)
        accepted.adopt(run, self._accept())
        accepted.state = CONNECTED
        accepted.options = dict(self.options)
        return accepted

    def _accept(self) -> socket.socket:
        """From the listeners in turn. Others may wait at them too, so that any may have nothing."""
        for _ in self._listeners[1:]:
            self._listeners.append(self._listeners.pop(0))
            with suppress(BlockingIOError):
                return self._listeners[-1].accept()[0]
        self._listeners.append(self._listeners.pop(0))
        return self._listeners[-1].accept()[0]

    def connected(self) -> socket.socket:
        if self._connection is None:
            raise Refused("invalid-state")
        return self._connection.require()

    def shutdown(self, how: int) -> None:
        connected = self.connected()
        if how != socket.SHUT_RD and self._connection is not None:
            self._connection.flush()
        connected.shutdown(how)

    def local_address(self) -> SocketAddress:
        if self._connection is not None:
            return form_name(self.connected().getsockname(), self.family)
        if self.local is None:
            raise Refused("invalid-state")
        return form_address(self.local)

    def listeners(self) -> list[int]:
        """The descriptors at which connections come; none when nothing has to be waited for."""
        return [each.fileno() for each in self._listeners]

    def close(self) -> None:
        if self._shared is not None:
            self._shared.release()


class ConnectionsPollable(Pollable):
    """Ready when a connection can be accepted, or when nothing comes that could be waited for."""

    __slots__ = ("_of",)

    def __init__(self, of: TcpSocket) -> None:
        self._of = of

    def events(self) -> dict[int, int] | None:
        return dict.fromkeys(self._of.listeners(), select.POLLIN) or None
