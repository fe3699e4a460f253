"""What host functions do wrong ends the run and nothing else: no exception passes through C."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from component_runs import load, run, wat

from limpet.engine.protocol import OutcomeKind
from limpet.wasi.endings import GuestTrap
from limpet.wasi.preview2 import offered, types
from limpet.wasi.preview2.interface import HostFunction, Interface, Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from limpet.engine.protocol import Engine

# Calls `probe`, whose result the test chooses, lets the canonical ABI store what comes, and returns ok.
_PROBE = """
  (core module $memory
    (memory (export "memory") 4)
    (global $next (mut i32) (i32.const 1024))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (global.get $next)
      (global.set $next (i32.and (i32.const -8)
        (i32.add (i32.const 15) (i32.add (global.get $next) (local.get 3)))))))
  (core instance $space (instantiate $memory))
  (alias core export $space "memory" (core memory $space_memory))
  {imported}
  (core func $lowered (canon lower (func $wasi "probe")
    (memory (core memory $space "memory")) (realloc (core func $space "realloc"))))
  (core module $m
    (import "host" "probe" (func $probe {core}))
    (import "host" "memory" (memory 0))
    (func (export "run") (result i32) {call} (i32.const 0)))
  (core instance $i (instantiate $m (with "host" (instance
    (export "probe" (func $lowered)) (export "memory" (memory $space_memory))))))
"""
_NO_PARAMETERS = {"core": "(param i32)", "call": "(call $probe (i32.const 16))"}

_TEXT = (types.STRING, "string")
_BYTES = (types.BYTES, "(list u8)")
_RESULT = (types.Result(types.U8, types.Enum(("a", "b"))), '(result u8 (error (enum "a" "b")))')
_NESTED = (
    types.List(types.Tuple((types.STRING, types.Option(types.BYTES)))),
    "(list (tuple string (option (list u8))))",
)
_RECORD = (
    types.Record((("x", types.U16), ("y", types.Flags(("f", "g"))))),
    '(record (field "x" u16) (field "y" (flags "f" "g")))',
)
_VARIANT = (
    types.Variant((("none", None), ("some", types.U64))),
    '(variant (case "none") (case "some" u64))',
)


def _probe(
    monkeypatch: pytest.MonkeyPatch,
    engine: Engine,
    kind: tuple[types.Type, str],
    call: Callable[..., object],
) -> Any:
    """Run a component that asks `call` for a value of this type."""
    of, text = kind

    def explain(error: Exception) -> object:
        if isinstance(error, Refused):
            return error.value
        raise error

    interface = Interface()
    interface.functions["probe"] = HostFunction(types.Signature((), of), call, explain)
    monkeypatch.setattr(offered, "find_interface", lambda _name: interface)
    # Types of their own must be named where they are exported.
    imported = (
        f'(import "wasi:cli/exit@0.2.0" (instance $wasi {_named(text)}'
        ' (export "probe" (func (result $t)))))'
    )
    component = wat(_PROBE.format(imported=imported, **_NO_PARAMETERS))
    return run(load(engine, component))[0]


def _named(text: str) -> str:
    if any(word in text for word in ("enum", "record", "variant", "flags")):
        parts = text
        definitions = ""
        for index, inner in enumerate(('(enum "a" "b")', '(flags "f" "g")')):
            if inner in parts:
                definitions += (
                    f'(type $d{index} {inner}) (export "d{index}" (type $n{index} (eq $d{index})))'
                )
                parts = parts.replace(inner, f"$n{index}")
        return f'{definitions} (type $d {parts}) (export "t" (type $t (eq $d)))'
    return f"(type $t {text})"


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (_TEXT, "naïve 🐚"),
        (_TEXT, ""),
        (_BYTES, bytes(range(256))),
        (_BYTES, b""),
        (_RESULT, 255),
        (_NESTED, [("a", None), ("", b"x"), ("b" * 1000, b"")]),
        (_NESTED, []),
        (_RECORD, (65535, frozenset({"g"}))),
        (_RECORD, (0, frozenset())),
        (_VARIANT, ("none", None)),
        (_VARIANT, ("some", 2**64 - 1)),
    ],
    ids=count(),
)
def test_values_arrive(
    monkeypatch: pytest.MonkeyPatch, engine: Engine, kind: Any, value: object
) -> None:
    outcome = _probe(monkeypatch, engine, kind, lambda _run: value)
    assert (outcome.kind, outcome.exit_code, outcome.message) == (OutcomeKind.EXIT, 0, "")


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (_TEXT, "\udc80"),
        (_TEXT, b"bytes"),
        (_TEXT, None),
        (_BYTES, "text"),
        (_BYTES, 5),
        (_RESULT, 256),
        (_RESULT, -1),
        (_RESULT, Refused("c")),
        (_NESTED, [("a",)]),
        (_NESTED, [("a", None, None)]),
        (_NESTED, [("a", "text")]),
        (_NESTED, 7),
        (_RECORD, (65536, frozenset())),
        (_RECORD, (1,)),
        (_RECORD, (1, 2)),
        (_RECORD, (1, frozenset({"h"}))),
        (_VARIANT, ("other", None)),
        (_VARIANT, ("some", None)),
        (_VARIANT, None),
    ],
    ids=count(),
)
def test_wrong_values_end_the_run(
    monkeypatch: pytest.MonkeyPatch, engine: Engine, kind: Any, value: object
) -> None:
    assert _probe(monkeypatch, engine, kind, lambda _run: value).kind is OutcomeKind.TRAP


@pytest.mark.parametrize(
    "raised",
    [
        ValueError("surprise"),
        OSError(5, "surprise"),
        MemoryError(),
        RecursionError(),
        GuestTrap("surprise"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "surprise"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("kind", [_TEXT, _RESULT], ids=["string", "result"])
def test_exceptions_end_the_run(
    monkeypatch: pytest.MonkeyPatch, engine: Engine, kind: Any, raised: Exception
) -> None:
    def fail(_run: object) -> object:
        raise raised

    assert _probe(monkeypatch, engine, kind, fail).kind is OutcomeKind.TRAP


@pytest.mark.parametrize("meant_for_the_host", [KeyboardInterrupt, SystemExit])
def test_the_hosts_own_exceptions_reach_it(
    monkeypatch: pytest.MonkeyPatch, engine: Engine, meant_for_the_host: type[BaseException]
) -> None:
    def stop(_run: object) -> object:
        raise meant_for_the_host

    with pytest.raises(meant_for_the_host):
        _probe(monkeypatch, engine, _TEXT, stop)
