"""Calls without end. WasmEdge bounds neither the stack of compiled code nor that of its interpreter.

Compiled code runs into the guard page of its thread's stack. WasmEdge's handler of SIGSEGV asks for no
stack of its own, so the kernel ends the process; it is as well, for to jump out of whatever was running
there, Python's C code perhaps, would leave it in pieces. The interpreter goes on until a limit on memory
ends the process, or the run's deadline or cost ends the run.
"""

from __future__ import annotations

import faulthandler
import os
import resource
import signal
from pathlib import Path

from contract_runs import Loader, invoke

from limpet.engine.protocol import OutcomeKind, Program

# What follows the call keeps compilers from making a loop of it.
RECURSE = """
  (memory (export "memory") 1)
  (func $f (call $f)
    (i32.store (i32.const 0) (i32.add (i32.load (i32.const 0)) (i32.const 1))))
  (func (export "_start") (call $f))"""
_MORE_BYTES = 512 << 20


def test_the_process_ends_by_a_signal(load: Loader) -> None:
    expected = signal.SIGABRT if load.options.is_interpreted else signal.SIGSEGV
    assert _run_in_child(load.wat(RECURSE)) == -expected


def test_a_limit_on_cost_comes_first_when_it_is_small(load: Loader) -> None:
    for _ in range(3):
        assert load.wat(RECURSE, cost=10_000).run(invoke()).kind is OutcomeKind.COST


def _run_in_child(program: Program) -> int:
    """How a child ends that runs it: 0 when it did not end by the run."""
    child = os.fork()
    if not child:
        try:
            faulthandler.disable()
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            pages = int(Path("/proc/self/statm").read_text().split()[5])
            limit = pages * resource.getpagesize() + _MORE_BYTES
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
            os.close(2)  # where the C++ runtime writes why it ends the process
            program.run(invoke(deadline_seconds=60))
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
