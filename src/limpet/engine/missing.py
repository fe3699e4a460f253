"""The error that every engine's finder raises, apart from any engine."""

from __future__ import annotations

from limpet.errors import UnavailableError


class EngineMissingError(UnavailableError):
    """The engine's library is not on this machine, or this process can't use it."""

    reason = "EngineMissing"
