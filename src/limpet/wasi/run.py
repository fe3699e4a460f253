"""One run's WASI state: what the host functions work on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limpet.wasi.descriptors import DescriptorTable

if TYPE_CHECKING:
    from limpet.engine.protocol import Invocation
    from limpet.wasi.control import Control
    from limpet.wasi.memory import GuestMemory


class WasiRun:
    """State of one run. `memory` and `control` belong to the engine that made them.

    `origin_ns` is where the guest's monotonic clock starts: it learns nothing of the host's uptime.
    """

    __slots__ = ("control", "files", "invocation", "memory", "origin_ns")

    def __init__(
        self, invocation: Invocation, memory: GuestMemory, control: Control, origin_ns: int
    ) -> None:
        self.invocation = invocation
        self.memory = memory
        self.control = control
        self.origin_ns = origin_ns
        self.files = DescriptorTable(invocation)

    def close(self) -> None:
        """Close what the guest left open."""
        if self.files.has_opened:
            self.files.close_all()
