"""Whether the system clock is set by somebody who knows the time. Source: adjtimex(2), linux/timex.h."""

from __future__ import annotations

import ctypes

from limpet.linux.calls import check, libc

_TIMEX_BYTES = 256  # struct timex has 208 on 64-bit machines
_TIME_ERROR = 5


def is_synchronised() -> bool:
    """Whether NTP, PTP or the like keep the clock. Raises OSError where asking is forbidden."""
    timex = ctypes.create_string_buffer(_TIMEX_BYTES)  # modes 0: only ask
    return check(libc.adjtimex(timex), "adjtimex") != _TIME_ERROR
