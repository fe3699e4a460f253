"""Stopping real guests by the executor's flag: it hits the run that it is meant for, and no other."""

from __future__ import annotations

import os
import random
import threading

import pytest
from contract_runs import WASI, Loader, interrupted_soon, invoke

from limpet.engine.protocol import OutcomeKind

# Counts to a number, which takes about as long as the deadlines below.
COUNT = """
  (memory (export "memory") 1)
  (func (export "_start") (local $left i32)
    (local.set $left (i32.const %d))
    (loop $l
      (br_if $l (local.tee $left (i32.sub (local.get $left) (i32.const 1))))))"""
LEAVE = f"""
  (import "{WASI}" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1) (func (export "_start") (call $exit (i32.const 5)))"""


@pytest.mark.parametrize("count", [1, 20_000, 200_000])
def test_a_late_stop_hits_no_later_run(load: Loader, count: int) -> None:
    """Deadlines around the time that a run takes; what follows has plenty of time."""
    program, leave = load.wat(COUNT % count), load.wat(LEAVE)
    kinds = set()
    chance = random.Random(1)
    for _ in range(150):
        outcome = program.run(invoke(deadline_seconds=chance.expovariate(2000)))
        kinds.add(outcome.kind)
        assert outcome.kind in {OutcomeKind.EXIT, OutcomeKind.DEADLINE}
        assert program.run(invoke(deadline_seconds=60)).kind is OutcomeKind.EXIT
        assert leave.run(invoke(deadline_seconds=0.0001)).kind in {
            OutcomeKind.EXIT,
            OutcomeKind.DEADLINE,
        }
        assert leave.run(invoke()).exit_code == 5
    assert kinds <= {OutcomeKind.EXIT, OutcomeKind.DEADLINE}


def test_interrupts_without_end_hit_only_what_runs(load: Loader) -> None:
    program, other = load.wat(COUNT % 20_000), load.wat(COUNT % 20_000)
    is_over = threading.Event()

    def interrupt() -> None:
        while not is_over.is_set():
            program.interrupt()

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        kinds = set()
        for _ in range(200):
            kinds.add(program.run(invoke(deadline_seconds=60)).kind)
            assert other.run(invoke(deadline_seconds=60)).kind is OutcomeKind.EXIT
    finally:
        is_over.set()
        thread.join()
    assert kinds <= {OutcomeKind.EXIT, OutcomeKind.INTERRUPTED}
    assert program.run(invoke()).kind is OutcomeKind.EXIT


def test_no_thread_until_a_deadline_is_set(load: Loader) -> None:
    def check() -> None:
        program = load.wat(COUNT % 10)
        for _ in range(3):
            assert program.run(invoke()).kind is OutcomeKind.EXIT
        assert len(os.listdir("/proc/self/task")) == 1
        assert program.run(invoke(deadline_seconds=60)).kind is OutcomeKind.EXIT
        assert len(os.listdir("/proc/self/task")) == 2

    load.wat(COUNT % 10)
    _in_child(check)


def test_a_program_that_was_stopped_goes_on_in_a_forked_child(load: Loader) -> None:
    """Its handle was made before the fork, and is of use after it."""
    program = load.wat(COUNT % 2_000_000_000)
    assert program.run(invoke(deadline_seconds=0.01)).kind is OutcomeKind.DEADLINE

    def check() -> None:
        assert program.run(invoke(deadline_seconds=0.01)).kind is OutcomeKind.DEADLINE
        with interrupted_soon(program):
            assert program.run(invoke()).kind is OutcomeKind.INTERRUPTED

    _in_child(check)
    check()


def test_a_failed_start_leaves_nothing_behind(load: Loader) -> None:
    """The store keeps such an instance until the next one: its 12 GiB of addresses are seen."""
    program = load.wat(
        '(memory (export "memory") 1) (func $s unreachable) (start $s) (func (export "_start"))'
    )
    program.run(invoke())
    before = _reserved_bytes()
    for _ in range(20):
        assert program.run(invoke()).kind is OutcomeKind.TRAP
    assert _reserved_bytes() - before < 1 << 30


def _reserved_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _in_child(check: object) -> None:
    child = os.fork()
    if not child:
        code = 1
        try:
            check()  # type: ignore[operator]
            code = 0
        except BaseException as error:
            os.write(2, repr(error).encode())
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
