"""Mutates modules and components and reports on them: a Report that agrees with itself, quickly.

    python tests/fuzz/fuzz_inspect.py --seconds 60 --seed 1

Exits with 1, after writing the input to standard error, on anything else.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from fuzz_modules import MODULE
from fuzzing import check_inputs, run

from limpet.cli.module_report import report_json
from limpet.engine.component_binary import is_component
from limpet.engine.inspection import inspect_module
from limpet.engine.protocol import ModuleError
from limpet.engine.report import MemoryRoom, Report, compile_report

if TYPE_CHECKING:
    import random

USABLE = {"wasmtime": "", "wasmedge": ""}
ROOM = MemoryRoom(limit_bytes=64 << 20, worker_share_bytes=4 << 20)


def _section(number: int, body: bytes) -> bytes:
    return bytes((number, len(body))) + body


def _name(text: bytes) -> bytes:
    return bytes((len(text),)) + text


_PRODUCERS = _name(b"producers") + b"\1" + _name(b"language") + b"\1" + _name(b"C") + _name(b"11")
_FEATURES = _name(b"target_features") + b"\2+" + _name(b"simd128") + b"-" + _name(b"atomics")
CORE = MODULE + _section(0, _PRODUCERS) + _section(0, _FEATURES) + _section(0, b"\x08wasmedge\1\2")
_INNER = b"\0asm\1\0\0\0" + _section(5, b"\1\1\1\x10")
COMPONENT = (
    b"\0asm\x0d\0\1\0"
    + _section(10, b"\3\0" + _name(b"wasi:cli/stdout@0.2.3") + b"\5\0"
               + b"\2" + _name(b"wasi:sockets/tcp@0.2.0") + b"\1\1\1b\5\0"
               + b"\0\1t\3\0\0")
    + _section(1, _INNER)
    + _section(4, b"\0asm\x0d\0\1\0" + _section(1, _INNER))
    + _section(11, b"\2\0" + _name(b"wasi:cli/run@0.2.3") + b"\5\0\0" + b"\0\1f\1\0\1\1\0")
    + _section(0, _PRODUCERS)
)  # fmt: skip
SEEDS = (CORE, COMPONENT)
TOKENS = (
    b"\0asm", b"\1\0\0\0", b"\x0d\0\1\0", b"\x80", b"\xff\xff\xff\xff\x0f", b"\xff" * 10, b"\x7f",
    b"\x60", b"\x5f", b"\3\1\1", b"\x08\1\x20", b"_start", b"memory", b"env", b"\xff\xfe",
    b"wasi:http/incoming-handler@0.2.0", b"@0.3.0", b"a:b/c", b"\0\1r\3\1", b"url=<x>",
    b"\0\x11\0", b"\x0d\1\0", _INNER, COMPONENT, _section(1, _INNER), _section(4, COMPONENT),
    b"\x80\x80\x80\x80\x80\0", _section(7, b"[method]tcp-socket.start-listen"),
)  # fmt: skip


def mutate(rng: random.Random) -> bytes:
    seed = rng.choice(SEEDS)
    data = bytearray(seed)
    for _ in range(rng.choice((1, 1, 2, 3, 10))):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice((0, 1, 2, 8, 30)))
        kind = rng.randrange(6)
        if kind == 0:
            data[at:end] = rng.choice(TOKENS)
        elif kind == 1:
            del data[at:end]
        elif kind == 2 and data:
            data[at % len(data)] = rng.randrange(256)
        elif kind == 3 and data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        elif kind == 4:
            other = rng.choice(SEEDS)
            start = rng.randrange(len(other))
            data[at:end] = other[start : start + rng.choice((4, 16, 60))]
        else:
            del data[rng.randrange(len(data) + 1) :]
    return bytes(data)


def check(data: bytes) -> Report:
    """The report, once it agrees with itself and with what compiling says."""
    report = compile_report(data, usable=USABLE, memory=ROOM)
    assert len(report.verdicts) == 6
    assert report.is_runnable == (not report.problems) == (report.choice is not None)
    assert (report.choice is None) == (report.trigger is None)
    assert all(report.problems)
    assert all(verdict.note for verdict in report.verdicts if not verdict.is_runnable)
    if report.choice is not None:
        taken = [each for each in report.verdicts if each.engine == report.choice.engine]
        assert any(each.is_runnable and each.trigger == report.trigger for each in taken)
    json.dumps(report_json(report, file="x", digest="sha256:"))
    if not is_component(data):
        assert report.is_runnable == _is_accepted(data)
    return report


def _is_accepted(module: bytes) -> bool:
    try:
        inspect_module(module)
    except ModuleError:
        return False
    return True


def fuzz(*, seed: int, seconds: float, inputs: int | None = None) -> tuple[int, int]:
    """How many files were reported on, and how many of them can be run."""
    for whole in SEEDS:
        assert check(whole).is_runnable
    return check_inputs(
        mutate,
        lambda data: check(data).is_runnable,
        seed=seed,
        seconds=seconds,
        inputs=inputs,
    )


if __name__ == "__main__":
    run(
        fuzz,
        description=__doc__,
        summary=lambda found: f"{found[0]} files, {found[1]} of them runnable, each with a report",
    )
