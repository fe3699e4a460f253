"""One run's WASI 0.2 state: what the host functions work on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limpet.wasi.preview2.resources import ResourceTable

if TYPE_CHECKING:
    from limpet.engine.protocol import Invocation
    from limpet.wasi.control import Control

# Files, directories and sockets; each costs the worker a descriptor of its own.
MAX_DESCRIPTORS = 1024


class ComponentRun:
    """State of one run. `control` belongs to the engine that made it.

    `origin_ns` is where the guest's monotonic clock starts: it learns nothing of the host's uptime.
    `descriptors` counts what the guest has open.
    """

    __slots__ = ("control", "descriptors", "invocation", "origin_ns", "resources")

    def __init__(self, invocation: Invocation, control: Control, origin_ns: int) -> None:
        self.invocation = invocation
        self.control = control
        self.origin_ns = origin_ns
        self.resources = ResourceTable()
        self.descriptors = 0

    def close(self) -> None:
        """Close what the guest left open."""
        self.resources.close_all()
