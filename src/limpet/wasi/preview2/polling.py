"""`wasi:io/poll`: waiting for any of several things."""

from __future__ import annotations

import select
from time import monotonic_ns
from typing import TYPE_CHECKING

from limpet.wasi.endings import GuestTrap
from limpet.wasi.preview2.interface import Interface
from limpet.wasi.preview2.resources import Resource
from limpet.wasi.preview2.types import BOOL, U32, Borrow, List

if TYPE_CHECKING:
    from collections.abc import Callable

    from limpet.wasi.preview2.run import ComponentRun

# Whatever was asked for, these mean that a read or write returns at once.
_ENDED = select.POLLHUP | select.POLLERR | select.POLLNVAL


class Pollable(Resource):
    """Something to wait for; this one is ready already.

    `events` are descriptors and masks of poll(2), one of which must show; `until_ns` is a moment of
    CLOCK_MONOTONIC. A pollable may outlive what it came from: it must then be ready, or never be.
    """

    __slots__ = ()

    def events(self) -> dict[int, int] | None:
        """What to wait for; None when there is nothing to wait for any more."""
        return None

    def until_ns(self) -> int | None:
        return None


class MomentPollable(Pollable):
    __slots__ = ("_until_ns",)

    def __init__(self, until_ns: int) -> None:
        self._until_ns = until_ns

    def events(self) -> dict[int, int] | None:
        return {} if monotonic_ns() < self._until_ns else None

    def until_ns(self) -> int | None:
        return self._until_ns


class DescriptorPollable(Pollable):
    """Ready when poll(2) says so of the descriptor that `find` returns, or when that is -1."""

    __slots__ = ("_find", "_mask")

    def __init__(self, find: Callable[[], int], mask: int) -> None:
        self._find = find
        self._mask = mask

    def events(self) -> dict[int, int] | None:
        descriptor = self._find()
        return {descriptor: self._mask} if descriptor >= 0 else None


POLL = Interface("pollable")
_POLLABLE = Borrow("pollable")


def wait_for(
    run: ComponentRun, pollables: list[Pollable], until_ns: int | None = None
) -> list[int]:
    """Wait for one at least, or for the moment `until_ns`; the places of those that are ready."""
    masks: dict[int, int] = {}
    events = [each.events() for each in pollables]
    moments = [] if until_ns is None else [until_ns]
    for pollable, wanted in zip(pollables, events, strict=True):
        if wanted is None:
            moments.append(0)  # ready already: only look at the rest
            continue
        for descriptor, mask in wanted.items():
            masks[descriptor] = masks.get(descriptor, 0) | mask
        moment = pollable.until_ns()
        if moment is not None:
            moments.append(moment)
    woken: dict[int, int] = {}
    if masks or not moments or min(moments):
        woken = run.control.wait(masks, min(moments) if moments else None)
    else:
        run.control.check()
    return [
        place
        for place, (pollable, wanted) in enumerate(zip(pollables, events, strict=True))
        if wanted is None or _is_ready(pollable, wanted, woken)
    ]


def _is_ready(pollable: Pollable, wanted: dict[int, int], woken: dict[int, int]) -> bool:
    until_ns = pollable.until_ns()
    if until_ns is not None and until_ns <= monotonic_ns():
        return True
    return any(woken.get(each, 0) & (mask | _ENDED) for each, mask in wanted.items())


@POLL.function("[method]pollable.ready", _POLLABLE, returns=BOOL)
def pollable_ready(run: ComponentRun, pollable: Pollable) -> bool:
    return bool(wait_for(run, [pollable], until_ns=0))


@POLL.function("[method]pollable.block", _POLLABLE)
def pollable_block(run: ComponentRun, pollable: Pollable) -> None:
    while not wait_for(run, [pollable]):
        pass


@POLL.function("poll", List(_POLLABLE), returns=List(U32))
def poll(run: ComponentRun, pollables: list[Pollable]) -> list[int]:
    if not pollables:
        raise GuestTrap("poll: there is nothing to wait for")
    while not (ready := wait_for(run, pollables)):
        pass
    return ready
