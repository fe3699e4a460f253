"""A latency histogram in a fixed number of counters: four per doubling, within 19 % of the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

BUCKETS = 128
_LINEAR = 8


class Histogram:
    """Counts whole microseconds from 0 to an hour and more."""

    __slots__ = ("counts",)

    def __init__(self, counts: Sequence[int] | None = None) -> None:
        self.counts = list(counts) if counts is not None else [0] * BUCKETS
        if len(self.counts) != BUCKETS:
            raise ValueError(f"a histogram has {BUCKETS} counters, not {len(self.counts)}")

    def record(self, micros: int) -> None:
        """Count one value."""
        if micros < _LINEAR:
            index = max(micros, 0)
        else:
            shift = micros.bit_length() - 3
            index = min((shift << 2) + (micros >> shift) + 0, BUCKETS - 1)
        self.counts[index] += 1

    def add(self, counts: Sequence[int]) -> None:
        """Add another histogram's counts."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, counts, strict=True)]

    @property
    def total(self) -> int:
        """How many values were recorded."""
        return sum(self.counts)

    def quantile(self, share: float) -> int | None:
        """Return the upper bound, in microseconds, of the bucket that holds this quantile."""
        total = self.total
        if not total:
            return None
        rank = share * total
        seen = 0
        for index, count in enumerate(self.counts):
            seen += count
            if count and seen >= rank:
                return upper_bound(index)
        return upper_bound(BUCKETS - 1)


def upper_bound(index: int) -> int:
    """Return the largest value, in microseconds, that counts into a bucket."""
    if index < _LINEAR:
        return index
    shift = (index - 4) >> 2
    mantissa = index - (shift << 2)
    return ((mantissa + 1) << shift) - 1
