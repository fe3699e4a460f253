"""What is no command of WASI 0.2, or asks for more than is offered, is refused by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from component_runs import COMMAND, running, wat
from guest_builds import parse_wat

from limpet.engine.protocol import CompileOptions, ModuleError

if TYPE_CHECKING:
    from limpet.engine.protocol import Engine

_CODE = """
  (core module $m (func (export "run") (result i32) (i32.const 0)))
  (core instance $i (instantiate $m))
"""
_MEMORIES = "".join(
    f"(core module $m{index} (memory 1)) (core instance (instantiate $m{index}))"
    for index in range(5)
)


@pytest.mark.parametrize(
    ("imports", "named"),
    [
        ('(import "wasi:http/types@0.2.3" (instance))', "wasi:http/types@0.2.3"),
        ('(import "wasi:nn/tensor@0.2.0" (instance))', "wasi:nn/tensor@0.2.0"),
        ('(import "wasi:io/poll@0.3.0" (instance))', "wasi:io/poll@0.3.0"),
        ('(import "wasi:io/poll@0.2.0-rc-1" (instance))', "wasi:io/poll@0.2.0-rc-1"),
        ('(import "my:own/thing@1.0.0" (instance))', "my:own/thing@1.0.0"),
        ('(import "plain" (func))', "plain"),
        (
            '(import "wasi:cli/exit@0.2.0" (instance (export "leave" (func))))',
            "wasi:cli/exit@0.2.0 leave - not offered",
        ),
        (
            '(import "wasi:random/random@0.2.0" (instance'
            ' (export "get-random-u64" (func (result string)))))',
            "get-random-u64 - WASI 0.2 declares it func() -> u64",
        ),
        (
            '(import "wasi:io/poll@0.2.0" (instance (export "gadget" (type (sub resource)))))',
            "wasi:io/poll@0.2.0 gadget - no such resource",
        ),
        (
            '(import "wasi:cli/stdin@0.2.0" (instance $s'
            ' (export "input-stream" (type $t (sub resource)))'
            ' (export "get-stdin" (func (result (own $t))))))',
            "wasi:cli/stdin@0.2.0 input-stream - no such resource",
        ),
    ],
)
def test_imports(engine: Engine, imports: str, named: str) -> None:
    with pytest.raises(ModuleError) as refusal:
        engine.compile_module(wat(imports + _CODE))
    assert named in str(refusal.value)


@pytest.mark.parametrize(
    ("component", "named"),
    [
        ("(component)", "exports no wasi:cli/run"),
        (
            f'(component {_CODE} (func $run (result u32) (canon lift (core func $i "run")))'
            ' (instance $e (export "run" (func $run)))'
            ' (export "wasi:cli/run@0.2.0" (instance $e)))',
            "run: func() -> result",
        ),
        (f"(component {_CODE} {COMMAND.replace('0.2.0', '0.3.0')})", "exports no wasi:cli/run"),
        (f"(component {_MEMORIES} {_CODE} {COMMAND})", "5 memories"),
    ],
)
def test_shapes(engine: Engine, component: str, named: str) -> None:
    with pytest.raises(ModuleError) as refusal:
        engine.compile_module(parse_wat(component))
    assert named in str(refusal.value)


def test_damaged_components(engine: Engine) -> None:
    """Wherever it is cut, and whichever byte is wrong: a refusal, or something that can be run."""
    component = running("(i32.const 0)")
    damaged = [component[:length] for length in range(8, len(component))]
    for place in range(8, len(component)):
        changed = bytearray(component)
        changed[place] ^= 0x11
        damaged.append(bytes(changed))
    refused = 0
    for each in damaged:
        try:
            engine.compile_module(each)
        except ModuleError:
            refused += 1
    assert refused > len(damaged) // 2


def test_no_interpreter(engine: Engine) -> None:
    with pytest.raises(ModuleError, match="interpreter"):
        engine.compile_module(running("(i32.const 0)"), CompileOptions(is_interpreted=True))
