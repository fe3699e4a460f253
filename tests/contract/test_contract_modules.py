"""Which modules are refused, and that the message helps."""

from __future__ import annotations

import os

import pytest
from contract_runs import WASI, Loader
from guest_builds import parse_wat

from limpet.engine.protocol import Engine, Limits, ModuleError
from limpet.errors import InvalidInputError

GOOD = '(module (memory (export "memory") 1) (func (export "_start")))'


@pytest.mark.parametrize(
    ("module", "parts"),
    [
        (b"", ["empty"]),
        (b"\0as", ["first bytes"]),
        (b"\0asm", ["truncated"]),
        (b"\0asm\x01\0\0\0\x01\x20", ["truncated"]),
        (b"\0asm\x0d\0\x01\0", ["component"]),
        (b"\0asm\x02\0\0\0", ["version 2"]),
        (b"\x7fELF\x02\x01\x01", ["ELF", "wasm32-wasip1"]),
        (b"\x1f\x8b\x08\0", ["gzip", "unpack"]),
        (b"PK\x03\x04", ["zip"]),
        (b"(module (func))", ["WebAssembly text", "wat2wasm"]),
        (b"  \n;; comment\n(module)", ["WebAssembly text"]),
        (b"<!DOCTYPE html><html>", ["web page"]),
        (b"version https://git-lfs.github.com/spec/v1\n", ["Git LFS"]),
        (b"#!/bin/sh\n", ["script"]),
        (b'{"a": 1}', ["JSON"]),
        (b"hello there", ["text"]),
        (b"\xde\xad\xbe\xef\x00", ["de ad be ef"]),
        (b"\0asm\x01\0\0\0\x01\x02\xff\xff", ["damaged"]),
    ],
)
def test_what_is_no_module(engine: Engine, module: bytes, parts: list[str]) -> None:
    _assert_refused(engine, module, parts)


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        ('(memory (export "memory") 1)', ["_start", "main function"]),
        ('(func (export "_initialize"))', ["library", "_initialize"]),
        ('(func (export "_start") (param i32))', ["_start", "without parameters"]),
        ('(global (export "_start") i32 (i32.const 0))', ["_start"]),
        (
            f'(import "{WASI}" "fd_close" (func (param i32) (result i32)))'
            f'(import "{WASI}" "fd_sync" (func (param i32) (result i32)))'
            '(func (export "_start"))',
            ["memory", "--export-memory"],
        ),
        (
            '(import "env" "printf" (func (param i32 i32) (result i32)))'
            '(import "wasi_unstable" "fd_write" (func))'
            f'(import "{WASI}" "fd_wrote" (func))'
            f'(import "{WASI}" "fd_close" (func (param i64) (result i32)))'
            '(import "wasi:io/streams@0.2.0" "x" (func))'
            '(import "other" "thing" (global i32))'
            '(memory (export "memory") 1) (func (export "_start"))',
            [
                "env.printf",
                "link the library",
                "wasi_unstable.fd_write",
                f"{WASI}.fd_wrote",
                "no function of this name",
                "(i64) -> (i32)",
                "(i32) -> (i32)",
                "WASI 0.2",
                "other.thing (global)",
            ],
        ),
        ('(import "env" "memory" (memory 1)) (func (export "_start"))', ["--import-memory"]),
        ('(memory (export "memory") 1 2 shared) (func (export "_start"))', ["shared", "-pthread"]),
        ('(memory (export "memory") i64 1) (func (export "_start"))', ["64-bit", "wasm32"]),
        ('(memory (export "memory") 1) (memory 1) (func (export "_start"))', ["2 memories"]),
        ('(tag) (func (export "_start") (throw 0))', ["exception"]),
        ('(type (struct)) (func (export "_start"))', ["garbage collection"]),
    ],
)
def test_what_can_not_run_here(engine: Engine, body: str, parts: list[str]) -> None:
    _assert_refused(engine, parse_wat(f"(module {body})"), parts)


def test_invalid_code_is_refused(engine: Engine) -> None:
    good = parse_wat('(module (func (export "_start") (drop (i32.const 7))))')
    bad = good.replace(b"\x41\x07\x1a", b"\x42\x07\x45")
    assert bad != good
    _assert_refused(engine, bad, ["can't be compiled"])


def test_what_compiling_learns(engine: Engine) -> None:
    _, info = engine.compile_module(
        parse_wat(
            f"""(module (import "{WASI}" "proc_exit" (func (param i32)))
            (memory (export "memory") 3) (func (export "_start")) (func (export "other")))"""
        )
    )
    assert info.imports == (f"{WASI}.proc_exit",)
    assert set(info.exports) == {"memory", "_start", "other"}
    assert info.memory_bytes == 3 * 65536


def test_a_start_beyond_the_limit_is_refused_with_both_sizes(load: Loader) -> None:
    body = '(memory (export "memory") 32) (func (export "_start"))'
    load.wat(body, memory_bytes=32 * 65536)
    with pytest.raises(ModuleError, match=r"2097152.*1048576"):
        load.wat(body, memory_bytes=1 << 20)


def test_a_foreign_artifact_is_refused(engine: Engine) -> None:
    descriptor = os.memfd_create("artifact")
    os.write(descriptor, b"\x7fELF" + bytes(200))
    with pytest.raises(ModuleError, match="compile the module again"):
        engine.load(descriptor, limits=Limits(memory_bytes=1 << 20))
    os.ftruncate(descriptor, 0)
    with pytest.raises(ModuleError, match="compile the module again"):
        engine.load(descriptor, limits=Limits(memory_bytes=1 << 20))
    os.close(descriptor)


def test_an_artifact_outlives_its_descriptor(engine: Engine) -> None:
    from contract_runs import invoke

    descriptor = os.memfd_create("artifact")
    os.write(descriptor, engine.compile_module(parse_wat(GOOD))[0])
    program = engine.load(descriptor, limits=Limits(memory_bytes=1 << 20))
    os.close(descriptor)
    assert program.run(invoke()).exit_code == 0


def test_the_artifact_key_is_stable_and_fit_for_a_file_name(engine: Engine) -> None:
    key = engine.artifact_key()
    assert key == engine.artifact_key()
    assert engine.version in key
    assert key.replace("-", "").replace(".", "").replace("_", "").isalnum()


def _assert_refused(engine: Engine, module: bytes, parts: list[str]) -> None:
    with pytest.raises(ModuleError) as caught:
        engine.compile_module(module)
    for part in parts:
        assert part in str(caught.value)
    assert isinstance(caught.value, InvalidInputError)
