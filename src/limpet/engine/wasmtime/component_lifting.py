"""Reads what a component passes to a host function out of C's memory.

Lifters are made once for each function, of its declared types, which the engine has checked the values
against.
"""

from __future__ import annotations

from ctypes import string_at
from typing import TYPE_CHECKING

from limpet.engine.raw_memory import view_memory
from limpet.engine.wasmtime.component_values import (
    INTEGERS,
    NAME_BYTES,
    RECORD_ENTRY_BYTES,
    VALUE_BYTES,
    byte_at,
    spread,
    word_at,
)
from limpet.wasi.endings import GuestTrap
from limpet.wasi.preview2 import types

if TYPE_CHECKING:
    from collections.abc import Callable

    from limpet.engine.wasmtime.component_values import Passage
    from limpet.wasi.preview2.types import Type

    Lift = Callable[[int], object]  # (address) -> value

_COPIED_BYTES = 16 * 1024
# Of a list of anything but bytes. A guest that waits for more than it may hold is wrong or hostile.
_MAX_ELEMENTS = 16 * 1024


def lifter(of: Type, passage: Passage) -> Lift:  # noqa: C901 - one case for each kind of type
    """What reads a value of this type. Raises TypeError for a type that no host function takes."""
    match of:
        case types.Primitive("bool"):
            return lambda at: bool(byte_at(at + 8).value & 1)
        case types.Primitive(name) if name in INTEGERS:
            integer = INTEGERS[name].from_address
            return lambda at: integer(at + 8).value
        case types.Primitive("string") | types.Enum():
            return lambda at: string_at(word_at(at + 16).value, word_at(at + 8).value).decode()
        case types.List(types.Primitive("u8")):
            return _lift_bytes
        case types.List(element):
            return _lift_list(lifter(element, passage))
        case types.Tuple(items):
            return _lift_parts([lifter(item, passage) for item in items], VALUE_BYTES, 0)
        case types.Record(fields):
            lifts = [lifter(field, passage) for _, field in fields]
            return _lift_parts(lifts, RECORD_ENTRY_BYTES, NAME_BYTES)
        case types.Variant(cases):
            return _lift_variant(
                {name: None if part is None else lifter(part, passage) for name, part in cases}
            )
        case types.Option(part):
            lift_part = lifter(part, passage)
            return lambda at: lift_part(place) if (place := word_at(at + 8).value) else None
        case types.Result(ok, error):
            return _lift_result(
                None if ok is None else lifter(ok, passage),
                None if error is None else lifter(error, passage),
            )
        case types.Flags():
            return _lift_flags
        case types.Own() | types.Borrow():
            return passage.lift_resource
    raise TypeError(f"no host function takes {of}")


def _lift_bytes(at: int) -> bytes:
    start, count = word_at(at + 16).value, word_at(at + 8).value
    if count <= _COPIED_BYTES:
        return string_at(start, count * VALUE_BYTES)[8::VALUE_BYTES]
    # The same without a copy of what lies between the bytes: slower for a few, leaner for many.
    with view_memory(start, count * VALUE_BYTES) as slots:
        return slots[8::VALUE_BYTES].tobytes()


def _lift_list(lift_element: Lift) -> Lift:
    def lift(at: int) -> list[object]:
        count = word_at(at + 8).value
        if count > _MAX_ELEMENTS:  # nothing ends the host while it reads them
            raise GuestTrap(f"passed a list of {count} elements, {_MAX_ELEMENTS} are the most")
        return [lift_element(place) for place in spread(word_at(at + 16).value, count, VALUE_BYTES)]

    return lift


def _lift_parts(lifts: list[Lift], stride: int, offset: int) -> Lift:
    def lift(at: int) -> tuple[object, ...]:
        start = word_at(at + 16).value + offset
        return tuple(
            lift_part(place)
            for lift_part, place in zip(lifts, spread(start, len(lifts), stride), strict=True)
        )

    return lift


def _lift_name(at: int) -> str:
    """A `wasm_name_t`."""
    return string_at(word_at(at + 8).value, word_at(at).value).decode()


def _lift_variant(lifts: dict[str, Lift | None]) -> Lift:
    def lift(at: int) -> tuple[str, object]:
        name = _lift_name(at + 8)
        lift_part = lifts[name]
        return name, None if lift_part is None else lift_part(word_at(at + 24).value)

    return lift


def _lift_result(lift_ok: Lift | None, lift_error: Lift | None) -> Lift:
    def lift(at: int) -> tuple[bool, object]:
        is_ok = bool(byte_at(at + 8).value & 1)
        lift_part = lift_ok if is_ok else lift_error
        return is_ok, None if lift_part is None else lift_part(word_at(at + 16).value)

    return lift


def _lift_flags(at: int) -> frozenset[str]:
    places = spread(word_at(at + 16).value, word_at(at + 8).value, NAME_BYTES)
    return frozenset(map(_lift_name, places))
