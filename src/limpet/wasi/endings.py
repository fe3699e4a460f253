"""Ways in which a host function ends the guest instead of returning to it.

Host functions raise these; the engine that called them unwinds the guest and turns what was
raised into an `Outcome`. They are exceptions of control flow, not errors of ours.
"""

from __future__ import annotations


class GuestEnd(Exception):  # noqa: N818 - not an error: it says how a run ends
    """Root: the run is over, whatever the guest would have done next."""


class GuestExit(GuestEnd):
    """The guest asked to end: `proc_exit`."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class GuestTrap(GuestEnd):
    """The guest did something that WebAssembly or WASI answers with a trap."""

    @property
    def message(self) -> str:
        return str(self.args[0])


class GuestDeadline(GuestEnd):
    """The run's deadline passed while the guest waited in a host function."""


class GuestInterrupted(GuestEnd):
    """Somebody interrupted the run while the guest waited in a host function."""
