"""Runs a program's cases on one engine, in a process that can load it; a script, told by standard input.

Prints a JSON object of the engine's version, of seconds and of what each case came to.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limpet.engine import open_engine
from limpet.engine.protocol import CompileOptions, Invocation, Limits, Preopen
from limpet.wasi.streams import BufferOutput, BytesInput
from limpet.wasi.strings import Strings

if TYPE_CHECKING:
    from limpet.engine.protocol import Engine, Program

_MEMORY_BYTES = 512 << 20
_DEADLINE_SECONDS = 300.0
_MOST_OUTPUT_BYTES = 16 << 20


def compiled(engine: Engine, module: Path, options: CompileOptions, cache: Path) -> Path:
    """The artifact, from the cache if it is there."""
    content = module.read_bytes()
    key = f"{hashlib.sha256(content).hexdigest()[:32]}-{engine.artifact_key()}{options.suffix}"
    path = cache / f"{key}.cwasm"
    if not path.exists():
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_bytes(engine.compile_module(content, options)[0])
        partial.rename(path)
    return path


def run_case(program: Program, folder: Path, case: dict[str, Any]) -> dict[str, object]:
    stdout, stderr = BufferOutput(_MOST_OUTPUT_BYTES), BufferOutput(_MOST_OUTPUT_BYTES)
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    begun = time.monotonic()
    outcome = program.run(
        Invocation(
            Strings(each.encode() for each in case["args"]),
            Strings(f"{name}={value}".encode() for name, value in case["env"].items()),
            BytesInput(case["stdin"].encode()),
            stdout,
            stderr,
            [Preopen(b"/w", descriptor, is_read_only=False)],
            _DEADLINE_SECONDS,
        )
    )
    seconds = time.monotonic() - begun
    os.close(descriptor)
    return {
        "seconds": seconds,
        "kind": outcome.kind.value,
        "exit_code": outcome.exit_code,
        "message": outcome.message,
        "stdout": stdout.getvalue().decode("latin-1"),
        "stderr": stderr.getvalue().decode("latin-1"),
    }


def main() -> None:
    told = json.load(sys.stdin)
    engine = open_engine(told["engine"])
    options = CompileOptions(is_interpreted=told["is_interpreted"])
    begun = time.monotonic()
    path = compiled(engine, Path(told["module"]), options, Path(told["cache"]))
    compiled_at = time.monotonic()
    with path.open("rb") as file:
        program = engine.load(file.fileno(), limits=Limits(memory_bytes=_MEMORY_BYTES))
    loaded_at = time.monotonic()
    answer = {
        "version": engine.version,
        "compile_seconds": compiled_at - begun,
        "load_seconds": loaded_at - compiled_at,
        "cases": [run_case(program, Path(told["folder"]), case) for case in told["cases"]],
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
