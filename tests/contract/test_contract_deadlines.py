"""Ending guests from outside: deadlines, and interrupts from another thread."""

from __future__ import annotations

import os
import time

import pytest
from contract_runs import WASI, Loader, interrupted_soon, invoke, lasting_at_most

from limpet.engine.protocol import Invocation, OutcomeKind
from limpet.wasi.streams import DescriptorInput, DescriptorOutput

SPIN = '(memory (export "memory") 1) (func (export "_start") (loop $l (br $l)))'
SLEEP = f"""
  (import "{WASI}" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (i32.store (i32.const 16) (i32.const 1))
    (i64.store (i32.const 24) (i64.const 3600000000000))
    (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128))))"""
READ = f"""
  (import "{WASI}" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 16))
    (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8))))"""
WRITE = f"""
  (import "{WASI}" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 16)
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 1000000))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))"""
# Host calls in a loop: neither is asleep for long.
NAP = f"""
  (import "{WASI}" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (i32.store (i32.const 16) (i32.const 1))
    (i64.store (i32.const 24) (i64.const 100000))
    (loop $l
      (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))
      (br $l)))"""
WAYS = {"spin": SPIN, "sleep": SLEEP, "read": READ, "write": WRITE, "nap": NAP}


def _blocking(
    way: str, pipe: tuple[int, int], *, is_blocking: bool, **changes: object
) -> Invocation:
    reader, writer = pipe
    if way == "read":
        os.set_blocking(reader, is_blocking)
        return invoke(stdin=DescriptorInput(reader), **changes)
    if way == "write":
        os.set_blocking(writer, is_blocking)
        return invoke(stdout=DescriptorOutput(writer), **changes)
    return invoke(**changes)


@pytest.mark.parametrize("is_blocking", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_deadline(load: Loader, pipe: tuple[int, int], way: str, *, is_blocking: bool) -> None:
    program = load.wat(WAYS[way])
    start = time.monotonic()
    outcome = program.run(_blocking(way, pipe, is_blocking=is_blocking, deadline_seconds=0.1))
    took = time.monotonic() - start
    assert outcome.kind is OutcomeKind.DEADLINE
    assert 0.1 <= took < 5


@pytest.mark.parametrize("is_blocking", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_interrupt(load: Loader, pipe: tuple[int, int], way: str, *, is_blocking: bool) -> None:
    program = load.wat(WAYS[way])
    with lasting_at_most(5), interrupted_soon(program):
        outcome = program.run(_blocking(way, pipe, is_blocking=is_blocking, deadline_seconds=60))
    assert outcome.kind is OutcomeKind.INTERRUPTED


def test_interrupt_without_a_run_does_nothing(load: Loader) -> None:
    program = load.wat('(memory (export "memory") 1) (func (export "_start"))')
    program.interrupt()
    assert program.run(invoke()).kind is OutcomeKind.EXIT
    program.interrupt()
    assert program.run(invoke(deadline_seconds=5)).kind is OutcomeKind.EXIT


def test_interrupt_without_a_deadline(load: Loader) -> None:
    program = load.wat(SPIN)
    with interrupted_soon(program):
        assert program.run(invoke()).kind is OutcomeKind.INTERRUPTED


def test_every_run_has_its_own_deadline(load: Loader) -> None:
    """Longer, shorter, none and long idle in between: one alarm serves them all."""
    spin = load.wat(SPIN)
    nothing = load.wat('(memory (export "memory") 1) (func (export "_start"))')
    for seconds in (0.05, 30, None, 0.2, 0.01, 0.05):
        assert nothing.run(invoke(deadline_seconds=seconds)).kind is OutcomeKind.EXIT
        start = time.monotonic()
        limit = seconds if seconds is not None and seconds < 1 else 0.03
        assert spin.run(invoke(deadline_seconds=limit)).kind is OutcomeKind.DEADLINE
        assert limit <= time.monotonic() - start < 5


def test_a_deadline_in_the_past(load: Loader) -> None:
    assert load.wat(SPIN).run(invoke(deadline_seconds=0)).kind is OutcomeKind.DEADLINE


def test_a_run_that_ends_before_its_deadline_is_left_alone(load: Loader) -> None:
    """The alarm of an earlier run fires during a later one, which goes on."""
    count = load.wat(
        f"""(import "{WASI}" "clock_time_get" (func $now (param i32 i64 i32) (result i32)))
        (memory (export "memory") 1)
        (func (export "_start")
          (loop $l
            (drop (call $now (i32.const 1) (i64.const 0) (i32.const 0)))
            (br_if $l (i64.lt_u (i64.load (i32.const 0)) (i64.const 150000000)))))"""
    )
    nothing = load.wat('(memory (export "memory") 1) (func (export "_start"))')
    nothing.run(invoke(deadline_seconds=0.05))
    assert count.run(invoke(deadline_seconds=20)).kind is OutcomeKind.EXIT
    nothing.run(invoke(deadline_seconds=0.05))
    assert count.run(invoke()).kind is OutcomeKind.EXIT


def test_a_long_start_function_obeys_the_deadline(load: Loader) -> None:
    program = load.wat(
        '(memory (export "memory") 1) (func $s (loop $l (br $l))) (start $s) '
        '(func (export "_start"))'
    )
    assert program.run(invoke(deadline_seconds=0.05)).kind is OutcomeKind.DEADLINE
