"""Short ways to load and run guests, for the contract's tests."""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from guest_builds import build_c, parse_wat

from limpet.engine.protocol import Invocation, Limits
from limpet.wasi.streams import BufferOutput, BytesInput
from limpet.wasi.strings import Strings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from limpet.engine.protocol import Engine, Outcome, Program

WASI = "wasi_snapshot_preview1"
_MEMORY_BYTES = 64 << 20


class Loader:
    """Makes programs of sources; keeps the artifacts of those it has seen."""

    artifacts: dict[tuple[str, str], bytes] = {}  # noqa: RUF012 - shared by all tests on purpose

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def wat(self, body: str, *, memory_bytes: int = _MEMORY_BYTES) -> Program:
        return self._load(f"(module {body})", parse_wat, memory_bytes)

    def c(self, source: str, *, memory_bytes: int = _MEMORY_BYTES) -> Program:
        return self._load(source, build_c, memory_bytes)

    def _load(self, source: str, build: Any, memory_bytes: int) -> Program:
        key = (self.engine.name, source)
        if key not in self.artifacts:
            self.artifacts[key] = self.engine.compile_module(build(source))[0]
        descriptor = os.memfd_create("artifact")
        try:
            os.write(descriptor, self.artifacts[key])
            return self.engine.load(descriptor, limits=Limits(memory_bytes=memory_bytes))
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
