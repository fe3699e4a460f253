"""Whether clients want an app that is stopped while nobody asks: seen at its listening sockets."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence


class Demand:
    """One app's. `is_there` from the first client's coming until the app's workers are idle."""

    def __init__(self, on_demand: Callable[[], None]) -> None:
        self.is_there = False
        self._on_demand = on_demand
        self._watched: list[socket.socket] = []

    @property
    def is_watched(self) -> bool:
        """Whether the next client is waited for."""
        return bool(self._watched)

    def watch(self, sockets: Sequence[socket.socket]) -> None:
        """Be told when a client comes to one of these; it stays in the kernel's queue."""
        if self._watched:
            return
        loop = asyncio.get_running_loop()
        self._watched = list(sockets)
        for listening in self._watched:
            loop.add_reader(listening.fileno(), self._see)

    def unwatch(self) -> None:
        """Stop watching; workers accept by themselves."""
        for listening in self._watched:
            asyncio.get_running_loop().remove_reader(listening.fileno())
        self._watched = []

    def _see(self) -> None:
        self.unwatch()
        self.is_there = True
        self._on_demand()
