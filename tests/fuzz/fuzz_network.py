"""A network for guests that call anything: real sockets, whose other ends answer, hang up or stay silent."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from limpet.wasi.network import NetworkDeniedError

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from limpet.wasi.streams import Waiter

PORT = 8080
_CLIENTS = 4


class FuzzNetwork:
    """Has one port with a few clients, lets in what it feels like, and knows a few names."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self._open = [self.listener]
        for _ in range(_CLIENTS):
            self._converse(socket.create_connection(self.listener.getsockname()))

    def _converse(self, other_end: socket.socket) -> None:
        other_end.send(b"x" * self._rng.choice((1, 10, 5000)))
        if self._rng.random() < 0.8:
            other_end.close()
        else:
            self._open.append(other_end)

    def listen(self, port: int) -> Sequence[socket.socket]:
        if port != PORT:
            raise NetworkDeniedError(f"port {port} was not declared")
        return [self.listener]

    def connect(self, host: str, port: int, protocol: str, waiter: Waiter) -> socket.socket:
        chance = self._rng.random()
        if chance < 0.1:
            raise NetworkDeniedError(f"{host} is not for this app")
        if chance < 0.2:
            raise ConnectionRefusedError(111, "refused")
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        ours, other_end = socket.socketpair(type=kind)
        self._converse(other_end)
        return ours

    def resolve(self, host: str, waiter: Waiter) -> list[str]:
        if host == "denied":
            raise NetworkDeniedError(f"{host} is not for this app")
        return ["192.0.2.1", "2001:db8::1"] * (self._rng.randrange(60))

    def close(self) -> None:
        for each in self._open:
            each.close()
