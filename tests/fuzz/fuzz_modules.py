"""Mutates modules and inspects them: a ModuleInfo, or ModuleError and nothing else.

    python tests/fuzz/fuzz_modules.py --seconds 60 --seed 1

Exits with 1, after writing the input to standard error, on anything else or on a slow input.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fuzzing import check_inputs, run

from limpet.engine.inspection import inspect_module
from limpet.engine.protocol import ModuleError

if TYPE_CHECKING:
    import random


def _section(number: int, body: bytes) -> bytes:
    return bytes((number, len(body))) + body


# Two types, two imports, two functions, a table, a memory, a global, exports, code, data, a name.
MODULE = (
    b"\0asm\1\0\0\0"
    + _section(1, b"\2\x60\0\0\x60\1\x7f\0")
    + _section(
        2,
        b"\1\x16wasi_snapshot_preview1\x09proc_exit\0\1",
    )
    + _section(3, b"\2\0\0")
    + _section(4, b"\1\x70\0\1")
    + _section(5, b"\1\1\1\x10")
    + _section(6, b"\1\x7f\1\x41\x2a\x0b")
    + _section(7, b"\2\x06memory\2\0\x06_start\0\1")
    + _section(10, b"\2\2\0\x0b\2\0\x0b")
    + _section(11, b"\1\0\x41\0\x0b\3abc")
    + _section(0, b"\4name\0")
)
TOKENS = (
    b"\0asm", b"\1\0\0\0", b"\x0d\0\1\0", b"\x80", b"\xff\xff\xff\xff\x0f", b"\xff" * 10, b"\x7f",
    b"\x60", b"\x5f", b"\x4e", b"\x63", b"\x64", b"\3\1\1", b"\7\1\1", b"\x08\1\x20", b"_start",
    b"memory", b"env", b"\xff\xfe", b"\x80\x80\x80\x80\x80\0", b"\x02\x80\x80\x04", b"wasi_unstable",
)  # fmt: skip


def mutate(rng: random.Random) -> bytes:
    data = bytearray(MODULE)
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
            start = rng.randrange(len(MODULE))
            data[at:end] = MODULE[start : start + rng.choice((4, 16, 60))]
        else:
            del data[rng.randrange(len(data) + 1) :]
    return bytes(data)


def check(module: bytes) -> int:
    """1 when the module is accepted."""
    try:
        info = inspect_module(module)
    except ModuleError as error:
        message = str(error)
        assert message
        assert len(message) < 20_000
        return 0
    else:
        assert info.memory_bytes >= 0
        return 1


def fuzz(*, seed: int, seconds: float, inputs: int | None = None) -> tuple[int, int]:
    """How many modules were inspected, and how many of them accepted."""
    assert check(MODULE)
    return check_inputs(mutate, check, seed=seed, seconds=seconds, inputs=inputs)


if __name__ == "__main__":
    run(
        fuzz,
        description=__doc__,
        summary=lambda found: f"{found[0]} modules, {found[1]} accepted, nothing but ModuleError",
    )
