"""One run's WASI state: what the host functions work on."""

from __future__ import annotations

from itertools import accumulate
from struct import pack
from typing import TYPE_CHECKING

from limpet.wasi.descriptors import (
    DescriptorTable,
    Entry,
    OpenDirectory,
    StandardInput,
    StandardOutput,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from limpet.engine.protocol import Invocation
    from limpet.wasi.control import Control
    from limpet.wasi.memory import GuestMemory


class StringList:
    """Arguments or environment, joined once, as the guest wants them: NUL-terminated in a row."""

    __slots__ = ("_items", "_joined", "count")

    def __init__(self, items: Sequence[bytes]) -> None:
        self._items = items
        self.count = len(items)
        self._joined: bytes | None = None

    def joined(self) -> bytes:
        if self._joined is None:
            self._joined = b"\0".join((*self._items, b""))
        return self._joined

    def pointers(self, base: int) -> bytes:
        """The guest's array of pointers to items that start at `base`."""
        lengths = [len(item) + 1 for item in self._items]
        starts = list(accumulate(lengths, initial=base))
        # A base near the end of the address space is caught when the strings are written.
        return pack(f"<{self.count}I", *[start & 0xFFFFFFFF for start in starts[:-1]])


class WasiRun:
    """State of one run. `memory` and `control` belong to the engine that made them.

    `origin_ns` is where the guest's monotonic clock starts: it learns nothing of the host's uptime.
    """

    __slots__ = ("arguments", "control", "environment", "files", "memory", "origin_ns")

    def __init__(
        self, invocation: Invocation, *, memory: GuestMemory, control: Control, origin_ns: int
    ) -> None:
        self.memory = memory
        self.control = control
        self.origin_ns = origin_ns
        self.arguments = StringList(invocation.args)
        self.environment = StringList(invocation.env)
        entries: dict[int, Entry] = {
            0: StandardInput(invocation.stdin),
            1: StandardOutput(invocation.stdout, "stdout"),
            2: StandardOutput(invocation.stderr, "stderr"),
        }
        for number, preopen in enumerate(invocation.preopens, start=3):
            entries[number] = OpenDirectory(
                preopen.descriptor,
                may_write=not preopen.is_read_only,
                guest_path=preopen.guest_path,
            )
        self.files = DescriptorTable(entries)

    def close(self) -> None:
        """Close what the guest left open."""
        self.files.close_all()
