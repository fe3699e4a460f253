"""How a component's run ends, and what it is given."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from component_builds import adapt, boolector, build_c_component
from component_runs import load, run, running, wat
from contract_runs import interrupted_soon, invoke, lasting_at_most
from guest_builds import parse_wat

from limpet.engine.protocol import Limits, ModuleError, OutcomeKind, Preopen
from limpet.engine.wasmtime.engine import WasmtimeEngine
from limpet.engine.wasmtime.settings import EngineSettings
from limpet.wasi.streams import BufferOutput, BytesInput, DescriptorInput

if TYPE_CHECKING:
    from pathlib import Path

    from limpet.engine.protocol import Engine

_HELLO = """
#include <stdio.h>
#include <stdlib.h>
int main(int argc, char **argv) {
  char line[100];
  printf("%d %s %s\\n", argc, argv[1], getenv("NAME"));
  FILE *file = fopen("/data/in.txt", "r");
  printf("%s\\n", fgets(line, sizeof line, file));
  file = fopen("/data/out.txt", "w");
  if (file) fputs("written", file), fclose(file);
  else perror("out.txt");
  while (fgets(line, sizeof line, stdin)) printf("in: %s", line);
  return atoi(argv[2]);
}
"""

_FORMULA = b"""
(set-logic QF_BV)
(declare-const x (_ BitVec 16))
(declare-const y (_ BitVec 16))
(assert (= (bvmul x y) #x2711))
(assert (bvult #x0001 x))
(assert (bvult x y))
(assert (bvult y #x00ff))
(check-sat)
"""

_EXIT = """
  (import "wasi:cli/exit@{version}" (instance $exit
    (export "exit-with-code" (func (param "status-code" u8)))))
  (core func $lowered (canon lower (func $exit "exit-with-code")))
  (core module $m
    (import "host" "exit" (func $exit (param i32)))
    (func (export "run") (result i32) (call $exit (i32.const 42)) (i32.const 0)))
  (core instance $i (instantiate $m
    (with "host" (instance (export "exit" (func $lowered))))))
"""


@pytest.mark.parametrize(("is_read_only", "code"), [(False, 0), (True, 3)])
def test_a_command(engine: Engine, tmp_path: Path, is_read_only: bool, code: int) -> None:
    (tmp_path / "in.txt").write_text("from a file")
    directory = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        outcome, output = run(
            load(engine, build_c_component(_HELLO)),
            b"first",
            b"%d" % code,
            env=[b"NAME=value"],
            stdin=BytesInput(b"one\ntwo\n"),
            preopens=[Preopen(b"/data", directory, is_read_only)],
        )
    finally:
        os.close(directory)
    # WASI 0.2's `exit` knows success and failure only: that is what the adapter calls.
    assert (outcome.kind, outcome.exit_code) == (OutcomeKind.EXIT, min(code, 1))
    lines = output.splitlines()
    assert {"3 first value", "from a file", "in: one", "in: two"} <= set(lines)
    assert ("out.txt: Operation not permitted" in lines) is is_read_only
    assert (tmp_path / "out.txt").exists() is not is_read_only


@pytest.mark.parametrize(("result", "code"), [(0, 0), (1, 1)])
def test_what_run_returns(engine: Engine, result: int, code: int) -> None:
    outcome, _ = run(load(engine, running(f"(i32.const {result})")))
    assert (outcome.kind, outcome.exit_code) == (OutcomeKind.EXIT, code)


@pytest.mark.parametrize("version", ["0.2.0", "0.2.3", "0.2.99"])
def test_any_version_of_0_2(engine: Engine, version: str) -> None:
    outcome, _ = run(load(engine, wat(_EXIT.format(version=version))))
    assert (outcome.kind, outcome.exit_code) == (OutcomeKind.EXIT, 42)


def test_a_trap(engine: Engine) -> None:
    outcome, _ = run(load(engine, running("(i32.div_u (i32.const 1) (i32.const 0))")))
    assert outcome.kind is OutcomeKind.TRAP
    assert outcome.message == "integer divide by zero in function 0"


def test_an_abort_names_the_memory_limit(engine: Engine) -> None:
    outcome, _ = run(load(engine, running("unreachable"), memory_bytes=3 << 20))
    assert outcome.kind is OutcomeKind.TRAP
    assert "3 MiB" in outcome.message


def test_memory_grows_up_to_the_limit(engine: Engine) -> None:
    """`run` fails unless the second page is refused."""
    code = "(i32.ne (memory.grow (i32.const 1)) (i32.const -1))"
    component = running(code, declarations="(memory 1)")
    assert run(load(engine, component, memory_bytes=65536))[0].exit_code == 0
    assert run(load(engine, component, memory_bytes=2 * 65536))[0].exit_code == 1


def test_memories_share_the_limit(engine: Engine) -> None:
    component = wat(
        """
        (core module $other (memory 1))
        (core instance (instantiate $other))
        (core module $m (memory 1) (func (export "run") (result i32)
          (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
        (core instance $i (instantiate $m))
        """
    )
    assert run(load(engine, component, memory_bytes=3 * 65536))[0].exit_code == 0
    assert run(load(engine, component, memory_bytes=4 * 65536))[0].exit_code == 1


def test_too_much_memory_from_the_start(engine: Engine) -> None:
    component = running("(i32.const 0)", declarations="(memory 32)")
    with pytest.raises(ModuleError, match="starts with 2097152 bytes"):
        load(engine, component, memory_bytes=1 << 20)


def test_the_deadline_ends_a_loop(engine: Engine) -> None:
    program = load(engine, running("(loop $again (br $again)) (i32.const 0)"))
    with lasting_at_most(10):
        assert run(program, deadline_seconds=0.05)[0].kind is OutcomeKind.DEADLINE
        with interrupted_soon(program):
            assert run(program)[0].kind is OutcomeKind.INTERRUPTED


def test_the_deadline_ends_waiting(engine: Engine, pipe: tuple[int, int]) -> None:
    source = "#include <stdio.h>\nint main(void) { return getchar(); }"
    program = load(engine, build_c_component(source))
    stdin = DescriptorInput(pipe[0])
    with lasting_at_most(10):
        outcome, _ = run(program, stdin=stdin, deadline_seconds=0.05)
        assert outcome.kind is OutcomeKind.DEADLINE
        with interrupted_soon(program):
            assert run(program, stdin=stdin)[0].kind is OutcomeKind.INTERRUPTED


def test_the_deadline_ends_a_sleep(engine: Engine) -> None:
    source = "#include <unistd.h>\nint main(void) { return sleep(1000); }"
    program = load(engine, build_c_component(source))
    with lasting_at_most(10):
        assert run(program, deadline_seconds=0.05)[0].kind is OutcomeKind.DEADLINE


def test_a_full_stream_ends_the_run(engine: Engine) -> None:
    source = '#include <stdio.h>\nint main(void) { for (;;) puts("more"), fflush(stdout); }'
    invocation = invoke(stdout=BufferOutput(100))
    outcome = load(engine, build_c_component(source)).run(invocation)
    assert outcome.kind is OutcomeKind.TRAP
    assert outcome.message == "wrote more than 100 bytes to stdout"


def test_work_is_counted(engine: Engine) -> None:
    component = running("(loop $again (br $again)) (i32.const 0)")
    outcome, _ = run(load(engine, component, cost=100_000))
    assert outcome.kind is OutcomeKind.COST
    assert run(load(engine, running("(i32.const 0)"), cost=100_000))[0].kind is OutcomeKind.EXIT


def test_runs_know_nothing_of_each_other(engine: Engine) -> None:
    """`run` fails when it has run before."""
    program = load(
        engine,
        running(
            "(global.get $ran) (global.set $ran (i32.const 1))",
            declarations="(global $ran (mut i32) (i32.const 0))",
        ),
    )
    assert [run(program)[0].exit_code for _ in range(5)] == [0] * 5


def test_a_program_of_others(engine: Engine, tmp_path: Path) -> None:
    """A solver of some size does the same whether it is a module or a component."""
    (tmp_path / "formula.smt2").write_bytes(_FORMULA)
    directory = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    module = boolector()
    endings = []
    try:
        for each in (module, adapt(module)):
            program = load(engine, each)
            preopens = [Preopen(b"/data", directory)]
            arguments = (b"--smt2", b"/data/formula.smt2")
            outcome, output = run(program, *arguments, preopens=preopens)
            endings.append((outcome.kind, outcome.exit_code != 0, output))
            outcome, output = run(program, b"--smt2", stdin=BytesInput(_FORMULA))
            endings.append((outcome.kind, outcome.exit_code != 0, output))
    finally:
        os.close(directory)
    assert [output for _, _, output in endings] == ["sat\n"] * 4
    assert endings[:2] == endings[2:]


def test_components_leave_modules_alone(engine: Engine) -> None:
    """Neither's artifact passes for the other's, and the artifacts of modules stay as they were."""
    module = parse_wat('(module (func (export "_start")))')
    before = engine.compile_module(module)[0]
    load(engine, running("(i32.const 0)"))
    assert engine.compile_module(module)[0] == before


def test_a_cut_artifact_is_refused(engine: Engine) -> None:
    artifact = engine.compile_module(running("(i32.const 0)"))[0]
    descriptor = os.memfd_create("artifact")
    try:
        os.write(descriptor, artifact[:-1])
        with pytest.raises(ModuleError, match="compile the component again"):
            engine.load(descriptor, limits=Limits(memory_bytes=1 << 20))
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("slots", [0, 2])
def test_small_address_spaces(slots: int) -> None:
    """Without a pool, and with one of few small places."""
    engine = WasmtimeEngine(EngineSettings(reservation_bytes=256 << 20, slots=slots))
    component = running("(i32.const 0)", declarations="(memory 1)")
    program = load(engine, component)
    assert [run(program)[0].exit_code for _ in range(10)] == [0] * 10


def test_modules_load_nothing_of_components() -> None:
    """A process that runs no component pays for none."""
    script = """
import os, sys
from limpet.engine import open_engine
from limpet.engine.protocol import Limits

engine = open_engine("wasmtime")
artifact = os.memfd_create("artifact")
os.write(artifact, engine.compile_module(bytes.fromhex(sys.argv[1]))[0])
engine.load(artifact, limits=Limits(memory_bytes=65536))
print([name for name in sys.modules if "component" in name or "preview2" in name])
"""
    module = parse_wat('(module (func (export "_start")))')
    done = subprocess.run(
        [sys.executable, "-c", script, module.hex()], check=True, capture_output=True, text=True
    )
    assert done.stdout == "[]\n"
