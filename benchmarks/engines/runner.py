"""A program: compiles modules of a folder with one engine, or runs them, and prints what that took as JSON.

`python -m benchmarks.engines.runner FOLDER ENGINE [--library PATH] [--interpreted] [--metered] WHAT NAME...`

WHAT is `compile` or `run`: processes of their own, as they are in a node.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from limpet.engine import open_engine
from limpet.engine.protocol import CompileOptions, Invocation, Limits, OutcomeKind
from limpet.wasi.streams import BufferOutput, BytesInput
from limpet.wasi.strings import Strings

if TYPE_CHECKING:
    from limpet.engine.protocol import Engine, Program

# Module -> how many samples, and of how many runs each is the mean: reading the clock takes a microsecond.
_SAMPLES = {"trivial": (50, 10), "hello": (50, 10), "fib": (5, 1)}
_MEMORY_BYTES = 64 << 20
_COST = 1 << 50
_DEADLINE_SECONDS = 30.0
_OUTPUT_BYTES = 1 << 20
_ARGUMENTS = Strings([b"guest"])
_ENVIRONMENT = Strings(
    b"GATEWAY_INTERFACE=CGI/1.1 SERVER_PROTOCOL=HTTP/1.1 SERVER_NAME=localhost SERVER_PORT=8000 "
    b"SCRIPT_NAME= REMOTE_ADDR=127.0.0.1 REQUEST_METHOD=GET PATH_INFO=/ QUERY_STRING= "
    b"HTTP_HOST=localhost:8000 HTTP_USER_AGENT=bench HTTP_ACCEPT=*/*".split()
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.engines.runner")
    parser.add_argument("folder", type=Path)
    parser.add_argument("engine")
    parser.add_argument("--library")
    parser.add_argument("--interpreted", action="store_true")
    parser.add_argument("--metered", action="store_true")
    parser.add_argument("what", choices=("compile", "run"))
    parser.add_argument("modules", nargs="+")
    given = parser.parse_args()
    engine = open_engine(given.engine, library=given.library)
    options = CompileOptions(is_metered=given.metered, is_interpreted=given.interpreted)
    found: dict[str, object] = {}
    for name in given.modules:
        module = given.folder / f"{name}.wasm"
        artifact = module.with_suffix(f".{engine.name}{options.suffix}")
        if given.what == "compile":
            found[name] = _compile(engine, module, artifact, options)
        else:
            found[name] = _time(_load(engine, artifact, options), *_SAMPLES[name])
    json.dump(found, sys.stdout)


def _compile(
    engine: Engine, module: Path, artifact: Path, options: CompileOptions
) -> dict[str, float]:
    """What it took; memory is what this process's peak grew by, so that the first module's counts."""
    before, started = _peak_bytes(), time.process_time()
    compiled, _ = engine.compile_module(module.read_bytes(), options)
    seconds = time.process_time() - started
    artifact.write_bytes(compiled)
    return {
        "seconds": seconds,
        "peak_bytes": _peak_bytes() - before,
        "artifact_bytes": len(compiled),
    }


def _peak_bytes() -> int:
    """The most memory that was resident since this program was started, as getrusage(2) has it not."""
    status = Path("/proc/self/status").read_text("ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def _load(engine: Engine, artifact: Path, options: CompileOptions) -> Program:
    limits = Limits(memory_bytes=_MEMORY_BYTES, cost=_COST if options.is_metered else None)
    descriptor = os.open(artifact, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return engine.load(descriptor, limits=limits)
    finally:
        os.close(descriptor)


def _time(program: Program, samples: int, runs: int) -> list[float]:
    """Seconds of processor time that a run took, by sample: a fresh instance, its call, cleaning up."""
    gc.disable()
    times: list[float] = []
    for index in range(1 + samples):
        started = time.process_time()
        for _ in range(runs):
            _run(program)
        seconds = (time.process_time() - started) / runs
        if index:  # the first one fills the caches
            times.append(seconds)
    gc.enable()
    return times


def _run(program: Program) -> None:
    output = BufferOutput(_OUTPUT_BYTES)
    outcome = program.run(
        Invocation(
            _ARGUMENTS,
            _ENVIRONMENT,
            BytesInput(b""),
            output,
            output,
            deadline_seconds=_DEADLINE_SECONDS,
        )
    )
    if outcome.kind is not OutcomeKind.EXIT or outcome.exit_code:
        raise RuntimeError(f"the run ended otherwise: {outcome}")


if __name__ == "__main__":
    main()
