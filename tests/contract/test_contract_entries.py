"""A program may begin at another export than `_start`; what it returns is its exit code."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from contract_runs import invoke, load_bytes

from limpet.engine.protocol import Limits, ModuleError, OutcomeKind

if TYPE_CHECKING:
    from contract_runs import Loader

    from limpet.engine.protocol import Outcome

_MODULE = """
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (global $calls (mut i32) (i32.const 0))
  (func (export "_start") (unreachable))
  (func (export "well") (result i32) (i32.const 0))
  (func (export "sick") (result i32) (i32.const 7))
  (func (export "largest") (result i32) (i32.const -1))
  (func (export "silent"))
  (func (export "trapping") (result i32) (unreachable))
  (func (export "exiting") (call $exit (i32.const 3)))
  (func (export "endless") (loop $again (br $again)))
  (func (export "counting") (result i32)
    (global.set $calls (i32.add (global.get $calls) (i32.const 1))) (global.get $calls))
  (func (export "asking") (param i32))
"""


def run(load: Loader, entry: str, times: int = 1) -> Outcome:
    limits = Limits(memory_bytes=1 << 20)
    program = load_bytes(load.engine, load.compile(_MODULE), limits, entry)
    for _ in range(times - 1):
        program.run(invoke())
    return program.run(invoke(deadline_seconds=0.2 if entry == "endless" else None))


@pytest.mark.parametrize(
    ("entry", "code"),
    [("well", 0), ("sick", 7), ("largest", (1 << 32) - 1), ("silent", 0), ("exiting", 3)],
)
def test_what_an_entry_returns_is_the_exit_code(load: Loader, entry: str, code: int) -> None:
    outcome = run(load, entry)
    assert (outcome.kind, outcome.exit_code) == (OutcomeKind.EXIT, code)


def test_an_entry_ends_as_any_run_does(load: Loader) -> None:
    assert run(load, "trapping").kind is OutcomeKind.TRAP
    assert run(load, "endless").kind is OutcomeKind.DEADLINE


def test_every_run_has_an_instance_of_its_own(load: Loader) -> None:
    assert run(load, "counting", times=3).exit_code == 1


@pytest.mark.parametrize("entry", ["absent", "memory"])
def test_an_entry_that_is_no_function_is_refused(load: Loader, entry: str) -> None:
    with pytest.raises(ModuleError, match=f"exports no function {entry}"):
        run(load, entry)


def test_an_entry_that_wants_arguments_is_never_called(load: Loader) -> None:
    try:
        outcome = run(load, "asking")
    except ModuleError as error:
        assert "must take nothing" in str(error)  # noqa: PT017 - engines tell at different times
    else:
        assert outcome.kind is OutcomeKind.TRAP
