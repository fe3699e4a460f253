"""What is read from a log, which of it is asked for, and the error of all that reads or writes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from limpet.errors import TemporaryError

if TYPE_CHECKING:
    from collections.abc import Sequence


class LogFullError(TemporaryError):
    """Lines can't be written now; what waits is kept and tried again."""

    reason = "LogNotWritable"


@dataclass(frozen=True, slots=True)
class Record:
    """One line of an app's log; `time` is seconds since 1970, `incarnation` the worker's start."""

    time: float
    stream: str
    worker: str
    incarnation: int
    line: str


@dataclass(frozen=True, slots=True)
class Choice:
    """Which of an app's lines: up to an id, newer than a time, of some runs (worker, incarnation)."""

    app: int
    until: int
    since: float | None = None
    runs: Sequence[tuple[str, int]] | None = None
