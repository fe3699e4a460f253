"""`wasi:clocks`: the time, and waiting for a moment."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from limpet.wasi.preview2.interface import Interface
from limpet.wasi.preview2.polling import MomentPollable, Pollable
from limpet.wasi.preview2.types import U32, U64, Own, Record

if TYPE_CHECKING:
    from limpet.wasi.preview2.run import ComponentRun

MONOTONIC, WALL = Interface(), Interface()
DATETIME = Record((("seconds", U64), ("nanoseconds", U32)))
_NS = 1_000_000_000


@MONOTONIC.function("now", returns=U64)
def monotonic_now(run: ComponentRun) -> int:
    return time.monotonic_ns() - run.origin_ns


@MONOTONIC.function("resolution", returns=U64)
def monotonic_resolution(_run: ComponentRun) -> int:
    return round(time.clock_getres(time.CLOCK_MONOTONIC) * _NS) or 1


@MONOTONIC.function("subscribe-instant", U64, returns=Own("pollable"))
def subscribe_instant(run: ComponentRun, moment: int) -> Pollable:
    return MomentPollable(run.origin_ns + moment)


@MONOTONIC.function("subscribe-duration", U64, returns=Own("pollable"))
def subscribe_duration(_run: ComponentRun, duration: int) -> Pollable:
    return MomentPollable(time.monotonic_ns() + duration)


@WALL.function("now", returns=DATETIME)
def wall_now(_run: ComponentRun) -> tuple[int, int]:
    return divmod(time.time_ns(), _NS)


@WALL.function("resolution", returns=DATETIME)
def wall_resolution(_run: ComponentRun) -> tuple[int, int]:
    return divmod(round(time.clock_getres(time.CLOCK_REALTIME) * _NS) or 1, _NS)
