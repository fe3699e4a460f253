"""What an engine's callbacks share with its program: the run in progress, and why it is to end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limpet.wasi.errnos import WasiError, errno_from_os

if TYPE_CHECKING:
    from limpet.wasi.run import WasiRun


class Ending:
    """Why the run in progress is to end, if it is."""

    __slots__ = ("ending",)

    def __init__(self) -> None:
        self.ending: BaseException | None = None

    def end_with(self, ending: BaseException) -> None:
        """Note why the guest ends, without tracebacks: their frames hold the guest's memory."""
        ending.__context__ = None
        self.ending = ending.with_traceback(None)

    def answer(self, error: BaseException) -> int | None:
        """What a host function raised, as an error number for the guest; None when it has to end.

        Nothing raised may pass through C: this is where a callback's exceptions stop.
        """
        if isinstance(error, WasiError):
            return error.number
        if isinstance(error, OSError):
            return errno_from_os(error)
        self.end_with(error)
        return None


class Guest(Ending):
    """What the callbacks of a program share. One per program.

    `caller` is the engine's handle of the latest host call, valid until that call returns.
    """

    __slots__ = ("caller", "run")

    def __init__(self) -> None:
        super().__init__()
        self.run: WasiRun | None = None
        self.caller = 0
