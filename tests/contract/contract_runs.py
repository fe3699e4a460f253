"""Short ways to load and run guests, for the contract's tests."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guest_builds import build_file, parse_wat

from limpet.engine.protocol import ENTRY, Invocation, Limits
from limpet.wasi.streams import BufferOutput, BytesInput
from limpet.wasi.strings import Strings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from limpet.engine.protocol import CompileOptions, Engine, Outcome, Program

WASI = "wasi_snapshot_preview1"
_GUESTS = Path(__file__).parent / "guests"
_MEMORY_BYTES = 64 << 20


class Loader:
    """Makes programs of sources; keeps the artifacts of those it has seen."""

    artifacts: dict[tuple[str, CompileOptions], bytes] = {}  # noqa: RUF012 - shared on purpose

    def __init__(self, engine: Engine, options: CompileOptions) -> None:
        self.engine = engine
        self.options = options

    def wat(
        self, body: str, *, memory_bytes: int = _MEMORY_BYTES, cost: int | None = None
    ) -> Program:
        limits = Limits(memory_bytes=memory_bytes, cost=cost)
        return self._load(f"(module {body})", parse_wat, limits)

    def c(
        self, guest: str, *, memory_bytes: int = _MEMORY_BYTES, cost: int | None = None
    ) -> Program:
        """Of `guests/<guest>.c`."""
        limits = Limits(memory_bytes=memory_bytes, cost=cost)
        return self._load(guest, lambda name: build_file(_GUESTS / f"{name}.c"), limits)

    def compile(self, body: str, **changes: Any) -> bytes:
        """The artifact of a module, compiled as this engine is tested, but for the changes."""
        options = replace(self.options, **changes)
        return self.engine.compile_module(parse_wat(f"(module {body})"), options)[0]

    def _load(self, source: str, build: Any, limits: Limits) -> Program:
        options = replace(self.options, is_metered=limits.cost is not None)
        key = (source, options)
        if key not in self.artifacts:
            self.artifacts[key] = self.engine.compile_module(build(source), options)[0]
        return load_bytes(self.engine, self.artifacts[key], limits)


def load_bytes(engine: Engine, artifact: bytes, limits: Limits, entry: str = ENTRY) -> Program:
    descriptor = os.memfd_create("artifact")
    try:
        os.write(descriptor, artifact)
        return engine.load(descriptor, limits=limits, entry=entry)
    finally:
        os.close(descriptor)


def invoke(**changes: Any) -> Invocation:
    """An invocation with nothing in it, but for what is given."""
    values: dict[str, Any] = {
        "args": [b"guest"],
        "env": [],
        "stdin": BytesInput(b""),
        "stdout": BufferOutput(1 << 20),
        "stderr": BufferOutput(1 << 20),
    }
    values |= changes
    values |= {name: Strings(values[name]) for name in ("args", "env")}
    return Invocation(**values)


def run_and_read(program: Program, **changes: Any) -> tuple[Outcome, bytes]:
    """The outcome, and what went to standard output."""
    stdout = BufferOutput(16 << 20)
    return program.run(invoke(stdout=stdout, **changes)), stdout.getvalue()


def this_python(*arguments: str) -> list[str]:
    """The command that runs this Python as it was started: perhaps under a loader of its own."""
    own = Path("/proc/self/cmdline").read_bytes().split(b"\0")[:-1]
    interpreter = own[: len(own) - len(sys.orig_argv[1:])]
    return [*map(os.fsdecode, interpreter), *arguments]


@contextmanager
def interrupted_soon(program: Program) -> Iterator[None]:
    """Interrupts what runs, again and again until it is over: the first may come too early."""
    is_over = threading.Event()

    def interrupt() -> None:
        while not is_over.wait(0.02):
            program.interrupt()

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


@contextmanager
def lasting_at_most(seconds: float) -> Iterator[None]:
    """A generous bound: not how fast something is, but that it does not wait for ever."""
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds
