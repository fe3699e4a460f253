"""One run leaves nothing to the next, and nothing behind in the host."""

from __future__ import annotations

import gc
import os
import resource
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from contract_runs import WASI, Loader, invoke, run_and_read

from limpet.engine.protocol import OutcomeKind, Preopen
from limpet.wasi.streams import BufferOutput, BytesInput

if TYPE_CHECKING:
    from collections.abc import Callable

FLIP = f"""
  (import "{WASI}" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (global $g (mut i32) (i32.const 0))
  (table 2 funcref)
  (func $f)
  (elem declare func $f)
  (func (export "_start")
    (local $was i32)
    (local.set $was (i32.add (i32.load (i32.const 100)) (global.get $g)))
    (local.set $was (i32.add (local.get $was) (i32.eqz (ref.is_null (table.get (i32.const 1))))))
    (i32.store (i32.const 100) (i32.const 1))
    (global.set $g (i32.const 1))
    (table.set (i32.const 1) (ref.func $f))
    (call $exit (local.get $was)))"""


def test_every_run_is_a_fresh_instance(load: Loader) -> None:
    program = load.c("remember")
    outputs = {run_and_read(program)[1] for _ in range(20)}
    assert len(outputs) == 1
    assert outputs.pop().startswith(b"41 0 ")
    flip = load.wat(FLIP)
    assert [flip.run(invoke()).exit_code for _ in range(20)] == [0] * 20


def test_programs_do_not_see_each_other(load: Loader) -> None:
    """Slots of a pool go from one program to another."""
    writer = load.wat(
        '(memory (export "memory") 20) (func (export "_start") '
        "(memory.fill (i32.const 0) (i32.const 255) (i32.const 1310720)))"
    )
    reader = load.wat(
        f"""(import "{WASI}" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 20)
        (func (export "_start") (local $at i32) (local $sum i64)
          (loop $l
            (local.set $sum (i64.or (local.get $sum) (i64.load (local.get $at))))
            (local.set $at (i32.add (local.get $at) (i32.const 8)))
            (br_if $l (i32.lt_u (local.get $at) (i32.const 1310720))))
          (call $exit (i64.ne (local.get $sum) (i64.const 0))))"""
    )
    for _ in range(20):
        assert writer.run(invoke()).kind is OutcomeKind.EXIT
        assert reader.run(invoke()).exit_code == 0


def test_descriptors_are_bounded_and_closed(load: Loader, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    directory = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    gc.collect()
    before = _open_descriptors()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    try:
        program = load.c("open_many")
        opened = _open_descriptors()
        _, output = run_and_read(program, preopens=(Preopen(b"/", directory),))
        assert output == b"1019 1 1023\n10\n"
        assert _open_descriptors() == opened
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(directory)
    del program
    assert _open_descriptors() == before - 1


def test_nothing_leaks_over_many_runs(load: Loader, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    directory = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    programs = [
        load.c("remember"),
        load.c("exit_3"),
        load.c("trap"),
        load.c("leave_open"),
    ]

    def run_all(times: int) -> None:
        for _ in range(times):
            for program in programs:
                program.run(
                    invoke(
                        stdin=BytesInput(b"x" * 1000),
                        stdout=BufferOutput(10_000),
                        preopens=(Preopen(b"/", directory),),
                        deadline_seconds=60,
                    )
                )

    run_all(100)
    gc.collect()
    descriptors, resident, objects = _open_descriptors(), _resident_bytes(), len(gc.get_objects())
    run_all(500)
    gc.collect()
    assert _open_descriptors() == descriptors
    assert len(gc.get_objects()) - objects < 200
    assert _resident_bytes() - resident < 4 << 20
    os.close(directory)


def test_a_forked_child_runs_guests_after_its_parent_did(load: Loader) -> None:
    """As a worker does, whose zygote has run one to warm up."""
    program = load.c("remember")
    spin = load.wat('(memory (export "memory") 1) (func (export "_start") (loop $l (br $l)))')
    trap = load.wat('(memory (export "memory") 1) (func (export "_start") unreachable)')
    assert spin.run(invoke(deadline_seconds=0.02)).kind is OutcomeKind.DEADLINE

    def check() -> None:
        assert run_and_read(program, deadline_seconds=30)[1].startswith(b"41 0 ")
        assert spin.run(invoke(deadline_seconds=0.05)).kind is OutcomeKind.DEADLINE
        assert trap.run(invoke()).kind is OutcomeKind.TRAP

    check()
    children = [_fork(check) for _ in range(3)]
    check()
    for child in children:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_forked_child_loads_and_interrupts(load: Loader) -> None:
    load.wat('(memory (export "memory") 1) (func (export "_start"))').run(invoke())

    def check() -> None:
        sleeping = load.c("sleep")
        timer = threading.Timer(0.2, sleeping.interrupt)
        timer.start()
        assert sleeping.run(invoke(deadline_seconds=60)).kind is OutcomeKind.INTERRUPTED
        timer.join()

    # Compiled before the fork: compiling belongs to processes of its own.
    load.c("sleep")
    assert os.waitstatus_to_exitcode(os.waitpid(_fork(check), 0)[1]) == 0


def test_threads_with_a_program_each(load: Loader) -> None:
    failures: list[str] = []

    def work() -> None:
        program = load.c("remember")
        for _ in range(50):
            outcome, output = run_and_read(program, deadline_seconds=60)
            if outcome.kind is not OutcomeKind.EXIT or not output.startswith(b"41 0 "):
                failures.append(f"{outcome} {output!r}")

    load.c("remember")
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def _fork(check: Callable[[], None]) -> int:
    child = os.fork()
    if child:
        return child
    try:
        check()
    except BaseException as error:
        os.write(2, repr(error).encode())
        os._exit(1)
    os._exit(0)


def _open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
