"""Limits on the work that one run may do."""

from __future__ import annotations

import time

import pytest
from contract_runs import WASI, Loader, invoke, load_bytes, run_and_read

from limpet.engine.protocol import Limits, ModuleError, OutcomeKind

SPIN = '(memory (export "memory") 1) (func (export "_start") (loop $l (br $l)))'
NOTHING = '(memory (export "memory") 1) (func (export "_start"))'
COUNT = """
  (memory (export "memory") 1)
  (func (export "_start") (local $left i32)
    (local.set $left (i32.const %d))
    (loop $l
      (br_if $l (local.tee $left (i32.sub (local.get $left) (i32.const 1))))))"""
LIMITS = Limits(memory_bytes=1 << 20)


def test_work_without_end_is_ended(load: Loader) -> None:
    outcome = load.wat(SPIN, cost=100_000).run(invoke(deadline_seconds=60))
    assert outcome.kind is OutcomeKind.COST
    assert "100000" in outcome.message
    assert outcome.memory_bytes == 65536


def test_every_run_has_the_whole_of_it(load: Loader) -> None:
    program = load.wat(COUNT % 10_000, cost=100_000)
    for _ in range(20):
        assert program.run(invoke()).kind is OutcomeKind.EXIT


def test_more_work_costs_more(load: Loader) -> None:
    assert load.wat(COUNT % 1_000, cost=50_000).run(invoke()).kind is OutcomeKind.EXIT
    assert load.wat(COUNT % 100_000, cost=50_000).run(invoke()).kind is OutcomeKind.COST


def test_a_run_after_one_that_was_ended(load: Loader) -> None:
    program = load.c("put_and_call", cost=1_000_000)
    for _ in range(3):
        outcome, _ = run_and_read(program, args=(b"guest", b"spin"), deadline_seconds=60)
        assert outcome.kind is OutcomeKind.COST
        outcome, output = run_and_read(program, args=(b"guest",))
        assert (outcome.kind, output) == (OutcomeKind.EXIT, b"on\n")


def test_a_start_function_is_counted(load: Loader) -> None:
    program = load.wat(
        '(memory (export "memory") 1) (func $s (loop $l (br $l))) (start $s) '
        '(func (export "_start"))',
        cost=100_000,
    )
    assert program.run(invoke(deadline_seconds=60)).kind is OutcomeKind.COST


def test_deadlines_and_exits_go_on_as_without(load: Loader) -> None:
    spin = load.wat(SPIN, cost=(1 << 64) - 1)
    start = time.monotonic()
    assert spin.run(invoke(deadline_seconds=0.05)).kind is OutcomeKind.DEADLINE
    assert time.monotonic() - start >= 0.05
    leave = load.wat(
        f'(import "{WASI}" "proc_exit" (func $exit (param i32))) (memory (export "memory") 1) '
        '(func (export "_start") (call $exit (i32.const 3)))',
        cost=1000,
    )
    assert leave.run(invoke()).exit_code == 3


def test_a_limit_goes_with_an_artifact_that_counts(load: Loader) -> None:
    limited = Limits(memory_bytes=1 << 20, cost=1000)
    plain, metered = load.compile(NOTHING), load.compile(NOTHING, is_metered=True)
    with pytest.raises(ModuleError, match="compile the module again, with "):
        load_bytes(load.engine, plain, limited)
    with pytest.raises(ModuleError, match="compile the module again, without "):
        load_bytes(load.engine, metered, LIMITS)
    assert load_bytes(load.engine, metered, limited).run(invoke()).kind is OutcomeKind.EXIT


def test_a_trap_is_a_trap(load: Loader) -> None:
    program = load.wat(
        '(memory (export "memory") 1) (func (export "_start") unreachable)', cost=1000
    )
    assert program.run(invoke()).kind is OutcomeKind.TRAP
