"""How fast a transfer must be, and how fast it may be.

A peer that sends a byte now and then would hold a download for ever: in each window of waiting, a least
number of bytes must arrive. A cap on the other side leaves the link to the apps.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from limpet.registry.errors import FetchFailedError

if TYPE_CHECKING:
    from collections.abc import Callable

WINDOW_SECONDS = 30.0
_SHORTEST_WAIT_SECONDS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Bytes per second: what a peer must send at least, and what is taken at most (0: no bound)."""

    least: int = 256
    most: int = 0
    window_seconds: float = WINDOW_SECONDS


class Pace:
    """Keeps a transfer between its rates. Only time spent on waiting for the peer counts against it."""

    def __init__(
        self,
        rates: Rates,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rates = rates
        self._clock = clock
        self._sleep = sleep
        self._waited = 0.0
        self._arrived = 0
        self._free_at = clock()

    @property
    def most_at_once(self) -> int:
        """How many bytes to take at a time: under a cap no more than a tenth of a second's."""
        most = self._rates.most
        return max(512, min(64 << 10, most // 10)) if most else 64 << 10

    def patience(self) -> float:
        """Return how many seconds the peer may be waited for now."""
        return max(_SHORTEST_WAIT_SECONDS, self._rates.window_seconds - self._waited)

    def note(self, count: int, waited: float) -> None:
        """Learn that bytes have come after seconds of waiting, and slow down under a cap.

        Raises `FetchFailedError` when a window ends with too few of them.
        """
        self._waited += waited
        self._arrived += count
        if self._waited >= self._rates.window_seconds:
            if self._arrived < self._rates.least * self._waited:
                raise stalled(self._arrived, self._waited)
            self._waited, self._arrived = 0.0, 0
        if self._rates.most:
            now = self._clock()
            self._free_at = max(self._free_at, now) + count / self._rates.most
            if self._free_at > now:
                self._sleep(self._free_at - now)


def stalled(count: int, seconds: float) -> FetchFailedError:
    """The error for a peer that is too slow."""
    return FetchFailedError(f"the transfer stalled: {count} bytes in {seconds:.0f} s")
