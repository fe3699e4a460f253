"""Reading a module's shape, by hand-made bytes and by mutation. Messages: see tests/contract."""

from __future__ import annotations

import fuzz_modules
import pytest
from guest_builds import parse_wat
from hypothesis import given, settings
from hypothesis import strategies as st

from limpet.engine.binary import (
    KIND_FUNCTION,
    KIND_GLOBAL,
    KIND_MEMORY,
    KIND_TABLE,
    FunctionType,
    MemoryType,
    read_shape,
)
from limpet.engine.inspection import inspect_module
from limpet.engine.protocol import ModuleError


def test_the_shape_of_a_module() -> None:
    shape = read_shape(
        parse_wat(
            """(module
            (type (func (param i32 i64 f32 f64 v128 funcref externref) (result i32 i32)))
            (import "a" "function" (func (param i32)))
            (import "a" "table" (table 1 2 funcref))
            (import "a" "global" (global (mut i64)))
            (import "a" "memory" (memory 2 5))
            (func (export "own"))
            (export "again" (func 0)) (export "m" (memory 0)) (export "t" (table 0)))"""
        )
    )
    assert [(each.name, each.kind) for each in shape.imports] == [
        ("function", KIND_FUNCTION),
        ("table", KIND_TABLE),
        ("global", KIND_GLOBAL),
        ("memory", KIND_MEMORY),
    ]
    assert str(shape.imports[0]) == "a.function (i32) -> ()"
    assert str(shape.imports[1]) == "a.table (table)"
    assert shape.types[0] == FunctionType(
        ("i32", "i64", "f32", "f64", "v128", "funcref", "externref"), ("i32", "i32")
    )
    assert shape.exports["own"] == (KIND_FUNCTION, 1)
    assert shape.function_type(1) == FunctionType((), ())
    assert shape.function_type(2) is None
    assert shape.memories == [MemoryType(2 * 65536, maximum_bytes=5 * 65536)]


def test_custom_sections_and_code_are_passed_over() -> None:
    module = parse_wat('(module (func (export "_start") nop))')
    stuffed = module[:8] + b"\0\x05\4name" + module[8:] + b"\0\x84\x80\x80\0\3abc"
    assert inspect_module(stuffed).exports == ("_start",)


@pytest.mark.parametrize(
    "section",
    [
        b"\1\1\x7f",  # more types than there are bytes
        b"\1\2\1\x60",  # a type that ends early
        b"\2\x06\1\1a\1b\x09",  # an import of an unknown kind
        b"\2\4\1\x7fab",  # a name past its section
        b"\2\5\1\2\xff\xfe\0",  # a name that is not UTF-8
        b"\5\7\1\0\xff\xff\xff\xff\x7f",  # a number too large
        b"\5\x0c\1\0" + b"\x80" * 10,  # a number too long
        b"\7\3\1\1a",  # an export that ends early
    ],
)
def test_damage_is_a_module_error(section: bytes) -> None:
    with pytest.raises(ModuleError, match=r"damaged|truncated"):
        inspect_module(b"\0asm\1\0\0\0" + section)


def test_a_large_module_is_inspected_quickly() -> None:
    body = b"\x80\x80\x80\x04" + bytes(1 << 23)
    module = parse_wat('(module (func (export "_start")))') + b"\0" + body
    assert inspect_module(module).exports == ("_start",)


def test_many_unknown_imports_are_cut_short() -> None:
    imports = "".join(f'(import "env" "f{number}" (func))' for number in range(100))
    with pytest.raises(ModuleError, match="and 80 more"):
        inspect_module(parse_wat(f'(module {imports} (func (export "_start")))'))


def test_mutated_modules() -> None:
    done, accepted = fuzz_modules.fuzz(seed=0, seconds=5, inputs=5000)
    assert done > 100
    assert accepted < done


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    for module in (data, b"\0asm\1\0\0\0" + data):
        with pytest.raises(ModuleError):
            inspect_module(module)
