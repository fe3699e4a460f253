"""Reads the outer shape of a WebAssembly component: what it imports and exports, and what is inside.

Source: the component model's `Binary.md`. A component's world is its own import and export
sections, whose entries are names with a kind and an index: types, instances and code are passed over
by their size. Components nest, so depth is bounded here, and work and memory by a `Budget`.
"""

from __future__ import annotations

from dataclasses import dataclass

from limpet.engine.binary import (
    CUSTOM_SECTION,
    HEADER_BYTES,
    MAGIC,
    MAX_NAMES,
    VERSION_CORE,
    Budget,
    Reader,
    Section,
    Shape,
    damaged,
    read_sections,
)
from limpet.engine.protocol import ModuleError

VERSION_COMPONENT = b"\x0d\0\1\0"
_LAYER = slice(6, 8)
_LAYER_COMPONENT = b"\1\0"

_CORE_MODULE, _COMPONENT, _TYPE, _IMPORT, _EXPORT = 1, 4, 7, 10, 11
# The reference parser allows 1000; what `wasm-tools compose` makes is a handful deep.
_MAX_DEPTH = 50

_KINDS = {1: "function", 2: "value", 3: "type", 4: "component", 5: "instance"}
_KIND_CORE, _CORE_KIND_MODULE = 0, 0x11
_KIND_VALUE, _KIND_TYPE = 2, 3
RESOURCE, TYPE = "resource", _KINDS[_KIND_TYPE]
_FOREIGN = frozenset("=<>@/")  # to names of interfaces; `url=<...>` has them


START_LISTEN = "[method]tcp-socket.start-listen"
WATCHED_FUNCTIONS = (START_LISTEN,)


@dataclass(frozen=True, slots=True)
class Interface:
    """A name like `wasi:cli/run@0.2.3`; `version` is empty when it has none."""

    package: str
    name: str
    version: str = ""

    @property
    def path(self) -> str:
        """Without the version."""
        return f"{self.package}/{self.name}"

    def __str__(self) -> str:
        return f"{self.path}@{self.version}" if self.version else self.path


@dataclass(frozen=True, slots=True)
class Extern:
    """An import or export; `kind` is instance (of an interface), function, resource, type and so on."""

    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class CoreModule:
    """A core module inside a component."""

    size_bytes: int
    shape: Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentShape:
    """`modules` and `sections` (custom ones) are those of nested components too.

    `functions` are those of `WATCHED_FUNCTIONS` that the types of its imports declare: names of
    functions stand in type sections as they are, and are searched for there rather than resolved.
    """

    imports: tuple[Extern, ...]
    exports: tuple[Extern, ...]
    modules: tuple[CoreModule, ...]
    sections: tuple[Section, ...]
    component_count: int
    functions: frozenset[str] = frozenset()

    @property
    def memory_bytes(self) -> int:
        """The memories that its modules define, as large as they start."""
        return sum(
            memory.minimum_bytes for module in self.modules for memory in module.shape.own_memories
        )


def is_component(data: bytes) -> bool:
    """Whether this file says that it is a component, of whatever version."""
    return data.startswith(MAGIC) and data[_LAYER] == _LAYER_COMPONENT


def parse_interface(name: str) -> Interface | None:
    """The parts of an interface's name; None when it is the name of something else."""
    path, _, version = name.partition("@")
    package, _, interface = path.partition("/")
    if ":" not in package or not interface or _FOREIGN.intersection(package + interface + version):
        return None
    return Interface(package, interface, version)


def read_component(data: bytes) -> ComponentShape:
    """The shape of a component.

    Raises `ModuleError` for truncated and malformed ones, and those of an early draft.
    """
    return _Walk(Reader(data, 0, len(data), Budget())).shape()


class _Walk:
    """Goes through a component and those nested in it, and keeps what it meets."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._imports: list[Extern] = []
        self._exports: list[Extern] = []
        self._modules: list[CoreModule] = []
        self._sections: list[Section] = []
        self._components = 0
        self._functions: set[str] = set()

    def shape(self) -> ComponentShape:
        self._read(self._reader, depth=0)
        return ComponentShape(
            imports=tuple(self._imports),
            exports=tuple(self._exports),
            modules=tuple(self._modules),
            sections=tuple(self._sections),
            component_count=self._components,
            functions=frozenset(self._functions),
        )

    def _read(self, reader: Reader, *, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise ModuleError(damaged(f"components are nested more than {_MAX_DEPTH} deep"))
        _skip_header(reader, VERSION_COMPONENT)
        while reader.position < reader.end:
            section = reader.section()
            body = reader.within(section.body, section.end)
            if section.id == CUSTOM_SECTION:
                self._sections.append(section)
            elif section.id == _CORE_MODULE:
                _skip_header(body, VERSION_CORE)
                self._modules.append(CoreModule(section.end - section.body, read_sections(body)))
            elif section.id == _COMPONENT:
                self._components += 1
                self._read(body, depth=depth + 1)
            elif section.id == _TYPE and depth == 0:
                self._functions |= {
                    name
                    for name in WATCHED_FUNCTIONS
                    if reader.data.find(name.encode(), section.body, section.end) >= 0
                }
            elif section.id == _IMPORT and depth == 0:
                self._imports += [_read_import(body) for _ in range(body.count(MAX_NAMES))]
            elif section.id == _EXPORT and depth == 0:
                self._exports += [_read_export(body) for _ in range(body.count(MAX_NAMES))]


def _skip_header(reader: Reader, version: bytes) -> None:
    start = reader.position
    header = reader.data[start : min(start + HEADER_BYTES, reader.end)]
    if header == MAGIC + version:
        reader.position += HEADER_BYTES
        return
    if version == VERSION_COMPONENT and is_component(header):
        raise ModuleError(
            f"the component is of draft {int.from_bytes(header[4:6], 'little')} of the format, and "
            f"{version[0]} is the one in use: build it again with a current toolchain"
        )
    raise ModuleError(damaged(f"no WebAssembly begins at byte {start}"))


def _read_import(reader: Reader) -> Extern:
    return Extern(_read_name(reader), _read_description(reader))


def _read_export(reader: Reader) -> Extern:
    name = _read_name(reader)
    kind = _read_kind(reader)
    reader.unsigned()
    if _is_present(reader):
        kind = _read_description(reader)
    return Extern(name, kind)


def _read_name(reader: Reader) -> str:
    """A name behind 0, or 1 as early toolchains wrote it; behind 2 it has options."""
    form = reader.byte()
    if form > 2:
        raise ModuleError(damaged(f"a name of the unknown form {form} at byte {reader.position}"))
    name = reader.name()
    if form == 2:
        for _ in range(reader.count()):
            reader.byte()
            reader.name()
    return name


def _read_kind(reader: Reader) -> str:
    number = reader.byte()
    if number == _KIND_CORE:
        number = reader.byte()
        if number != _CORE_KIND_MODULE:
            raise ModuleError(damaged(f"unknown core kind {number} at byte {reader.position}"))
        return "core module"
    if number not in _KINDS:
        raise ModuleError(damaged(f"unknown kind {number} at byte {reader.position}"))
    return _KINDS[number]


def _read_description(reader: Reader) -> str:
    """The kind of an `externdesc`; what it refers to is passed over."""
    kind = _read_kind(reader)
    if kind == TYPE:
        if _is_present(reader):  # (type (sub resource)), else (type (eq index))
            return RESOURCE
        reader.unsigned()
    else:
        if kind == _KINDS[_KIND_VALUE]:
            reader.byte()
        reader.unsigned(33)
    return kind


def _is_present(reader: Reader) -> bool:
    flag = reader.byte()
    if flag > 1:
        raise ModuleError(damaged(f"unknown flag {flag} at byte {reader.position}"))
    return flag == 1
