"""The types of WASI 0.2's functions, as data that both sides can be compared by.

Source: the component model's "WIT" and "Canonical ABI" documents. Values of these types are plain Python:

| type | value |
| --- | --- |
| integers, `bool`, `string`, `enum` | int, bool, str, str |
| `list<u8>`, other lists | bytes, list |
| `tuple`, `record` | tuple, in the order of declaration |
| `variant` | (case, payload or None) |
| `option` | the value or None |
| `result` as an argument | (is_ok, payload or None) |
| `flags` | frozenset of names |
| `own`, `borrow` | the object that stands for the resource |

A function that returns a `result` returns its value, and raises for its error.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Primitive:
    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class List:
    element: Type

    def __str__(self) -> str:
        return f"list<{self.element}>"


@dataclass(frozen=True, slots=True)
class Tuple:
    items: tuple[Type, ...]

    def __str__(self) -> str:
        return f"tuple<{', '.join(map(str, self.items))}>"


@dataclass(frozen=True, slots=True)
class Record:
    fields: tuple[tuple[str, Type], ...]

    def __str__(self) -> str:
        return f"record {{{', '.join(f'{name}: {of}' for name, of in self.fields)}}}"


@dataclass(frozen=True, slots=True)
class Variant:
    cases: tuple[tuple[str, Type | None], ...]

    def __str__(self) -> str:
        cases = (name if of is None else f"{name}({of})" for name, of in self.cases)
        return f"variant {{{', '.join(cases)}}}"


@dataclass(frozen=True, slots=True)
class Enum:
    names: tuple[str, ...]

    def __str__(self) -> str:
        return f"enum {{{', '.join(self.names)}}}"


@dataclass(frozen=True, slots=True)
class Flags:
    names: tuple[str, ...]

    def __str__(self) -> str:
        return f"flags {{{', '.join(self.names)}}}"


@dataclass(frozen=True, slots=True)
class Option:
    of: Type

    def __str__(self) -> str:
        return f"option<{self.of}>"


@dataclass(frozen=True, slots=True)
class Result:
    ok: Type | None = None
    error: Type | None = None

    def __str__(self) -> str:
        return f"result<{self.ok or '_'}, {self.error or '_'}>"


@dataclass(frozen=True, slots=True)
class Own:
    resource: str

    def __str__(self) -> str:
        return f"own<{self.resource}>"


@dataclass(frozen=True, slots=True)
class Borrow:
    resource: str

    def __str__(self) -> str:
        return f"borrow<{self.resource}>"


Type = Primitive | List | Tuple | Record | Variant | Enum | Flags | Option | Result | Own | Borrow

BOOL = Primitive("bool")
U8, U16, U32, U64 = (Primitive(f"u{bits}") for bits in (8, 16, 32, 64))
STRING = Primitive("string")
BYTES = List(U8)


@dataclass(frozen=True, slots=True)
class Signature:
    """What a function takes, without the parameters' names, and what it gives, if anything."""

    parameters: tuple[Type, ...] = ()
    result: Type | None = None

    def __str__(self) -> str:
        result = "" if self.result is None else f" -> {self.result}"
        return f"func({', '.join(map(str, self.parameters))}){result}"
