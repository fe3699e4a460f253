"""The socket trigger: a guest that listens by itself, run once for as long as it serves."""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from typing import TYPE_CHECKING
from weakref import WeakSet

from limpet.trigger.command import CommandTrigger

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from limpet.engine.protocol import Outcome, Preopen, Program
    from limpet.wasi.network import Network
    from limpet.worker.config import WorkerConfig
    from limpet.worker.loop import Loop

_LOOK_SECONDS = 0.05
# A guest that accepts nothing is probed on. The kernel keeps ten messages for it (unix(7), max_dgram_qlen).
_MOST_OFFERED = 8


class SocketTrigger(CommandTrigger):
    """Runs the guest, and knows of its clients by the sockets that it accepted."""

    def __init__(
        self,
        loop: Loop,
        program: Program,
        config: WorkerConfig,
        *,
        listeners: Sequence[CountingListener],
        network: Network,
        preopens: Sequence[Preopen],
        on_finished: Callable[[Outcome], None],
    ) -> None:
        super().__init__(
            loop, program, config, network=network, preopens=preopens, on_finished=on_finished
        )
        self._listeners = listeners

    @property
    def requests(self) -> int:
        """How many clients have come so far."""
        return sum(listening.accepted for listening in self._listeners)

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return sum(listening.open_connections() for listening in self._listeners)

    def idle_seconds(self) -> float:
        """How long nobody has been connected."""
        if self.connections:
            return 0.0
        return time.monotonic() - max(listening.used_at for listening in self._listeners)

    def stop(self) -> None:
        """Take no more clients; end the run when those that are there have gone.

        WASI has no signals: the guest is not asked. Clients that stay longer than the grace period are
        cut off with the process.
        """
        for listening in self._listeners:
            listening.retire()
        self._end_when_unused()

    def _end_when_unused(self) -> None:
        if self.connections:
            self._loop.call_later(_LOOK_SECONDS, self._end_when_unused)
        else:
            super().stop()


class OfferedConnections(socket.socket):
    """Stands for a listening socket: gives out connections that somebody in this process has.

    It polls as readable while there is one. `accept` calls what came with the connection.
    """

    def __init__(self) -> None:
        # Two descriptors of the kernel's: a guest polls the first one.
        ours, self._bell = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        super().__init__(fileno=ours.detach())
        self.setblocking(False)
        self._offered: deque[tuple[socket.socket, Callable[[], None]]] = deque()

    def offer(self, connection: socket.socket, on_accept: Callable[[], None]) -> bool:
        """Have the next `accept` return this connection; False when too many wait already."""
        if len(self._offered) >= _MOST_OFFERED:
            return False
        self._offered.append((connection, on_accept))
        self._bell.send(b"1")
        return True

    def accept(self) -> tuple[socket.socket, object]:
        """As any socket's. Raises BlockingIOError when nothing is offered."""
        self.recv(1)
        connection, on_accept = self._offered.popleft()
        on_accept()
        return connection, ""


class CountingListener(socket.socket):
    """A listening socket that keeps count of the connections it gave out."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(fileno=descriptor)
        self.accepted = 0
        self.used_at = time.monotonic()
        self._is_retired = False
        # While it is shut: the listening socket, and what stands in its place.
        self._shut: tuple[int, int] | None = None
        self._given: WeakSet[socket.socket] = WeakSet()

    def accept(self) -> tuple[socket.socket, object]:
        """As any socket's. Raises BlockingIOError when nobody is there, or will be."""
        if self._is_retired or self._shut is not None:
            raise BlockingIOError
        try:
            connection, address = super().accept()
        except OSError:
            if self._is_retired:  # meanwhile, by the loop's thread: it is no socket any more
                raise BlockingIOError from None
            raise
        self.accepted += 1
        self.used_at = time.monotonic()
        self._given.add(connection)
        return connection, address

    def open_connections(self) -> int:
        """How many of the connections are open still."""
        count = sum(connection.fileno() >= 0 for connection in list(self._given))
        if count:
            self.used_at = time.monotonic()
        return count

    def shut(self) -> None:
        """Give out no connection before `open_up`: those that come are left to others meanwhile."""
        stand_in = os.eventfd(0, os.EFD_CLOEXEC)
        self._shut = (os.dup(self.fileno()), stand_in)
        os.dup2(stand_in, self.fileno(), inheritable=False)

    def open_up(self) -> None:
        """Give out connections from now on, and wake a guest that waits for one."""
        if self._shut is None or self._is_retired:
            return
        (listening, stand_in), self._shut = self._shut, None
        os.dup2(listening, self.fileno(), inheritable=False)
        os.eventfd_write(stand_in, 1)  # whoever polls still looks at this one
        os.close(listening)
        os.close(stand_in)

    def retire(self) -> None:
        """Give out no more connections: others that share the socket get them.

        Whoever polls the descriptor must not find it ready, so that it becomes one that never is.
        """
        if not self._is_retired:
            self._is_retired = True
            for descriptor in self._shut or ():
                os.close(descriptor)
            self._shut = None
            never = os.eventfd(0, os.EFD_CLOEXEC)
            os.dup2(never, self.fileno(), inheritable=False)
            os.close(never)
