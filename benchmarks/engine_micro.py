"""What one run of a guest costs in process, and each host call, beside wasmtime-py.

    PYTHONPATH=src:tests/corpus python -m benchmarks.engine_micro

Medians in microseconds. The sides take turns, so that they see the same machine, each turn in a process
of its own, so that neither sees the other's threads and mappings.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from array import array
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import wasmtime
from guest_builds import build_c, parse_wat

from limpet.engine import open_engine
from limpet.engine.protocol import Engine, Invocation, Limits, Program
from limpet.wasi import abi
from limpet.wasi.streams import BufferOutput, BytesInput
from limpet.wasi.strings import Strings

if TYPE_CHECKING:
    from collections.abc import Callable

TRIVIAL = '(module (memory (export "memory") 1) (func (export "_start")))'
CGI = r"""
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int main(void) {
  char body[2048];
  size_t n = 0;
  ssize_t k;
  while ((k = read(0, body + n, sizeof body - n)) > 0) n += k;
  const char *method = getenv("REQUEST_METHOD"), *path = getenv("PATH_INFO");
  printf("Content-Type: text/plain\r\n\r\n%s %s: %zu bytes\n", method, path, n);
  fwrite(body, 1, 64, stdout);
}"""
ENV = Strings(
    b"GATEWAY_INTERFACE=CGI/1.1 SERVER_PROTOCOL=HTTP/1.1 SERVER_NAME=localhost SERVER_PORT=8000 "
    b"SCRIPT_NAME= REMOTE_ADDR=127.0.0.1 REQUEST_METHOD=POST PATH_INFO=/hello/world QUERY_STRING=a "
    b"HTTP_HOST=localhost:8000 HTTP_USER_AGENT=bench HTTP_ACCEPT=*/*".split()
)
BODY = b"x" * 1024
MEMORY_BYTES = 64 << 20
CALLS_PER_RUN = 1000
# Calls, with arguments that succeed: 0x110 is room, 8 a vector of 16 bytes at 0x110.
CALLS: dict[str, tuple[int, ...]] = {
    "sched_yield": (),
    "fd_write": (1, 8, 1, 0),
    "fd_read": (0, 8, 1, 0),
    "fd_fdstat_get": (1, 512),
    "fd_prestat_get": (3, 512),
    "clock_time_get": (1, 1, 512),
    "environ_sizes_get": (512, 516),
    "environ_get": (512, 1024),
    "random_get": (512, 16),
}


def _time_in_child(prepare: Callable[[], Callable[[], object]], runs: int) -> list[float]:
    """How long what `prepare` returns took each time, in a forked process."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        function = prepare()
        for _ in range(max(runs // 10, 3)):
            function()
        times = array("d")
        for _ in range(runs):
            start = time.perf_counter_ns()
            function()
            times.append((time.perf_counter_ns() - start) / 1000)
        with open(writer, "wb") as file:
            file.write(times.tobytes())
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        found = array("d", file.read())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    return found.tolist()


def _medians(
    sides: dict[str, Callable[[], Callable[[], object]]], *, turns: int, runs: int
) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(turns):
        for name, prepare in sides.items():
            times[name] += _time_in_child(prepare, runs)
    return {name: median(found) for name, found in times.items()}


def _load(engine: Engine, module: bytes) -> Program:
    artifact, _ = engine.compile_module(module)
    descriptor = os.memfd_create("artifact")
    os.write(descriptor, artifact)
    program = engine.load(descriptor, limits=Limits(memory_bytes=MEMORY_BYTES))
    os.close(descriptor)
    return program


def _run_limpet(program: Program, deadline_seconds: float | None) -> bytes:
    output = BufferOutput(1 << 20)
    program.run(
        Invocation(
            Strings([b"guest"]),
            ENV,
            BytesInput(BODY),
            output,
            output,
            deadline_seconds=deadline_seconds,
        )
    )
    return output.getvalue()


class _WasmtimePy:
    """The same through wasmtime-py and its WASI, whose quickest way in and out is by files."""

    def __init__(self, module: bytes, folder: Path) -> None:
        config = wasmtime.Config()
        config.epoch_interruption = True
        self.engine = wasmtime.Engine(config)
        linker = wasmtime.Linker(self.engine)
        linker.define_wasi()
        self.linked = linker.instantiate_pre(wasmtime.Module(self.engine, module))
        self.body = folder / "body"
        self.body.write_bytes(BODY)
        self.output = folder / "output"
        self.env = [tuple(item.decode().split("=", 1)) for item in ENV]

    def run(self) -> None:
        wasi = wasmtime.WasiConfig()
        wasi.env = self.env
        wasi.argv = ["guest"]
        wasi.stdin_file = str(self.body)
        wasi.stdout_file = str(self.output)
        store = wasmtime.Store(self.engine)
        store.set_epoch_deadline(1)
        store.set_limits(memory_size=MEMORY_BYTES)
        store.set_wasi(wasi)
        start = self.linked.instantiate(store).exports(store)["_start"]
        assert isinstance(start, wasmtime.Func)
        start(store)
        store.close()


def _measure_runs(engine: Engine, turns: int) -> None:
    modules = {"trivial": parse_wat(TRIVIAL), "CGI": build_c(CGI, "-Wl,-z,stack-size=65536")}
    sides: dict[str, Callable[[], Callable[[], object]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind, module in modules.items():
            program = _load(engine, module)
            for label, seconds in (("", None), (" with a deadline", 10.0)):
                run = partial(_run_limpet, program, seconds)
                sides[f"{kind}, Limpet{label}"] = partial(_just, run)
            sides[f"{kind}, wasmtime-py"] = partial(_prepare_wasmtime_py, module, folder)
        print("store + instantiate + call + clean up:")
        for label, found in _medians(sides, turns=turns, runs=500).items():
            print(f"  {label:32} {found:8.1f}")
        expected = _run_limpet(program, None)
        assert (folder / "output").read_bytes() == expected


def _just(run: Callable[[], object]) -> Callable[[], object]:
    return run


def _prepare_wasmtime_py(module: bytes, folder: Path) -> Callable[[], object]:
    return _WasmtimePy(module, folder).run


def _measure_calls(engine: Engine, turns: int) -> None:
    print("one host call:")
    names = {"i": "i32", "j": "i64", "s": "i64"}
    for name, arguments in CALLS.items():
        codes = abi.PARAMETERS[name]
        parameters = " ".join(names[code] for code in codes)
        values = " ".join(
            f"({names[code]}.const {value})" for code, value in zip(codes, arguments, strict=True)
        )
        module = parse_wat(f"""(module
          (import "{abi.MODULE}" "{name}" (func $call (param {parameters}) (result i32)))
          (memory (export "memory") 2) (data (i32.const 8) "\\10\\01\\00\\00\\10\\00\\00\\00")
          (func (export "_start") (local $n i32)
            (loop $l
              (drop (call $call {values}))
              (local.set $n (i32.add (local.get $n) (i32.const 1)))
              (br_if $l (i32.lt_u (local.get $n) (i32.const {CALLS_PER_RUN}))))))""")
        run = partial(_run_limpet, _load(engine, module), None)
        found = _medians({name: partial(_just, run)}, turns=turns, runs=20)
        print(f"  {name:32} {found[name] / CALLS_PER_RUN:8.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--turns", type=int, default=10, help="of 500 runs each (10)")
    turns = parser.parse_args().turns
    engine = open_engine()
    print(f"{engine.artifact_key()}; medians in microseconds", flush=True)
    _measure_runs(engine, turns)
    _measure_calls(engine, turns)


if __name__ == "__main__":
    main()
