"""Arguments, environment, clocks, randomness and the process's own end.

Source: the functions of the same names in `wasi_snapshot_preview1.witx`.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from limpet.wasi import abi, errnos
from limpet.wasi.arguments import check_enum
from limpet.wasi.endings import GuestExit, GuestTrap

if TYPE_CHECKING:
    from limpet.wasi.run import WasiRun
    from limpet.wasi.strings import Strings

# Wasmtime's bounds: larger statuses and requests end the guest.
_EXIT_STATUS_END = 126
_RANDOM_MAX_BYTES = 64 << 20
_RANDOM_CHUNK_BYTES = 64 * 1024
_RESOLUTIONS_NS = (
    round(time.clock_getres(time.CLOCK_REALTIME) * 1e9) or 1,
    round(time.clock_getres(time.CLOCK_MONOTONIC) * 1e9) or 1,
)


def _sizes_get(run: WasiRun, strings: Strings, count_at: int, size_at: int) -> int:
    memory = run.memory
    memory.write_u32(count_at, len(strings))
    memory.write_u32(size_at, len(strings.joined))
    return errnos.SUCCESS


def _strings_get(run: WasiRun, strings: Strings, pointers_at: int, strings_at: int) -> int:
    """Write NUL-terminated strings in a row, and an array of pointers to them."""
    if not strings:
        return errnos.SUCCESS
    memory = run.memory
    joined = strings.joined
    size, end = 4 * len(strings), strings_at + len(joined)
    # Checking the strings' place first also keeps the pointers within 32 bits.
    if end > memory.size:
        memory.require(strings_at, len(joined))
    if pointers_at & 3 or pointers_at + size > memory.size:
        memory.require(pointers_at, size, 4)
    view = memory.view
    view[pointers_at : pointers_at + size] = strings.pointers(strings_at)
    view[strings_at:end] = joined
    return errnos.SUCCESS


def args_sizes_get(run: WasiRun, count_at: int, size_at: int) -> int:
    return _sizes_get(run, run.invocation.args, count_at, size_at)


def args_get(run: WasiRun, pointers_at: int, strings_at: int) -> int:
    return _strings_get(run, run.invocation.args, pointers_at, strings_at)


def environ_sizes_get(run: WasiRun, count_at: int, size_at: int) -> int:
    return _sizes_get(run, run.invocation.env, count_at, size_at)


def environ_get(run: WasiRun, pointers_at: int, strings_at: int) -> int:
    return _strings_get(run, run.invocation.env, pointers_at, strings_at)


def clock_time_get(run: WasiRun, clock: int, _precision: int, time_at: int) -> int:
    if clock == abi.CLOCK_REALTIME:
        now = time.time_ns()
    elif clock == abi.CLOCK_MONOTONIC:
        now = time.monotonic_ns() - run.origin_ns
    else:
        check_enum("clockid", clock, abi.CLOCK_COUNT)
        return errnos.BADF  # the CPU time clocks, which Wasmtime does not have either
    run.memory.write_u64(time_at, now)
    return errnos.SUCCESS


def clock_res_get(run: WasiRun, clock: int, resolution_at: int) -> int:
    if clock > abi.CLOCK_MONOTONIC:
        check_enum("clockid", clock, abi.CLOCK_COUNT)
        return errnos.BADF
    run.memory.write_u64(resolution_at, _RESOLUTIONS_NS[clock])
    return errnos.SUCCESS


def random_get(run: WasiRun, buffer_at: int, length: int) -> int:
    if length <= _RANDOM_CHUNK_BYTES:
        run.memory.write(buffer_at, os.urandom(length))
        return errnos.SUCCESS
    if length > _RANDOM_MAX_BYTES:
        raise GuestTrap(f"random_get: {length} bytes asked for, {_RANDOM_MAX_BYTES} are the most")
    run.memory.require(buffer_at, length)
    end = buffer_at + length
    for start in range(buffer_at, end, _RANDOM_CHUNK_BYTES):
        run.control.check()
        run.memory.write(start, os.urandom(min(_RANDOM_CHUNK_BYTES, end - start)))
    return errnos.SUCCESS


def proc_exit(_run: WasiRun, status: int) -> int:
    if status >= _EXIT_STATUS_END:
        raise GuestTrap(f"exit with invalid exit status {status} outside of [0..126)")
    raise GuestExit(status)


def proc_raise(_run: WasiRun, signal: int) -> int:
    check_enum("signal", signal, abi.SIGNAL_COUNT)
    return errnos.NOTSUP


def sched_yield(_run: WasiRun) -> int:
    return errnos.SUCCESS
