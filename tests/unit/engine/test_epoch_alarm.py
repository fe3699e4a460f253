"""The one-shot alarm: when it is set, and that it moves the epoch without Python."""

from __future__ import annotations

import ctypes
import os
import time
from typing import TYPE_CHECKING

from limpet.engine.wasmtime import binding
from limpet.engine.wasmtime.deadline import EpochAlarm

if TYPE_CHECKING:
    import pytest

MS = 1_000_000


class Recorded(EpochAlarm):
    def __init__(self) -> None:
        super().__init__(0)
        self.set_to: list[int] = []

    def _set(self, deadline_ns: int) -> None:
        self.set_to.append(deadline_ns)


def test_an_earlier_alarm_that_is_pending_serves_a_later_deadline() -> None:
    alarm = Recorded()
    alarm.ensure(100, 1)
    alarm.ensure(150, 50)
    assert alarm.set_to == [100]


def test_a_later_alarm_is_replaced_by_an_earlier_one() -> None:
    alarm = Recorded()
    alarm.ensure(100, 1)
    alarm.ensure(80, 50)
    assert alarm.set_to == [100, 80]


def test_an_alarm_that_has_fired_is_set_again() -> None:
    alarm = Recorded()
    alarm.ensure(100, 1)
    alarm.ensure(300, 100)
    alarm.ensure(300, 101)
    assert alarm.set_to == [100, 300]


def test_a_steady_load_sets_it_once_for_each_deadline_s_length() -> None:
    alarm = Recorded()
    for now in range(0, 10_000, 10):
        alarm.ensure(now + 1000, now)
    assert len(alarm.set_to) == 10


def test_a_forked_child_makes_its_own() -> None:
    alarm = Recorded()
    alarm.ensure(100, 1)
    child = os.fork()
    if not child:
        os._exit(0 if alarm.expires_ns == 0 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert alarm.expires_ns == 100


def test_it_fires_while_the_interpreter_lock_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """The expiry calls a C function itself: nothing of Python's has to run."""
    libc = ctypes.PyDLL(None)
    address = ctypes.cast(libc.time, ctypes.c_void_p).value  # time(2) writes where it is told to
    monkeypatch.setattr(binding, "engine_increment_epoch_address", address)
    written = ctypes.c_int64()
    alarm = EpochAlarm(ctypes.addressof(written))
    now_ns = time.monotonic_ns()
    alarm.ensure(now_ns + 20 * MS, now_ns)
    give_up = time.monotonic() + 5
    while not written.value and time.monotonic() < give_up:
        libc.usleep(5000)
    assert written.value > 0
    assert time.monotonic_ns() >= now_ns + 20 * MS
