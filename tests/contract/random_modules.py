"""Small random modules, as text, whose runs tell engines apart where those differ.

Each computes a number and exits with its lowest bits, traps, or runs out of what it may do. As a program:
random_modules.py SEED COUNT writes how each ended, one line for each, under the engine that is tested.
"""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parent.parent / "corpus"))

_TYPES = ("i32", "i64", "f32", "f64")
_ARITHMETIC = ("add", "sub", "mul", "div_s", "div_u", "rem_s", "rem_u")
_BITS = ("and", "or", "xor", "shl", "shr_s", "shr_u", "rotl", "rotr")
_TESTS = ("eq", "ne", "lt_s", "gt_u")
_UNARY = ("clz", "ctz", "popcnt", "eqz", "extend8_s", "extend16_s")
_FLOAT_BINARY = ("add", "sub", "mul", "div", "min", "max", "copysign")
_FLOAT_UNARY = ("abs", "neg", "ceil", "floor", "trunc", "nearest", "sqrt")
_INTERESTING = (0, 1, -1, 2, 7, 255, 65535, 65536, 0x7FFFFFFF, -0x80000000)


class _Text:
    """Grows expressions of a wanted type. `a` to `d` are locals, one of each type."""

    def __init__(self, chance: Random) -> None:
        self.chance = chance

    def expression(self, kind: str, depth: int) -> str:
        if depth <= 0 or self.chance.random() < 0.15:
            return self.leaf(kind)
        return self.integer(kind, depth) if kind[0] == "i" else self.float(kind, depth)

    def leaf(self, kind: str) -> str:
        if self.chance.random() < 0.4:
            return f"(local.get ${kind})"
        if kind[0] == "i":
            return f"({kind}.const {self.chance.choice(_INTERESTING)})"
        return f"({kind}.const {self.chance.choice(('0', '-0', '1.5', '-3e9', 'inf', '0x1p-40'))})"

    def integer(self, kind: str, depth: int) -> str:
        chance, other = self.chance, "i64" if kind == "i32" else "i32"
        sub = depth - 1
        match chance.randrange(9):
            case 0 | 1:
                operation = chance.choice(_ARITHMETIC + _BITS + _TESTS)
                first, second = self.expression(kind, sub), self.expression(kind, sub)
                text = f"({kind}.{operation} {first} {second})"
                is_test = operation in _TESTS
                return f"(i64.extend_i32_u {text})" if is_test and kind == "i64" else text
            case 2:
                operation = chance.choice(_UNARY)
                text = f"({kind}.{operation} {self.expression(kind, sub)})"
                return (
                    f"(i64.extend_i32_u {text})" if operation == "eqz" and kind == "i64" else text
                )
            case 3:
                conversion = "i64.extend_i32_s" if kind == "i64" else "i32.wrap_i64"
                return f"({conversion} {self.expression(other, sub)})"
            case 4:
                number = chance.choice(("f32", "f64"))
                saturating = chance.choice(("", "_sat"))
                return f"({kind}.trunc{saturating}_{number}_s {self.expression(number, sub)})"
            case 5:
                width = chance.choice(("load8_u", "load16_s", "load"))
                return f"({kind}.{width} offset={chance.choice((0, 9, 65530))} {self.address(sub)})"
            case 6:
                test = self.expression("i32", sub)
                return f"(select {self.expression(kind, sub)} {self.expression(kind, sub)} {test})"
            case 7:
                return (
                    f"(call $call_{kind} {self.expression(kind, sub)} {self.expression('i32', 1)})"
                )
            case _:
                test, yes = self.expression("i32", sub), self.expression(kind, sub)
                return f"(if (result {kind}) {test} (then {yes}) (else {self.leaf(kind)}))"

    def float(self, kind: str, depth: int) -> str:
        chance, sub = self.chance, depth - 1
        match chance.randrange(4):
            case 0:
                first, second = self.expression(kind, sub), self.expression(kind, sub)
                return f"({kind}.{chance.choice(_FLOAT_BINARY)} {first} {second})"
            case 1:
                return f"({kind}.{chance.choice(_FLOAT_UNARY)} {self.expression(kind, sub)})"
            case 2:
                source = chance.choice(("i32", "i64"))
                return f"({kind}.convert_{source}_{chance.choice('su')} {self.expression(source, sub)})"
            case _:
                return self.leaf(kind)

    def address(self, depth: int) -> str:
        mask = self.chance.choice((0xFF, 0xFFF8, 0xFFFF, 0x1FFFF))
        return f"(i32.and {self.expression('i32', depth)} (i32.const {mask}))"

    def statement(self, depth: int) -> str:
        chance = self.chance
        match chance.randrange(6):
            case 0 | 1 | 2:
                kind = chance.choice(_TYPES)
                return f"(local.set ${kind} {self.expression(kind, depth)})"
            case 3:
                kind = chance.choice(("i32", "i64"))
                return f"({kind}.store {self.address(depth)} {self.expression(kind, depth)})"
            case 4:
                return f"(drop (memory.grow (i32.and {self.expression('i32', 2)} (i32.const 3))))"
            case _:
                return f"(if {self.expression('i32', 2)} (then {self.statement(depth - 1)}))"


def random_module(seed: int) -> str:
    """The same text for the same seed."""
    chance = Random(seed)
    text = _Text(chance)
    statements = "\n".join(text.statement(4) for _ in range(chance.randrange(1, 12)))
    end = "(br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1))))"
    callees = "".join(
        f"""(func $call_{kind} (param ${kind} {kind}) (param $i i32) (result {kind})
          (call_indirect (type ${kind}) (local.get ${kind})
            (i32.and (local.get $i) (i32.const 7))))
        (func $same_{kind} (type ${kind}) (local.get 0))
        (func $more_{kind} (type ${kind}) ({kind}.add (local.get 0) ({kind}.const 3)))"""
        for kind in ("i32", "i64")
    )
    return f"""(module
      (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
      (type $i32 (func (param i32) (result i32))) (type $i64 (func (param i64) (result i64)))
      (memory (export "memory") 1 8)
      (table 7 funcref)
      (elem (i32.const 0) $same_i32 $more_i32 $same_i64 $more_i64 $same_i32)
      {callees}
      (func (export "_start")
        (local $n i32) (local $i32 i32) (local $i64 i64) (local $f32 f32) (local $f64 f64)
        (local.set $n (i32.const {chance.choice((1, 3, 50))}))
        (loop $l {statements} {end})
        (local.set $i64 (i64.xor (local.get $i64) (i64.extend_i32_u (local.get $i32))))
        (local.set $i64 (i64.xor (local.get $i64) (i64.trunc_sat_f64_s (local.get $f64))))
        (local.set $i64 (i64.xor (local.get $i64) (i64.trunc_sat_f32_s (local.get $f32))))
        (local.set $i64 (i64.mul (local.get $i64) (i64.const 0x9E3779B97F4A7C15)))
        (call $exit (i32.wrap_i64 (i64.rem_u (i64.shr_u (local.get $i64) (i64.const 20))
          (i64.const 120))))))"""


def main(seed: int, count: int) -> None:
    from contract_runs import invoke, load_bytes
    from engine_variant import tested_variant
    from guest_builds import parse_wat

    from limpet.engine import open_engine
    from limpet.engine.protocol import Limits

    variant = tested_variant()
    engine = open_engine(variant.engine)
    for number in range(seed, seed + count):
        module = parse_wat(random_module(number))
        artifact = engine.compile_module(module, variant.options)[0]
        outcome = load_bytes(engine, artifact, Limits(memory_bytes=4 << 16)).run(
            invoke(deadline_seconds=60)
        )
        reason, _, _ = outcome.message.partition(" in ")
        print(number, outcome.kind, outcome.exit_code, outcome.memory_bytes, reason)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
