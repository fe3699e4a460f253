"""What an agent has to know of workers that another one has started, as text that the launcher holds.

Times are CLOCK_MONOTONIC's, which all processes of one boot share, unless they are for people. Nothing here
is secret. A text may come from another version of Limpet: what it has more is ignored, what it lacks has a
default where there can be one.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

from limpet.plan import AppKey

if TYPE_CHECKING:
    from collections.abc import Mapping


class RecordError(ValueError):
    """A text that is no record of its kind: an agent of another version has left it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """One worker.

    `number` is its app's serial number for it; `pid` and `start_ticks` together name one process of this
    boot. `started_at` is for people. `drain_until` is the end of its grace period once it drains.
    `said` is what it has said of its own end: reason, exit code, message, memory.
    """

    namespace: str
    name: str
    number: int
    slot: int
    incarnation: int
    fingerprint: str
    engine: str
    is_component: bool
    pid: int
    start_ticks: int
    uid: int
    group: str
    grace_seconds: float
    started_at: float
    assigned_at: float
    is_from_zero: bool = False
    has_probes: bool = False
    was_ready: bool = False
    drain_until: float | None = None
    said: tuple[str, int, str, int] | None = None

    @property
    def key(self) -> AppKey:
        """The app that it works for."""
        return AppKey(self.namespace, self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotRecord:
    """What is remembered of a worker's place; `generation` is the app's that it belongs to.

    `last_exit` has the fields of `limpet.worker.process.ExitInfo`.
    """

    namespace: str
    name: str
    created_at: float
    generation: int
    slot: int
    failures: int
    restarts: int
    retry_at: float
    is_completed: bool
    last_number: int
    last_exit: Mapping[str, Any] | None = None

    @property
    def key(self) -> AppKey:
        """The app that it belongs to."""
        return AppKey(self.namespace, self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureRecord:
    """What an app's workers that have ended have done."""

    namespace: str
    name: str
    created_at: float
    requests: int
    failed: int
    cold_starts: int
    latency: tuple[int, ...]
    start_times: tuple[float, ...]

    @property
    def key(self) -> AppKey:
        """The app that it belongs to."""
        return AppKey(self.namespace, self.name)


_Record = TypeVar("_Record", Identity, SlotRecord, FigureRecord)
_TUPLES = ("said", "latency", "start_times")


def format_record(record: Identity | SlotRecord | FigureRecord) -> str:
    """Return a text for `parse_record`."""
    return json.dumps(asdict(record))


def parse_record(kind: type[_Record], text: str) -> _Record:
    """Read what `format_record` wrote. Raises `RecordError`."""
    known = {entry.name for entry in fields(kind)}
    try:
        values = {name: value for name, value in json.loads(text).items() if name in known}
        for name in _TUPLES:
            if values.get(name) is not None:
                values[name] = tuple(values[name])
        return kind(**values)
    except (ValueError, TypeError, AttributeError) as error:
        raise RecordError(f"not a {kind.__name__}: {error}") from error
