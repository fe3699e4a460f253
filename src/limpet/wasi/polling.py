"""`poll_oneoff`: waiting for clocks and descriptors.

Source: `poll_oneoff`, `$subscription` and `$event` in the witx. All waiting happens in `Control`,
so a sleeping guest obeys its deadline and an interrupt. As in Wasmtime, a subscription that can't
be polled fails the whole call, not just its event.
"""

from __future__ import annotations

import os
import select
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from limpet.wasi import abi, errnos
from limpet.wasi.descriptors import OpenFile, StandardInput, StandardOutput
from limpet.wasi.errnos import WasiError
from limpet.wasi.socket_descriptors import OpenSocket

if TYPE_CHECKING:
    from limpet.wasi.run import WasiRun

# A guest that waits for more things than it can have descriptors is wrong or hostile.
_MAX_SUBSCRIPTIONS = 4096
# Whatever was asked for, these mean that a read or write returns at once.
_ENDED = select.POLLHUP | select.POLLERR | select.POLLNVAL


@dataclass(slots=True)
class _Subscription:
    """`until_ns` (a moment of CLOCK_MONOTONIC) for clocks; without `descriptors`: ready at once.

    Any of the descriptors makes it ready; where there are none of them, nothing ever does.
    `amount` is the event's byte count. As in Wasmtime it says 1 for whatever can be read or
    written, and for a relative sleep that is all there is to wait for. Not frozen: servers make
    one for each client, again and again.
    """

    userdata: int
    kind: int
    amount: int = 1
    until_ns: int | None = None
    descriptors: tuple[int, ...] | None = None
    file: OpenFile | None = None
    is_socket: bool = False
    is_hung_up: bool = False


def poll_oneoff(
    run: WasiRun, subscriptions_at: int, events_at: int, count: int, stored_at: int
) -> int:
    if not count:
        return errnos.INVAL
    if count > _MAX_SUBSCRIPTIONS:
        return errnos.NOMEM
    memory = run.memory
    memory.require(subscriptions_at, count * abi.SUBSCRIPTION_BYTES, 8)
    memory.require(events_at, count * abi.EVENT.size, 8)
    raw = memory.read(subscriptions_at, count * abi.SUBSCRIPTION_BYTES)
    subscriptions = [
        _parse_descriptor(run, *fields[:3])
        if fields[1] != abi.EVENTTYPE_CLOCK
        else _parse_clock(run, fields, count)
        for fields in abi.SUBSCRIPTION_CLOCK.iter_unpack(raw)
    ]
    ready = _wait(run, subscriptions)
    for index, subscription in enumerate(ready):
        memory.write(events_at + index * abi.EVENT.size, _event(subscription))
    memory.write_u32(stored_at, len(ready))
    return errnos.SUCCESS


def _parse_clock(run: WasiRun, fields: tuple[int, ...], count: int) -> _Subscription:
    userdata, kind, clock, timeout, _precision, flags = fields
    if clock >= abi.CLOCK_COUNT or flags & ~abi.SUBCLOCKFLAGS_ABSTIME:
        raise WasiError(errnos.INVAL)
    is_absolute = flags & abi.SUBCLOCKFLAGS_ABSTIME
    # A single relative sleep works on any clock, as in Wasmtime.
    if clock > abi.CLOCK_MONOTONIC and (is_absolute or count > 1):
        raise WasiError(errnos.INVAL)
    if not is_absolute:
        until_ns = time.monotonic_ns() + timeout
    elif clock == abi.CLOCK_MONOTONIC:
        until_ns = run.origin_ns + timeout
    else:
        until_ns = time.monotonic_ns() + max(timeout - time.time_ns(), 0)
    amount = 1 if count == 1 and not is_absolute else 0
    return _Subscription(userdata, kind, amount, until_ns=until_ns)


def _parse_descriptor(run: WasiRun, userdata: int, kind: int, number: int) -> _Subscription:
    # The descriptor's number lies where the clock's id does.
    if kind > abi.EVENTTYPE_FD_WRITE:
        raise WasiError(errnos.INVAL)
    entry = run.files.entries.get(number)
    if isinstance(entry, OpenSocket):
        descriptors = _socket_descriptors(entry, kind)
        return _Subscription(userdata, kind, descriptors=descriptors, is_socket=True)
    if isinstance(entry, OpenFile):
        if kind == abi.EVENTTYPE_FD_WRITE and not entry.may_write:
            raise WasiError(errnos.PERM)
        return _Subscription(userdata, kind, file=entry)
    expected = StandardInput if kind == abi.EVENTTYPE_FD_READ else StandardOutput
    if not isinstance(entry, expected):
        raise WasiError(errnos.BADF)
    descriptor = entry.stream.poll_descriptor()
    return _Subscription(userdata, kind, descriptors=None if descriptor < 0 else (descriptor,))


def _socket_descriptors(entry: OpenSocket, kind: int) -> tuple[int, ...] | None:
    """Where to wait for a socket; None where a call returns at once, if only with an error."""
    if entry.kernel is not None:
        return (entry.kernel.fileno(),)
    if kind == abi.EVENTTYPE_FD_WRITE:
        return () if entry.listening else None
    return tuple(entry.read_descriptors()) or None


def _wait(run: WasiRun, subscriptions: list[_Subscription]) -> list[_Subscription]:
    """Those that are ready, in order, at least one."""
    until_ns: int | None = None
    masks: dict[int, int] = {}
    for each in subscriptions:
        if each.descriptors is not None:
            mask = _poll_mask(each)
            for descriptor in each.descriptors:
                masks[descriptor] = masks.get(descriptor, 0) | mask
        else:  # without a moment it is ready already: only look at the rest
            moment = each.until_ns or 0
            until_ns = moment if until_ns is None else min(until_ns, moment)
    woken = run.control.wait(masks, until_ns)
    now_ns = time.monotonic_ns()
    return [each for each in subscriptions if _is_ready(each, woken, now_ns)]


def _poll_mask(subscription: _Subscription) -> int:
    return select.POLLIN if subscription.kind == abi.EVENTTYPE_FD_READ else select.POLLOUT


def _is_ready(subscription: _Subscription, woken: dict[int, int], now_ns: int) -> bool:
    if subscription.until_ns is not None:
        return subscription.until_ns <= now_ns
    if subscription.descriptors is None:
        return True
    seen = 0
    for descriptor in subscription.descriptors:
        seen |= woken.get(descriptor, 0)
    subscription.is_hung_up = subscription.is_socket and bool(seen & select.POLLHUP)
    return bool(seen & (_poll_mask(subscription) | _ENDED))


def _event(subscription: _Subscription) -> bytes:
    flags = abi.EVENTRWFLAGS_HANGUP if subscription.is_hung_up else 0
    file = subscription.file
    if file is not None and subscription.kind == abi.EVENTTYPE_FD_READ:
        size = os.fstat(file.descriptor).st_size
        flags = abi.EVENTRWFLAGS_HANGUP if size <= file.position else 0
    return abi.EVENT.pack(
        subscription.userdata, errnos.SUCCESS, subscription.kind, subscription.amount, flags
    )
