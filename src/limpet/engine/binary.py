"""Reads the outer shape of a WebAssembly module: what it imports, exports and how much memory.

Source: the WebAssembly core specification 2.0, section 5 "Binary Format". Code and data are passed
over by their size, so that inspecting costs little even for a large module. The engine validates
what is skipped; here we read enough to say in plain words why a module can't run.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from limpet.engine.protocol import ModuleError

MAGIC = b"\0asm"
VERSION_CORE = b"\1\0\0\0"
PAGE_BYTES = 65536

KIND_FUNCTION, KIND_TABLE, KIND_MEMORY, KIND_GLOBAL, KIND_TAG = range(5)
_KIND_NAMES = ("function", "table", "memory", "global", "tag")
_VALUE_TYPES = {
    0x7F: "i32",
    0x7E: "i64",
    0x7D: "f32",
    0x7C: "f64",
    0x7B: "v128",
    0x70: "funcref",
    0x6F: "externref",
}
_FORM_FUNCTION = 0x60
_LIMITS_MAX, _LIMITS_SHARED, _LIMITS_64, _LIMITS_PAGE_SIZE = 1, 2, 4, 8
_MAX_ITEMS = 1_000_000  # Wasmtime's own bound on functions and types


@dataclass(frozen=True, slots=True)
class FunctionType:
    parameters: tuple[str, ...]
    results: tuple[str, ...]

    def __str__(self) -> str:
        return f"({', '.join(self.parameters)}) -> ({', '.join(self.results)})"


@dataclass(frozen=True, slots=True)
class MemoryType:
    """Sizes in bytes."""

    minimum_bytes: int
    is_shared: bool = False
    is_64: bool = False


@dataclass(frozen=True, slots=True)
class Import:
    """`type` is set for functions only."""

    module: str
    name: str
    kind: int
    type: FunctionType | None = None

    def __str__(self) -> str:
        if self.type is not None:
            return f"{self.module}.{self.name} {self.type}"
        return f"{self.module}.{self.name} ({_KIND_NAMES[self.kind]})"


@dataclass(slots=True)
class Shape:
    """`functions` holds the type index of every function, imported ones first."""

    types: list[FunctionType | None] = field(default_factory=list)
    imports: list[Import] = field(default_factory=list)
    exports: dict[str, tuple[int, int]] = field(default_factory=dict)
    functions: list[int] = field(default_factory=list)
    memories: list[MemoryType] = field(default_factory=list)

    def function_type(self, index: int) -> FunctionType | None:
        if index < len(self.functions) and self.functions[index] < len(self.types):
            return self.types[self.functions[index]]
        return None


class _Reader:
    """A cursor over bytes; running out of them is an error, never an exception of Python's."""

    __slots__ = ("data", "end", "position")

    def __init__(self, data: bytes, position: int, end: int) -> None:
        self.data = data
        self.position = position
        self.end = end

    def byte(self) -> int:
        if self.position >= self.end:
            raise ModuleError(_broken(f"it ends in the middle of something at byte {self.end}"))
        value = self.data[self.position]
        self.position += 1
        return value

    def unsigned(self, bits: int = 32) -> int:
        result = shift = 0
        while True:
            byte = self.byte()
            result |= (byte & 0x7F) << shift
            if not byte & 0x80:
                break
            shift += 7
            if shift >= bits:
                raise ModuleError(_broken(f"a number is too long at byte {self.position}"))
        if result >> bits:
            raise ModuleError(_broken(f"a number is too large at byte {self.position}"))
        return result

    def count(self) -> int:
        value = self.unsigned()
        if value > min(_MAX_ITEMS, self.end - self.position):
            raise ModuleError(_broken(f"a list of {value} items at byte {self.position}"))
        return value

    def name(self) -> str:
        length = self.unsigned()
        end = self.position + length
        if end > self.end:
            raise ModuleError(_broken(f"a name runs past its section at byte {self.position}"))
        raw = self.data[self.position : end]
        self.position = end
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise ModuleError(_broken(f"a name is not UTF-8 at byte {end}")) from None

    def limits(self) -> MemoryType:
        flags = self.byte()
        bits = 64 if flags & _LIMITS_64 else 32
        minimum = self.unsigned(bits)
        if flags & _LIMITS_MAX:
            self.unsigned(bits)
        page_bytes = PAGE_BYTES
        if flags & _LIMITS_PAGE_SIZE:
            page_bytes = 1 << min(self.unsigned(), 16)
        return MemoryType(
            minimum * page_bytes, bool(flags & _LIMITS_SHARED), bool(flags & _LIMITS_64)
        )

    def value_type(self) -> str:
        code = self.byte()
        if code in _VALUE_TYPES:
            return _VALUE_TYPES[code]
        if code in {0x63, 0x64}:  # (ref null? heaptype)
            self.unsigned(33)
            return "ref"
        return f"type {code:#04x}"


def _broken(what: str) -> str:
    return (
        f"the module is damaged: {what}. Copy or build it again; "
        "`wasm-tools validate` tells more about it"
    )


def read_shape(module: bytes) -> Shape:
    """The shape of a core module that starts with the right magic and version.

    Raises `ModuleError` for truncated and malformed ones.
    """
    shape = Shape()
    reader = _Reader(module, 8, len(module))
    while reader.position < len(module):
        section = reader.byte()
        size = reader.unsigned()
        end = reader.position + size
        if end > len(module):
            missing = end - len(module)
            raise ModuleError(
                f"the module is truncated: {missing} bytes are missing after byte {len(module)}. "
                "Copy or download it again"
            )
        body = _Reader(module, reader.position, end)
        read = _SECTIONS.get(section)
        if read is not None:
            read(body, shape)
        reader.position = end
    return shape


def _read_types(reader: _Reader, shape: Shape) -> None:
    for _ in range(reader.count()):
        if reader.byte() != _FORM_FUNCTION:
            # A type of the garbage collection proposal: the engine says that it is off.
            shape.types.append(None)
            return
        parameters = tuple([reader.value_type() for _ in range(reader.count())])
        results = tuple([reader.value_type() for _ in range(reader.count())])
        shape.types.append(FunctionType(parameters, results))


def _read_imports(reader: _Reader, shape: Shape) -> None:
    for _ in range(reader.count()):
        module, name, kind = reader.name(), reader.name(), reader.byte()
        function_type = None
        if kind == KIND_FUNCTION:
            shape.functions.append(reader.unsigned())
            function_type = shape.function_type(len(shape.functions) - 1)
        elif kind == KIND_TABLE:
            reader.value_type()
            reader.limits()
        elif kind == KIND_MEMORY:
            shape.memories.append(reader.limits())
        elif kind == KIND_GLOBAL:
            reader.value_type()
            reader.byte()
        elif kind == KIND_TAG:
            reader.byte()
            reader.unsigned()
        else:
            raise ModuleError(_broken(f"import {module}.{name} is of the unknown kind {kind}"))
        shape.imports.append(Import(module, name, kind, function_type))


def _read_functions(reader: _Reader, shape: Shape) -> None:
    shape.functions.extend(reader.unsigned() for _ in range(reader.count()))


def _read_memories(reader: _Reader, shape: Shape) -> None:
    shape.memories.extend(reader.limits() for _ in range(reader.count()))


def _read_exports(reader: _Reader, shape: Shape) -> None:
    for _ in range(reader.count()):
        name = reader.name()
        shape.exports[name] = (reader.byte(), reader.unsigned())


_SECTIONS = {
    1: _read_types,
    2: _read_imports,
    3: _read_functions,
    5: _read_memories,
    7: _read_exports,
}
