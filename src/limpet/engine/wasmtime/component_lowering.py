"""Writes what a host function returns into C's memory.

Lowerers are made once for each function, of its declared types. What they allocate is C's own, because
C frees it; a text that is none would end the process, so that only `str` is ever lowered as one, and
names only where they are the type's.

One program's lowerers share scratch space: they are for one thread at a time.
"""

from __future__ import annotations

import ctypes
from ctypes import memmove
from typing import TYPE_CHECKING, cast

from limpet.engine.wasmtime import component_binding as c
from limpet.engine.wasmtime.component_values import (
    ENUM,
    FLAGS,
    INTEGERS,
    KINDS,
    LIST,
    NAME_BYTES,
    OPTION,
    RECORD,
    RECORD_ENTRY_BYTES,
    RESULT,
    TUPLE,
    VALUE_BYTES,
    VARIANT,
    byte_at,
    spread,
    word_at,
)
from limpet.wasi.preview2 import types
from limpet.wasi.preview2.interface import Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from limpet.engine.wasmtime.component_values import Passage
    from limpet.wasi.preview2.resources import Resource
    from limpet.wasi.preview2.types import Type

    Lower = Callable[[int, object], None]  # (address, value)


def lowerer(of: Type, passage: Passage) -> Lower:  # noqa: C901 - one case for each kind of type
    """What writes a value of this type over an empty one."""
    match of:
        case types.Primitive("bool"):
            return _lower_bool
        case types.Primitive("string"):
            return _lower_text(KINDS["string"])
        case types.Primitive(name):
            return _lower_integer(name)
        case types.Enum(names):
            return _lower_enum(frozenset(names))
        case types.List(types.Primitive("u8")):
            return _lower_bytes
        case types.List(element):
            return _lower_list(lowerer(element, passage))
        case types.Tuple(items):
            return _lower_tuple([lowerer(item, passage) for item in items])
        case types.Record(fields):
            return _lower_record([(name, lowerer(field, passage)) for name, field in fields])
        case types.Variant(cases):
            return _lower_variant(
                {name: None if part is None else lowerer(part, passage) for name, part in cases}
            )
        case types.Option(part):
            return _lower_option(lowerer(part, passage))
        case types.Result(ok, error):
            return _lower_result(
                None if ok is None else lowerer(ok, passage),
                None if error is None else lowerer(error, passage),
            )
        case types.Flags(names):
            return _lower_flags(frozenset(names))
        case types.Own(name):
            return _lower_resource(passage, passage.numbers[name])
    raise TypeError(f"no host function returns {of}")


def _lower_resource(passage: Passage, type_number: int) -> Lower:
    return lambda at, value: passage.lower_resource(at, cast("Resource", value), type_number)


def _lower_bool(at: int, value: object) -> None:
    word_at(at + 8).value = bool(value)
    byte_at(at).value = KINDS["bool"]


def _lower_integer(name: str) -> Lower:
    kind, end = KINDS[name], 1 << 8 * ctypes.sizeof(INTEGERS[name])

    def lower(at: int, value: object) -> None:
        number = cast("int", value)
        if not 0 <= number < end:
            raise ValueError(f"{number} is no {name}")
        word_at(at + 8).value = number
        byte_at(at).value = kind

    return lower


def _lower_name(at: int, text: str) -> None:
    encoded = text.encode()
    c.byte_vec_new(at, len(encoded), encoded)


def _lower_text(kind: int) -> Lower:
    def lower(at: int, value: object) -> None:
        _lower_name(at + 8, cast("str", value))
        byte_at(at).value = kind

    return lower


def _lower_enum(names: frozenset[str]) -> Lower:
    lower_name = _lower_text(ENUM)

    def lower(at: int, value: object) -> None:
        if value not in names:
            raise ValueError(f"{value!r} is none of {', '.join(sorted(names))}")
        lower_name(at, value)

    return lower


def _lower_flags(known: frozenset[str]) -> Lower:
    def lower(at: int, value: object) -> None:
        names = cast("frozenset[str]", value)
        if not names <= known:
            raise ValueError(f"{names - known} are none of {', '.join(sorted(known))}")
        c.valflags_new_uninit(at + 8, len(names))
        byte_at(at).value = FLAGS
        places = spread(word_at(at + 16).value, len(names), NAME_BYTES)
        for place, name in zip(places, names, strict=True):
            _lower_name(place, name)

    return lower


def _lower_bytes(at: int, value: object) -> None:
    data = cast("bytes", value)
    count = len(data)
    slots = bytearray(count * VALUE_BYTES)
    slots[0::VALUE_BYTES] = bytes((KINDS["u8"],)) * count
    slots[8::VALUE_BYTES] = data
    c.vallist_new_uninit(at + 8, count)
    byte_at(at).value = LIST
    memmove(word_at(at + 16).value, (ctypes.c_char * len(slots)).from_buffer(slots), len(slots))


def _lower_list(lower_element: Lower) -> Lower:
    def lower(at: int, value: object) -> None:
        elements = cast("list[object]", value)
        c.vallist_new_uninit(at + 8, len(elements))
        byte_at(at).value = LIST
        places = spread(word_at(at + 16).value, len(elements), VALUE_BYTES)
        for place, element in zip(places, elements, strict=True):
            lower_element(place, element)

    return lower


def _lower_tuple(lowers: list[Lower]) -> Lower:
    def lower(at: int, value: object) -> None:
        c.valtuple_new_uninit(at + 8, len(lowers))
        byte_at(at).value = TUPLE
        places = spread(word_at(at + 16).value, len(lowers), VALUE_BYTES)
        parts = cast("tuple[object, ...]", value)
        for place, lower_part, part in zip(places, lowers, parts, strict=True):
            lower_part(place, part)

    return lower


def _lower_record(fields: list[tuple[str, Lower]]) -> Lower:
    def lower(at: int, value: object) -> None:
        c.valrecord_new_uninit(at + 8, len(fields))
        byte_at(at).value = RECORD
        places = spread(word_at(at + 16).value, len(fields), RECORD_ENTRY_BYTES)
        parts = cast("tuple[object, ...]", value)
        for place, (name, lower_part), part in zip(places, fields, parts, strict=True):
            _lower_name(place, name)
            lower_part(place + NAME_BYTES, part)

    return lower


class _Box:
    """Moves a value into memory of C's own, as variants, options and results hold theirs."""

    __slots__ = ("_at", "_lower", "_scratch")

    def __init__(self, lower: Lower) -> None:
        self._lower = lower
        self._scratch = (ctypes.c_uint64 * 4)()
        self._at = ctypes.addressof(self._scratch)

    def new(self, value: object) -> int:
        """The address of a new `wasmtime_component_val_t`."""
        at = self._at
        byte_at(at).value = 0  # whatever was there is C's now
        self._lower(at, value)
        address: int = c.val_new(at)
        return address


def _box(lower: Lower | None) -> _Box | None:
    return None if lower is None else _Box(lower)


def _lower_variant(lowers: dict[str, Lower | None]) -> Lower:
    boxes = {name: _box(lower) for name, lower in lowers.items()}

    def lower(at: int, value: object) -> None:
        name, payload = cast("tuple[str, object]", value)
        box = boxes[name]
        address = 0 if box is None else box.new(payload)
        _lower_name(at + 8, name)
        word_at(at + 24).value = address
        byte_at(at).value = VARIANT

    return lower


def _lower_option(lower_part: Lower) -> Lower:
    box = _Box(lower_part)

    def lower(at: int, value: object) -> None:
        word_at(at + 8).value = 0 if value is None else box.new(value)
        byte_at(at).value = OPTION

    return lower


def _lower_result(lower_ok: Lower | None, lower_error: Lower | None) -> Lower:
    """`Refused` as the value stands for the error."""
    ok, refused = _box(lower_ok), _box(lower_error)

    def lower(at: int, value: object) -> None:
        if isinstance(value, Refused):
            is_ok, address = 0, 0 if refused is None else refused.new(value.value)
        else:
            is_ok, address = 1, 0 if ok is None else ok.new(value)
        word_at(at + 8).value = is_ok
        word_at(at + 16).value = address
        byte_at(at).value = RESULT

    return lower
