"""What an app's workers have done, as far as no live one tells it: it outlives them, and the agent."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from limpet.node.identity import FigureRecord
from limpet.telemetry.histogram import Histogram

if TYPE_CHECKING:
    from limpet.plan import AppKey
    from limpet.worker.messages import Ready, Stats

_KEPT_START_TIMES = 100


@dataclass(slots=True)
class Figures:
    """Requests of workers that have ended, latencies in microseconds, starts in milliseconds."""

    requests: int = 0
    failed: int = 0
    latency: Histogram = field(default_factory=Histogram)
    cold_starts: int = 0
    start_times: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT_START_TIMES))

    def note_start(self, ready: Ready, *, is_from_zero: bool) -> None:
        """Count a worker that has loaded; `is_from_zero` when a client had to wait for it."""
        self.start_times.append(ready.milliseconds)
        self.cold_starts += is_from_zero

    def note_end(self, stats: Stats | None) -> None:
        """Count what a worker that ended had told last."""
        if stats is None:
            return
        self.requests += stats.requests
        self.failed += stats.failed
        if stats.latency:
            self.latency.add(stats.latency)

    def record(self, key: AppKey, *, created_at: float) -> FigureRecord:
        """Return them for the next agent."""
        return FigureRecord(
            namespace=key.namespace,
            name=key.name,
            created_at=created_at,
            requests=self.requests,
            failed=self.failed,
            cold_starts=self.cold_starts,
            latency=tuple(self.latency.counts),
            start_times=tuple(self.start_times),
        )

    def restore(self, record: FigureRecord) -> None:
        """Begin where an earlier agent's were."""
        self.requests, self.failed = record.requests, record.failed
        self.cold_starts = record.cold_starts
        self.latency = Histogram(record.latency)
        self.start_times.extend(record.start_times)
