"""Reading a component's world and what is inside, from text and from hand-made bytes."""

from __future__ import annotations

import pytest
from guest_builds import parse_wat

from limpet.engine.component_binary import (
    Extern,
    Interface,
    is_component,
    parse_interface,
    read_component,
)
from limpet.engine.protocol import ModuleError

HEADER = b"\0asm\x0d\0\1\0"
CORE = b"\0asm\1\0\0\0"


def section(number: int, body: bytes) -> bytes:
    return bytes((number, len(body))) + body


def test_a_component_from_text() -> None:
    shape = read_component(
        parse_wat(
            """(component
            (import "wasi:cli/stdout@0.2.3" (instance))
            (import "plain" (func (param "a" u32)))
            (import "module" (core module))
            (import "resource" (type $r (sub resource)))
            (import "alias" (type (eq $r)))
            (core module $m (memory (export "memory") 2 4)
                (func (export "run") (result i32) i32.const 0))
            (core instance $i (instantiate $m))
            (func $run (result (result)) (canon lift (core func $i "run")))
            (instance $command (export "run" (func $run)))
            (component (core module (memory 3)))
            (export "wasi:cli/run@0.2.3" (instance $command))
            (export "f" (func $run) (func (result (result)))))"""
        )
    )
    assert shape.imports == (
        Extern("wasi:cli/stdout@0.2.3", "instance"),
        Extern("plain", "function"),
        Extern("module", "core module"),
        Extern("resource", "resource"),
        Extern("alias", "type"),
    )
    assert shape.exports == (Extern("wasi:cli/run@0.2.3", "instance"), Extern("f", "function"))
    assert shape.component_count == 1
    assert len(shape.modules) == 2
    assert shape.memory_bytes == 5 * 65536


@pytest.mark.parametrize("form", [b"\0\1a", b"\1\1a", b"\2\1a\2\0\1x\1\1y"])
def test_forms_of_names(form: bytes) -> None:
    shape = read_component(HEADER + section(10, b"\1" + form + b"\1\0"))
    assert shape.imports == (Extern("a", "function"),)


@pytest.mark.parametrize("value", [b"\0\7", b"\1\x7f"])
def test_values(value: bytes) -> None:
    shape = read_component(HEADER + section(10, b"\1\0\1v\2" + value))
    assert shape.imports == (Extern("v", "value"),)


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b"\0asm\x0a\0\1\0", "draft 10"),
        (HEADER + b"\1", "ends in the middle"),
        (HEADER + b"\1\x20", "truncated"),
        (HEADER + section(1, b"junk"), "no WebAssembly begins"),
        (HEADER + section(1, HEADER), "no WebAssembly begins"),
        (HEADER + section(4, CORE), "no WebAssembly begins"),
        (HEADER + section(4, b"\0asm\x0a\0\1\0"), "draft 10"),
        (HEADER + section(10, b"\1\3\1a\1\0"), "form 3"),
        (HEADER + section(10, b"\1\0\1a\x06\0"), "unknown kind 6"),
        (HEADER + section(10, b"\1\0\1a\0\x12\0"), "core kind 18"),
        (HEADER + section(10, b"\1\0\1a\3\2"), "unknown flag 2"),
        (HEADER + section(10, b"\x7f"), "a list of 127"),
        (HEADER + section(11, b"\1\0\1a\5\0"), "ends in the middle"),
        (HEADER + section(10, b"\1\0\2\xff\xfe\1\0"), "not UTF-8"),
    ],
)
def test_damage_is_a_module_error(data: bytes, part: str) -> None:
    with pytest.raises(ModuleError, match=part):
        read_component(data)


def test_nesting_has_an_end() -> None:
    nested = HEADER
    for _ in range(50):
        size = len(nested)
        nested = HEADER + b"\4" + bytes((size & 0x7F | 0x80, size >> 7)) + nested
    assert read_component(nested).component_count == 50
    size = len(nested)
    nested = HEADER + b"\4" + bytes((size & 0x7F | 0x80, size >> 7)) + nested
    with pytest.raises(ModuleError, match="more than 50 deep"):
        read_component(nested)


def test_modules_inside_share_one_budget() -> None:
    with pytest.raises(ModuleError, match="too many sections"):
        read_component(HEADER + section(1, CORE) * 100_001)


@pytest.mark.parametrize(
    ("name", "interface"),
    [
        ("wasi:cli/run@0.2.3", Interface("wasi:cli", "run", "0.2.3")),
        ("a:b/c", Interface("a:b", "c")),
        ("a:b/c@1.0.0-rc.1+x", Interface("a:b", "c", "1.0.0-rc.1+x")),
        ("plain", None),
        ("a:b/", None),
        ("a/b", None),
        ("a:b/c/d", None),
        ("url=<https://x/y>", None),
        ("a:b/c@1@2", None),
        ("", None),
        ("a:" * 50_000, None),
    ],
)
def test_names_of_interfaces(name: str, interface: Interface | None) -> None:
    assert parse_interface(name) == interface
    assert interface is None or str(interface) == name


def test_what_a_component_is() -> None:
    assert is_component(HEADER)
    assert is_component(b"\0asm\x0a\0\1\0")
    assert not is_component(CORE)
    assert not is_component(HEADER[:7])
    assert not is_component(b"junk\x0d\0\1\0")
