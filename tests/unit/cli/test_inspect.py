from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from guest_builds import build_guest, parse_wat

from limpet.cli import inspect

EXAMPLES = Path(__file__).parents[3] / "examples"
WASI = "wasi_snapshot_preview1"
COMPONENT = """(component
    (import "wasi:cli/environment@0.2.3" (instance))
    (import "wasi:cli/stdout@0.2.3" (instance))
    (import "wasi:sockets/tcp@0.2.0" (instance (export "tcp-socket" (type $t (sub resource)))
        (export "[method]tcp-socket.start-listen" (func (param "self" (borrow $t))))))
    (core module $m (memory 2 4) (func (export "run") (result i32) i32.const 0))
    (core module (memory 1))
    (core instance $i (instantiate $m))
    (func $run (result (result)) (canon lift (core func $i "run")))
    (instance $command (export "run" (func $run)))
    (export "wasi:cli/run@0.2.3" (instance $command)))"""
HTTP_COMPONENT = """(component
    (import "wasi:http/types@0.2.0" (instance))
    (import "wasi:io/streams@0.2.0" (instance))
    (import "acme:shop/cart@1.0.0" (instance))
    (instance $handler)
    (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))"""
SOCKETS = f"""(module
    (import "{WASI}" "sock_open" (func (param i32 i32 i32) (result i32)))
    (import "{WASI}" "sock_bind" (func (param i32 i32 i32) (result i32)))
    (import "{WASI}" "sock_listen" (func (param i32 i32) (result i32)))
    (import "{WASI}" "sock_accept" (func (param i32 i32) (result i32)))
    (import "{WASI}" "proc_exit" (func (param i32)))
    (memory (export "memory") 1) (func (export "_start")))"""
FOREIGN = f"""(module
    (import "env" "printf" (func (param i32 i32) (result i32)))
    (import "env" "memory" (memory 1 2 shared))
    (import "{WASI}" "fd_close" (func (param i64) (result i32)))
    (import "{WASI}" "fd_sync" (func (param i32) (result i32)))
    (import "wasi" "thread-spawn" (func (param i32) (result i32)))
    (func (export "_initialize")))"""


def text(part: bytes) -> bytes:
    return bytes((len(part),)) + part


def custom(name: bytes, body: bytes) -> bytes:
    content = text(name) + body
    return b"\0" + bytes((len(content),)) + content


def planted() -> bytes:
    """A module that says who made it, carries native code, and needs much memory."""
    module = parse_wat('(module (memory (export "memory") 1200) (func (export "_start")))')
    producers = b"\1" + text(b"processed-by") + b"\1" + text(b"clang") + text(b"19.1.5")
    features = b"\2+" + text(b"simd128") + b"+" + text(b"bulk-memory")
    return (
        module
        + custom(b"producers", producers)
        + custom(b"target_features", features)
        + custom(b"wasmedge", bytes(100))
    )


TWO_SHAPES = f"""(module
    (import "{WASI}" "sock_getpeeraddr" (func (param i32 i32 i32 i32) (result i32)))
    (import "{WASI}" "sock_getpeeraddr" (func (param i32 i32 i32) (result i32)))
    (memory (export "memory") 1) (func (export "_start")))"""
FILES = {
    "component": lambda: parse_wat(COMPONENT),
    "http-component": lambda: parse_wat(HTTP_COMPONENT),
    "sockets": lambda: parse_wat(SOCKETS),
    "foreign": lambda: parse_wat(FOREIGN),
    "two-shapes": lambda: parse_wat(TWO_SHAPES),
    "multi-value": lambda: build_guest("multi_value_tables"),
    "planted": planted,
    "damaged": lambda: b"\0asm\1\0\0\0\1\2\xff\xff",
    "web-page": lambda: b"<!DOCTYPE html><html><title>404</title>",
}


@pytest.fixture
def usable(monkeypatch):
    """Both engines are here, unless a test says something else."""
    engines = {"wasmtime": "", "wasmedge": ""}
    monkeypatch.setattr(inspect, "_usable_engines", lambda data: engines)
    return engines


@pytest.fixture
def inspect_(limpet_, usable, tmp_path, monkeypatch):
    """Inspect these bytes as a file of this name in the current directory."""
    monkeypatch.chdir(tmp_path)

    def run(name, content, *options):
        (tmp_path / name).write_bytes(content)
        return limpet_("inspect", name, *options)

    return run


@pytest.mark.parametrize("name", ["hello", "sensor", "report", "ticker"])
def test_examples(name, limpet_, usable, golden, monkeypatch):
    monkeypatch.chdir(EXAMPLES / name)
    result = limpet_("inspect", f"{name}.wasm")
    assert result.exit_code == 0
    golden(f"inspect-{name}.txt", result.stdout)


@pytest.mark.parametrize("name", FILES)
def test_screens(name, inspect_, golden):
    result = inspect_(f"{name}.wasm", FILES[name]())
    assert result.stderr == ""
    golden(f"inspect-{name}.txt", result.stdout)
    told = json.loads(inspect_(f"{name}.wasm", FILES[name](), "-o", "json").stdout)
    assert result.exit_code == (0 if told["ok"] else 2)


@pytest.mark.parametrize("columns", [60, 100])
def test_screens_in_a_terminal(columns, inspect_, terminal, golden):
    terminal(columns)
    result = inspect_("sockets.wasm", FILES["sockets"]())
    golden(f"inspect-terminal-{columns}.txt", result.stdout)


@pytest.mark.parametrize("name", ["component", "foreign", "planted"])
def test_json(name, inspect_, golden):
    golden(f"inspect-{name}.json", inspect_(f"{name}.wasm", FILES[name](), "-o", "json").stdout)


def test_json_has_the_same_fields_for_every_kind(inspect_):
    fields = {
        tuple(json.loads(inspect_("x.wasm", make(), "-o", "json").stdout))
        for make in FILES.values()
    }
    assert len(fields) == 1


def test_an_engine_that_is_missing(inspect_, usable):
    usable["wasmedge"] = "there is none: install it with `limpet engine install wasmedge`"
    result = inspect_("sockets.wasm", FILES["sockets"]())
    assert result.exit_code == 0
    assert "Limpet takes wasmtime" in result.stdout
    assert "install it with `limpet engine install wasmedge`" in result.stdout


def test_names_from_the_file_do_not_reach_the_terminal_raw(inspect_, terminal):
    hostile = parse_wat(
        '(module (import "env" "\\1b]0;owned\\07" (func)) (func (export "\\1b[2J")))'
    )
    hostile += custom(b"producers", b"\1" + text(b"sdk") + b"\1" + text(b"\x1b[31m") + text(b"\n"))
    result = inspect_("hostile.wasm", hostile)
    assert result.exit_code == 2
    assert "owned" not in result.stdout
    assert "\x1b[2J" not in result.stdout


def test_long_names_and_lists_are_cut(inspect_):
    name = "n" * 5000
    exports = "".join(f'(export "{number}{name}" (func 0))' for number in range(30))
    imports = "".join(f'(import "{name}" "{number}{name}" (func))' for number in range(30))
    result = inspect_("long.wasm", parse_wat(f"(module {imports} {exports})"))
    assert result.exit_code == 2
    assert "and 10 more" in result.stdout
    assert max(map(len, result.stdout.splitlines())) < 3000


def test_what_is_no_file(limpet_, usable, tmp_path):
    result = limpet_("inspect", tmp_path / "none.wasm")
    assert result.exit_code == 3
    assert "there is no file" in result.stderr
    result = limpet_("inspect", tmp_path)
    assert result.exit_code == 2
    os.mkfifo(tmp_path / "pipe")
    result = limpet_("inspect", tmp_path / "pipe")
    assert result.exit_code == 2
    assert "is no file" in result.stderr


def test_what_is_too_large(limpet_, usable, tmp_path):
    path = tmp_path / "large.wasm"
    path.touch()
    os.truncate(path, (256 << 20) + 1)
    result = limpet_("inspect", path)
    assert result.exit_code == 2
    assert "256Mi" in result.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_what_may_not_be_read(limpet_, usable, tmp_path):
    path = tmp_path / "secret.wasm"
    path.touch(mode=0)
    result = limpet_("inspect", path)
    assert result.exit_code == 5


def test_engines_are_looked_for_and_not_loaded(limpet_, tmp_path, monkeypatch):
    monkeypatch.delenv("LIMPET_WASMEDGE_ROOT", raising=False)
    shutil.copy(EXAMPLES / "hello" / "hello.wasm", tmp_path)
    result = limpet_("inspect", tmp_path / "hello.wasm", "--data", tmp_path, "-o", "json")
    told = json.loads(result.stdout)
    assert result.exit_code == 0
    assert told["engine"]["name"] == "wasmtime"
    assert {verdict["engine"] for verdict in told["verdicts"]} == {"wasmtime", "wasmedge"}
