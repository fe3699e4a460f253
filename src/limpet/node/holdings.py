"""What the launcher holds between two agents: workers' sockets and pipes, how they ended, what is known.

The launcher reads nothing of it. It only makes room in a log's pipe when there has been no agent for a
while: a worker that waits for room there would serve nobody.
"""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from dataclasses import dataclass
from typing import TYPE_CHECKING

from limpet.worker.channel import close_all

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limpet.worker.messages import Hold

# A pipe holds 64 KiB (pipe(7)): what is older than the last half is given up first.
_SPILLED_BYTES = 32 << 10


@dataclass(frozen=True, slots=True)
class End:
    """How a process ended: wait(2)'s status, its largest resident size, and when, by CLOCK_MONOTONIC."""

    status: int
    peak_bytes: int
    at: float


@dataclass(slots=True)
class Held:
    """One thing that was put here: see `limpet.worker.messages.Hold`. `pid` is 0 for a mere text."""

    pid: int
    text: str
    descriptors: tuple[int, ...]
    end: End | None = None

    def close(self) -> None:
        """Close this process's descriptors."""
        close_all(self.descriptors)
        self.descriptors = ()


class Holdings:
    """What is held, by name."""

    def __init__(self, held: Mapping[str, Held] | None = None) -> None:
        self._held = dict(held or {})

    @property
    def entries(self) -> Mapping[str, Held]:
        """All of it."""
        return self._held

    @property
    def has_workers(self) -> bool:
        """Whether some worker lives that its agent has left."""
        return any(held.pid and held.end is None for held in self._held.values())

    def hold(self, message: Hold, descriptors: list[int]) -> None:
        """Take what an agent gives."""
        found = self._held.get(message.name)
        if found is None or found.pid != message.pid:
            self.release(message.name)
            self._held[message.name] = Held(message.pid, message.text, tuple(descriptors))
            return
        found.text = message.text
        if descriptors:
            found.close()
            found.descriptors = tuple(descriptors)

    def release(self, name: str) -> None:
        """Forget a name."""
        found = self._held.pop(name, None)
        if found is not None:
            found.close()

    def note_end(self, pid: int, end: End) -> None:
        """Remember how a process ended, until it is released."""
        for held in self._held.values():
            if held.pid == pid and held.end is None:
                held.end = end

    def spill(self) -> None:
        """Make room in the pipes that are more than half full."""
        for held in self._held.values():
            for pipe in held.descriptors[1:]:
                if _readable_bytes(pipe) > _SPILLED_BYTES:
                    os.read(pipe, _SPILLED_BYTES)

    def close(self) -> None:
        """Close everything, in a process that has none of it."""
        for held in self._held.values():
            held.close()
        self._held.clear()


def _readable_bytes(descriptor: int) -> int:
    answer = fcntl.ioctl(descriptor, termios.FIONREAD, b"\0\0\0\0")
    count: int = struct.unpack("i", answer)[0]
    return count
