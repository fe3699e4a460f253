"""A socket as a guest's descriptor.

Opening one makes nothing in the kernel: a worker could not. It gets a kernel's socket when it
connects, and the network's listening sockets, which it never owns, when it listens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limpet.wasi import socket_abi

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Sequence

Endpoint = tuple[str, int]  # an address as text, and a port
NOWHERE: Endpoint = ("", 0)


class OpenSocket:
    """One socket of a guest's, in one of four states.

    New: nothing is set. Listening: `listening` holds the network's sockets. Connected: `kernel` is
    its own, for `peer`. A datagram socket that is not connected has one in `peers` for each that
    it wrote to, the latest last.

    `local` is what the guest bound. Timeouts are in nanoseconds, 0 for none. `options` are values
    of setsockopt that are remembered only.
    """

    __slots__ = (
        "family",
        "flags",
        "kernel",
        "listening",
        "local",
        "options",
        "peer",
        "peers",
        "receive_timeout_ns",
        "send_timeout_ns",
        "type",
    )

    def __init__(self, family: int, type_: int) -> None:
        self.family = family
        self.type = type_
        self.flags = 0
        self.kernel: socket.socket | None = None
        self.listening: Sequence[socket.socket] = ()
        self.local: Endpoint | None = None
        self.peer = NOWHERE
        self.peers: dict[Endpoint, socket.socket] = {}
        self.options: dict[int, int] = {}
        self.receive_timeout_ns = 0
        self.send_timeout_ns = 0

    @property
    def is_stream(self) -> bool:
        return self.type == socket_abi.TYPE_STREAM

    def read_descriptors(self) -> Iterator[int]:
        """Where to wait for something to read, or for a client."""
        if self.kernel is not None:
            yield self.kernel.fileno()
        else:
            for each in (*self.listening, *self.peers.values()):
                yield each.fileno()

    def close(self) -> None:
        """Close what is its own; listening sockets stay open, for the network is theirs."""
        self.listening = ()
        if self.kernel is not None:
            self.kernel.close()
            self.kernel = None
        for each in self.peers.values():
            each.close()
        self.peers.clear()
