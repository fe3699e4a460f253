"""A program: serves the request path up to a stage, so that each stage's cost can be told.

`python -m benchmarks.stages STAGE` prints its port and serves until it is ended. Each stage does
what the one before it does and one thing more, with the platform's own code:

- `http`: the server; every answer is the same one
- `cgi`: the trigger too: the request's environment, the output's headers
- `instance`: the engine too: a fresh instance of a module that returns at once
- `guest`: the hello example instead, with its host calls: the whole path

`python -m benchmarks.stages calls` runs the guest in process and prints what its host calls take.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from typing import TYPE_CHECKING

from benchmarks.lab import HELLO
from limpet.engine import open_engine
from limpet.engine.protocol import Invocation, Limits, Outcome, OutcomeKind
from limpet.http1.connection import ConnectionLimits
from limpet.http1.message import Response
from limpet.settings import HttpSettings
from limpet.trigger.http import HttpTrigger
from limpet.trigger.server import Exchange, Server
from limpet.wasi.preview1 import FUNCTIONS
from limpet.wasi.streams import BufferOutput, BytesInput
from limpet.wasi.strings import Strings
from limpet.worker.config import WorkerConfig
from limpet.worker.loop import Loop

if TYPE_CHECKING:
    from collections.abc import Callable

    from limpet.engine.protocol import Program

STAGES = ("http", "cgi", "instance", "guest")
_MEMORY_BYTES = 64 << 20
_BODY = b"Hello, world!\nYou sent GET /\n"
_HEADER = (b"Content-Type", b"text/plain; charset=utf-8")
_OUTPUT = b"%s: %s\n\n%s" % (*_HEADER, _BODY)
_RUNS = 5000
# (module (memory (export "memory") 1) (func (export "_start")))
_TRIVIAL = bytes.fromhex(
    "0061736d010000000104016000000302010005030100010713"
    "02066d656d6f72790200065f737461727400000a040102000b"
)


class _Constant:
    """A program that needs no engine."""

    def run(self, invocation: Invocation) -> Outcome:
        invocation.stdout.write(_OUTPUT, _NO_WAITER)
        return _DONE

    def interrupt(self) -> None:
        """Nothing runs."""


class _Silent:
    """A module that prints nothing; its answer is put in by the host."""

    def __init__(self, program: Program) -> None:
        self._program = program

    def run(self, invocation: Invocation) -> Outcome:
        outcome = self._program.run(invocation)
        invocation.stdout.write(_OUTPUT, _NO_WAITER)
        return outcome

    def interrupt(self) -> None:
        """Nothing runs for long."""


class _NoWaiter:
    """Buffers never make anybody wait."""

    def wait_readable(self, descriptor: int) -> None:
        raise NotImplementedError

    def wait_writable(self, descriptor: int) -> None:
        raise NotImplementedError


_NO_WAITER = _NoWaiter()
_DONE = Outcome(OutcomeKind.EXIT)


def load(module: bytes) -> Program:
    """Compile a module and load it, here."""
    engine = open_engine()
    descriptor = os.memfd_create("artifact", os.MFD_CLOEXEC)
    os.write(descriptor, engine.compile_module(module)[0])
    return engine.load(descriptor, limits=Limits(memory_bytes=_MEMORY_BYTES))


def serve(stage: str) -> None:
    """Serve for ever."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    listening.settimeout(0)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    loop = Loop()
    if stage == "http":
        response = Response(200, [_HEADER], _BODY)
        server = Server(
            loop,
            [listening],
            settings=HttpSettings(),
            limits=ConnectionLimits(),
            on_exchange=lambda exchange: Exchange.respond(exchange, response),
            on_empty=loop.stop,
        )
        server.start()
    else:
        programs: dict[str, Callable[[], Program]] = {
            "cgi": _Constant,
            "instance": lambda: _Silent(load(_TRIVIAL)),
            "guest": lambda: load(HELLO.read_bytes()),
        }
        trigger = HttpTrigger(
            loop,
            programs[stage](),
            WorkerConfig(
                app="default/hello",
                worker="hello",
                engine="wasmtime",
                trigger="http",
                memory_bytes=_MEMORY_BYTES,
                args=("hello",),
                env=(),
                deadline_seconds=30.0,
            ),
            listeners=[listening],
            preopens=(),
            settings=HttpSettings(),
            on_drained=loop.stop,
            log=print,
        )
        trigger.start()
    print(listening.getsockname()[1], flush=True)
    loop.run()


def time_calls() -> dict[str, float]:
    """Run the guest without HTTP; return processor time per run and its host functions' part."""
    spent = calls = 0

    def timed(function: Callable[..., int]) -> Callable[..., int]:
        def call(*arguments: object) -> int:
            nonlocal spent, calls
            started = time.perf_counter_ns()
            try:
                return function(*arguments)
            finally:
                spent += time.perf_counter_ns() - started
                calls += 1

        return call

    plain = _time_runs(load(HELLO.read_bytes()))
    trivial = _time_runs(load(_TRIVIAL))
    for name, function in list(FUNCTIONS.items()):
        FUNCTIONS[name] = timed(function)
    program = load(HELLO.read_bytes())
    spent = calls = 0
    _time_runs(program)
    return {
        "run_micros": plain,
        "trivial_run_micros": trivial,
        "host_functions_micros": spent / _RUNS / 1e3,
        "host_calls": calls / _RUNS,
    }


def _time_runs(program: Program) -> float:
    env = [b"REQUEST_METHOD=GET", b"PATH_INFO=/", b"QUERY_STRING="]
    env += [b"VARIABLE_%d=a value of some length" % index for index in range(16)]
    args = Strings([b"hello"])
    started = time.process_time_ns()
    for _ in range(_RUNS):
        output = BufferOutput(1 << 20)
        program.run(Invocation(args, Strings(env), BytesInput(b""), output, output, (), 30.0))
    return (time.process_time_ns() - started) / _RUNS / 1e3


if __name__ == "__main__":
    if sys.argv[1] == "calls":
        print(json.dumps(time_calls()))
    else:
        serve(sys.argv[1])
