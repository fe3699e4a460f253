"""How runs end, on every engine."""

from __future__ import annotations

import pytest
from contract_runs import WASI, Loader, invoke, run_and_read

from limpet.engine.protocol import OutcomeKind

EXIT_WITH = f"""
  (import "{WASI}" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start") (call $exit (i32.const %d)))"""
ENTRY = '(memory (export "memory") 1) (func (export "_start") %s)'


def test_returning_is_exit_0(load: Loader) -> None:
    outcome = load.wat(ENTRY % "").run(invoke())
    assert (outcome.kind, outcome.exit_code, outcome.message) == (OutcomeKind.EXIT, 0, "")
    assert outcome.memory_bytes == 65536


def test_without_a_memory(load: Loader) -> None:
    outcome = load.wat('(func (export "_start"))').run(invoke())
    assert (outcome.kind, outcome.memory_bytes) == (OutcomeKind.EXIT, 0)


@pytest.mark.parametrize("code", [0, 1, 2, 125])
def test_exit_codes(load: Loader, code: int) -> None:
    outcome = load.wat(EXIT_WITH % code).run(invoke())
    assert (outcome.kind, outcome.exit_code) == (OutcomeKind.EXIT, code)


@pytest.mark.parametrize("code", [126, 255, 300, -1])
def test_exit_codes_out_of_range_are_traps(load: Loader, code: int) -> None:
    outcome = load.wat(EXIT_WITH % code).run(invoke())
    assert outcome.kind is OutcomeKind.TRAP
    assert "exit status" in outcome.message


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("unreachable", "unreachable"),
        ("(drop (i32.load (i32.const 65536)))", "out of bounds memory access"),
        ("(drop (i32.load offset=4294967295 (i32.const 9)))", "out of bounds memory access"),
        ("(drop (i32.div_u (i32.const 1) (i32.const 0)))", "divide by zero"),
        ("(drop (i32.trunc_f32_s (f32.const nan)))", "invalid conversion"),
        (
            "(drop (i32.div_s (i32.const 0x80000000) (i32.const -1)))",
            "integer overflow",
        ),
    ],
)
def test_traps_name_their_reason(load: Loader, body: str, text: str) -> None:
    outcome = load.wat(ENTRY % body).run(invoke())
    assert outcome.kind is OutcomeKind.TRAP
    assert text in outcome.message
    assert "\n" not in outcome.message


def test_a_trap_names_its_function(load: Loader) -> None:
    if load.engine.name == "wasmedge":
        pytest.skip("WasmEdge's C API does not say where a guest trapped")
    outcome = load.wat('(func $inner unreachable) (func (export "_start") (call $inner))').run(
        invoke()
    )
    assert outcome.message.endswith("in inner")


def test_infinite_recursion(load: Loader) -> None:
    if load.engine.name == "wasmedge":
        pytest.skip("WasmEdge has no limit on a guest's stack: test_wasmedge_stack.py")
    program = load.wat('(func $f (call $f)) (func (export "_start") (call $f))')
    for _ in range(3):
        outcome = program.run(invoke())
        assert outcome.kind is OutcomeKind.TRAP
        assert "call stack exhausted" in outcome.message


def test_memory_grows_to_its_limit_and_no_further(load: Loader) -> None:
    program = load.wat(
        f"""(import "{WASI}" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1)
        (func (export "_start")
          (if (i32.ne (memory.grow (i32.const 15)) (i32.const 1)) (then unreachable))
          (if (i32.ne (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable))
          (i32.store (i32.const 1048572) (i32.const 1))
          (call $exit (memory.size)))""",
        memory_bytes=1 << 20,
    )
    outcome = program.run(invoke())
    assert (outcome.kind, outcome.exit_code) == (OutcomeKind.EXIT, 16)
    assert outcome.memory_bytes == 1 << 20


def test_a_guest_that_grows_for_ever_ends_by_itself(load: Loader) -> None:
    program = load.wat(
        """(memory (export "memory") 1) (func (export "_start") (local $at i32)
        (loop $more
          (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable))
          (local.set $at (i32.mul (memory.size) (i32.const 65536)))
          (i32.store (i32.sub (local.get $at) (i32.const 4)) (i32.const 1))
          (br $more)))""",
        memory_bytes=8 << 20,
    )
    outcome = program.run(invoke(deadline_seconds=60))
    assert outcome.kind is OutcomeKind.OUT_OF_MEMORY
    assert "8.0 MiB" in outcome.message
    assert outcome.memory_bytes == 8 << 20


def test_aborting_far_from_the_limit_is_an_ordinary_trap(load: Loader) -> None:
    outcome = load.wat(ENTRY % "unreachable").run(invoke())
    assert outcome.kind is OutcomeKind.TRAP


def test_aborting_half_way_to_the_limit_mentions_memory(load: Loader) -> None:
    program = load.wat(
        '(memory (export "memory") 10) (func (export "_start") '
        "(drop (memory.grow (i32.const 1000))) unreachable)",
        memory_bytes=1 << 20,
    )
    outcome = program.run(invoke())
    assert outcome.kind is OutcomeKind.TRAP
    assert "growth was refused" in outcome.message


def test_tables_grow_to_their_limit(load: Loader) -> None:
    program = load.wat(
        f"""(import "{WASI}" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1) (table 1 funcref)
        (func (export "_start")
          (call $exit (i32.ne (table.grow (ref.null func) (i32.const 100000)) (i32.const -1))))"""
    )
    assert program.run(invoke()).exit_code == 0


def test_output_beyond_its_limit_is_a_trap_that_says_so(load: Loader) -> None:
    program = load.c("flood")
    from limpet.wasi.streams import BufferOutput

    stdout = BufferOutput(100_000)
    outcome = program.run(invoke(stdout=stdout))
    assert outcome.kind is OutcomeKind.TRAP
    assert outcome.message == "wrote more than 100000 bytes to stdout"
    assert stdout.getvalue() == b"x" * 100_000
    # A gigabyte, for an output that takes it, one block at a time.
    outcome = program.run(invoke(stdout=Discarding(), deadline_seconds=120))
    assert (outcome.kind, outcome.exit_code) == (OutcomeKind.EXIT, 0)


def test_a_fault_in_a_stream_ends_the_guest_and_not_the_host(load: Loader) -> None:
    outcome, _ = run_and_read(load.c("put"), stderr=Discarding())
    assert outcome.kind is OutcomeKind.EXIT
    faulty = Faulty(ZeroDivisionError("oops"))
    outcome = load.c("put").run(invoke(stdout=faulty))
    assert outcome.kind is OutcomeKind.TRAP
    assert "ZeroDivisionError: oops" in outcome.message


def test_a_signal_to_the_host_is_passed_on(load: Loader) -> None:
    program = load.c("put")
    with pytest.raises(KeyboardInterrupt):
        program.run(invoke(stdout=Faulty(KeyboardInterrupt())))
    assert run_and_read(program)[1] == b"x\n"


class Discarding:
    def write(self, data: bytes, waiter: object) -> None:
        pass

    def poll_descriptor(self) -> int:
        return -1

    def is_terminal(self) -> bool:
        return False


class Faulty(Discarding):
    def __init__(self, fault: BaseException) -> None:
        self.fault = fault

    def write(self, data: bytes, waiter: object) -> None:
        raise self.fault
