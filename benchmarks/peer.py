"""The peer: `wasmtime serve` with the same answer as a wasi:http component."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from benchmarks.client import get
from benchmarks.processes import Process, free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

    from benchmarks.lab import Lab

# `wasmtime serve` makes a fresh instance per request unless told otherwise (for wasi:http 0.2).
MODES: dict[str, tuple[str, ...]] = {
    "fresh instances": ("--max-instance-reuse-count", "1"),
    "fresh instances, pooling": ("-Opooling-allocator=y", "--max-instance-reuse-count", "1"),
    "an instance for 128 requests": ("-Opooling-allocator=y", "--max-instance-reuse-count", "128"),
}
FRESH_MODES = ("fresh instances", "fresh instances, pooling")


def serve_command(lab: Lab, mode: str, port: int) -> list[str]:
    """The command line; its component is compiled ahead of time."""
    is_pooled = "-Opooling-allocator=y" in MODES[mode]
    component = lab.pooled_component if is_pooled else lab.component
    options = [*MODES[mode], "--allow-precompiled", "--addr", f"127.0.0.1:{port}"]
    return [str(lab.wasmtime), "serve", *options, str(component)]


class Peer:
    """One `wasmtime serve` for a `with` block, on these cores."""

    def __init__(self, lab: Lab, mode: str, *, cores: Iterable[int] | None = None) -> None:
        self.port = free_port()
        log = lab.folder / f"peer-{self.port}.log"
        self._process = Process(serve_command(lab, mode, self.port), log=log, cores=cores)

    def __enter__(self) -> Self:
        self._process.__enter__()
        wait_until(self._is_up, "wasmtime serve")
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.__exit__(*exception)

    def _is_up(self) -> bool:
        self._process.check()
        with suppress(OSError):
            return get(self.port).startswith(b"HTTP/1.1 200")
        return False

    @property
    def pids(self) -> list[int]:
        """Its one process: `taskset` became it."""
        return [self._process.pid]
