"""What a guest's sockets reach: the seam between host functions and whoever opens connections.

A worker can neither bind nor connect (`limpet.worker.sandbox`): listening sockets came along when it
was assigned its app, and connections are opened by the agent. Host functions ask through this protocol
and get sockets that are ready to be used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from limpet.errors import DeniedError

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from limpet.wasi.streams import Waiter


class NetworkDeniedError(DeniedError):
    """The app may not reach this, or not listen there; guests see EACCES."""


class Network(Protocol):
    """One app's network. Whatever waits does so through `waiter`, so that deadlines hold."""

    def listen(self, port: int) -> Sequence[socket.socket]:
        """The listening sockets, one or more, for a port that the app declared.

        More than one when the port is open on several addresses; a client may come to any of them,
        over TCP or, from the node itself, over a Unix socket. They don't block, other processes may
        share them, and they stay the network's: never close or shut one down. Raises
        `NetworkDeniedError` for a port that was not declared.
        """
        ...

    def connect(self, host: str, port: int, protocol: str, waiter: Waiter) -> socket.socket:
        """A socket, connected over `protocol` (tcp or udp) and now the caller's.

        `host` is a name or an address. Raises `NetworkDeniedError` when the app's policy forbids
        it, OSError (ECONNREFUSED, EHOSTUNREACH, ETIMEDOUT) when nobody answers.
        """
        ...

    def resolve(self, host: str, waiter: Waiter) -> list[str]:
        """The addresses of a name, as text, that the app may connect to; empty when there are none.

        Raises `NetworkDeniedError` when the app may not ask for this name.
        """
        ...
