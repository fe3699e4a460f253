"""Waiting that obeys a deadline and an interrupt."""

from __future__ import annotations

import os
import select
import threading
import time

import pytest

from limpet.wasi.control import Control
from limpet.wasi.endings import GuestDeadline, GuestInterrupted

MS = 1_000_000


def _started(deadline_ms: int | None = None) -> Control:
    control = Control()
    control.begin(0 if deadline_ms is None else time.monotonic_ns() + deadline_ms * MS)
    return control


@pytest.mark.parametrize("ms", [0, 1, 5, 30])
def test_sleeping_until_a_moment(ms: int) -> None:
    control = _started()
    until = time.monotonic_ns() + ms * MS
    assert control.wait({}, until) == {}
    assert until <= time.monotonic_ns() < until + 5000 * MS
    control.close()


def test_what_is_ready_is_returned_at_once() -> None:
    control = _started()
    reader, writer = os.pipe()
    assert control.wait({writer: select.POLLOUT, reader: select.POLLIN}, None) == {
        writer: select.POLLOUT
    }
    assert control.wait({reader: select.POLLIN}, time.monotonic_ns()) == {}
    os.write(writer, b"x")
    control.wait_readable(reader)
    for descriptor in (reader, writer):
        os.close(descriptor)
    control.close()


@pytest.mark.parametrize("until_ms", [None, 1, 60_000])
def test_the_deadline_ends_any_wait(until_ms: int | None) -> None:
    control = _started(20)
    reader, writer = os.pipe()
    until = None if until_ms is None else time.monotonic_ns() + until_ms * MS
    if until_ms == 1:
        assert control.wait({}, until) == {}
    with pytest.raises(GuestDeadline):
        control.wait({reader: select.POLLIN}, None)
    with pytest.raises(GuestDeadline):
        control.wait({}, until)
    for descriptor in (reader, writer):
        os.close(descriptor)
    control.close()


def test_an_interrupt_ends_any_wait() -> None:
    control = _started()
    timer = threading.Timer(0.05, control.interrupt)
    timer.start()
    with pytest.raises(GuestInterrupted):
        control.wait({}, time.monotonic_ns() + 60_000 * MS)
    timer.join()
    # What is left of it does not disturb the next run.
    control.begin(0)
    assert control.wait({}, time.monotonic_ns() + 5 * MS) == {}
    control.close()


def test_an_interrupt_before_the_wait_is_not_lost() -> None:
    control = _started()
    assert control.interrupt()
    with pytest.raises(GuestInterrupted):
        control.wait({}, None)
    control.close()


def test_an_interrupt_between_runs_does_nothing() -> None:
    control = Control()
    assert not control.interrupt()
    control.begin(0)
    control.check()
    control.end()
    assert not control.interrupt()


def test_very_long_sleeps_are_cut_into_pieces() -> None:
    control = _started(20)
    with pytest.raises(GuestDeadline):
        control.wait({}, 1 << 64)
    control.close()


def test_a_forked_child_wakes_itself_and_not_its_parent() -> None:
    control = _started()
    control.wait({}, time.monotonic_ns())
    child = os.fork()
    if not child:
        timer = threading.Timer(0.05, control.interrupt)
        timer.start()
        try:
            control.wait({}, time.monotonic_ns() + 60_000 * MS)
        except GuestInterrupted:
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    control.check()
    assert control.wait({}, time.monotonic_ns() + MS) == {}
    control.close()


def test_an_interrupt_that_came_too_late_is_forgotten() -> None:
    """It may reach the wake descriptor after the run that it was meant for."""
    control = _started()
    control.wait({}, 0)
    os.eventfd_write(control._wake, 1)
    control.begin(0)
    reader, writer = os.pipe()
    assert control.wait({reader: select.POLLIN}, time.monotonic_ns() + 5 * MS) == {}
    assert not select.select([control._wake], [], [], 0)[0], "else every later wait would spin"
    os.close(reader)
    os.close(writer)
    control.close()
