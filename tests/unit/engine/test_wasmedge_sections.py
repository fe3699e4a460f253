"""What a module loses and gets before WasmEdge sees it."""

from __future__ import annotations

from contextlib import suppress

import pytest
from guest_builds import parse_wat
from hypothesis import given
from hypothesis import strategies as st

from limpet.engine.binary import read_shape
from limpet.engine.protocol import ModuleError
from limpet.engine.wasmedge.sections import _unsigned, limit_tables, strip_custom_sections

MODULE = parse_wat(
    """(module $named (table $t 2 funcref) (table 3 50 externref) (memory (export "memory") 1)
    (func $f (export "_start")) (elem (i32.const 0) $f))"""
)


def custom(name: bytes, content: bytes = b"") -> bytes:
    body = _unsigned(len(name)) + name + content
    return b"\0" + _unsigned(len(body)) + body


@pytest.mark.parametrize("place", [8, len(MODULE)])
def test_custom_sections_go_and_nothing_else(place: int) -> None:
    without = strip_custom_sections(MODULE)
    assert b"named" not in without
    planted = custom(b"wasmedge", b"\1" * 300) + custom(b"") + custom(b"wasmedge")
    assert strip_custom_sections(MODULE[:place] + planted + MODULE[place:]) == without
    before, after = read_shape(MODULE), read_shape(without)
    assert (after.types, after.exports, after.functions) == (
        before.types,
        before.exports,
        before.functions,
    )
    assert after.custom_sections == []


def test_tables_get_a_maximum_and_keep_a_lower_one() -> None:
    assert limit_tables(MODULE, 1000) == parse_wat(
        """(module $named (table $t 2 1000 funcref) (table 3 50 externref)
        (memory (export "memory") 1) (func $f (export "_start")) (elem (i32.const 0) $f))"""
    )
    assert limit_tables(MODULE, 10) == parse_wat(
        """(module $named (table $t 2 10 funcref) (table 3 10 externref)
        (memory (export "memory") 1) (func $f (export "_start")) (elem (i32.const 0) $f))"""
    )


def test_a_module_without_tables_stays_as_it_is() -> None:
    module = parse_wat('(module (memory 1) (func (export "_start")))')
    assert limit_tables(module, 10) == module


def test_a_table_that_starts_beyond_the_limit_is_refused() -> None:
    with pytest.raises(ModuleError, match=r"3 elements and the limit is 2"):
        limit_tables(MODULE, 2)


def test_more_tables_than_the_other_engine_has_are_refused() -> None:
    module = parse_wat("(module (table 1 funcref) (table 1 funcref) (table 1 funcref))")
    with pytest.raises(ModuleError, match="3 tables and the limit is 2"):
        limit_tables(module, 10)


def test_an_unknown_kind_of_table_is_refused() -> None:
    module = MODULE.replace(b"\x70\x00\x02", b"\x70\x04\x02")
    assert module != MODULE
    with pytest.raises(ModuleError, match="proposal that is off"):
        limit_tables(module, 10)


@given(st.binary(max_size=60))
def test_any_bytes_are_answered_or_refused(tail: bytes) -> None:
    with suppress(ModuleError):
        limit_tables(b"\0asm\1\0\0\0" + tail, 10)


@given(st.integers(0, (1 << 32) - 1))
def test_numbers_are_read_as_they_were_written(value: int) -> None:
    from limpet.engine.binary import Reader

    encoded = _unsigned(value)
    assert Reader(encoded, 0, len(encoded)).unsigned() == value
