"""Reads the outer shape of a WebAssembly module: what it imports, exports and how much memory.

Source: the WebAssembly core specification 2.0, section 5 "Binary Format". Code and data are passed
over by their size, so that inspecting costs little even for a large module. The engine validates
what is skipped; here we read enough to say in plain words why a module can't run.

Modules are strangers' bytes: counts are held against the bytes that are left, and a `Budget` bounds
the work and the memory that one file can ask for.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from limpet.engine.protocol import ModuleError

MAGIC = b"\0asm"
VERSION_CORE = b"\1\0\0\0"
HEADER_BYTES = 8
PAGE_BYTES = 65536

KIND_FUNCTION, KIND_TABLE, KIND_MEMORY, KIND_GLOBAL, KIND_TAG = range(5)
KIND_NAMES = ("function", "table", "memory", "global", "tag")
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
MAX_NAMES = 100_000  # of imports, and of exports: each is looked at and may be told of
_MAX_NAME_BYTES = 100_000  # Wasmtime's own bound
_TAG_SECTION = 13
CUSTOM_SECTION = 0


@dataclass(frozen=True, slots=True)
class FunctionType:
    parameters: tuple[str, ...]
    results: tuple[str, ...]

    def __str__(self) -> str:
        return f"({', '.join(self.parameters)}) -> ({', '.join(self.results)})"


@dataclass(frozen=True, slots=True)
class MemoryType:
    """Sizes in bytes; no maximum is None."""

    minimum_bytes: int
    is_shared: bool = False
    is_64: bool = False
    maximum_bytes: int | None = None
    page_bytes: int = PAGE_BYTES

    @property
    def has_usual_pages(self) -> bool:
        return self.page_bytes == PAGE_BYTES


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
        return f"{self.module}.{self.name} ({KIND_NAMES[self.kind]})"


@dataclass(frozen=True, slots=True)
class Section:
    """Where a section is: `start` is its id's position, `body` its content's, `end` is past both.

    Only custom sections (id 0) have a `name`, which is where their content begins.
    """

    id: int
    start: int
    body: int
    end: int
    name: str = ""


@dataclass(slots=True)
class Budget:
    """What may still be read of one file: entries of lists, and sections."""

    items: int = 1_500_000
    sections: int = 100_000

    def spend_items(self, count: int) -> None:
        self.items -= count
        if self.items < 0:
            raise ModuleError("the module is too large to be read: its lists have too many entries")

    def spend_section(self) -> None:
        self.sections -= 1
        if self.sections < 0:
            raise ModuleError("the module is too large to be read: it has too many sections")


@dataclass(slots=True)
class Shape:
    """`functions` holds the type index of every function, imported ones first; None in `types`
    stands for a type of the garbage collection proposal, behind which none is read.
    """

    types: list[FunctionType | None] = field(default_factory=list)
    imports: list[Import] = field(default_factory=list)
    exports: dict[str, tuple[int, int]] = field(default_factory=dict)
    functions: list[int] = field(default_factory=list)
    memories: list[MemoryType] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)

    @property
    def custom_sections(self) -> list[Section]:
        return [section for section in self.sections if section.id == CUSTOM_SECTION]

    @property
    def own_memories(self) -> list[MemoryType]:
        """Those that the module defines."""
        imported = sum(each.kind == KIND_MEMORY for each in self.imports)
        return self.memories[imported:]

    @property
    def has_tags(self) -> bool:
        """Whether it throws or catches exceptions."""
        return any(section.id == _TAG_SECTION for section in self.sections) or any(
            each.kind == KIND_TAG for each in self.imports
        )

    def function_type(self, index: int) -> FunctionType | None:
        if index < len(self.functions) and self.functions[index] < len(self.types):
            return self.types[self.functions[index]]
        return None


class Reader:
    """A cursor over bytes; running out of them is a `ModuleError`, never an exception of Python's."""

    __slots__ = ("budget", "data", "end", "position")

    def __init__(self, data: bytes, position: int, end: int, budget: Budget | None = None) -> None:
        self.data = data
        self.position = position
        self.end = end
        self.budget = budget or Budget()

    def byte(self) -> int:
        if self.position >= self.end:
            raise ModuleError(damaged(f"it ends in the middle of something at byte {self.end}"))
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
                raise ModuleError(damaged(f"a number is too long at byte {self.position}"))
        if result >> bits:
            raise ModuleError(damaged(f"a number is too large at byte {self.position}"))
        return result

    def count(self, limit: int = _MAX_ITEMS) -> int:
        value = self.unsigned()
        if value > min(limit, self.end - self.position):
            raise ModuleError(damaged(f"a list of {value} items at byte {self.position}"))
        self.budget.spend_items(value)
        return value

    def name(self) -> str:
        length = self.unsigned()
        end = self.position + length
        if length > _MAX_NAME_BYTES:
            raise ModuleError(damaged(f"a name of {length} bytes at byte {self.position}"))
        if end > self.end:
            raise ModuleError(damaged(f"a name runs past its section at byte {self.position}"))
        raw = self.data[self.position : end]
        self.position = end
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise ModuleError(damaged(f"a name is not UTF-8 at byte {end}")) from None

    def limits(self) -> MemoryType:
        flags = self.byte()
        bits = 64 if flags & _LIMITS_64 else 32
        minimum = self.unsigned(bits)
        maximum = self.unsigned(bits) if flags & _LIMITS_MAX else None
        page_bytes = PAGE_BYTES
        if flags & _LIMITS_PAGE_SIZE:
            page_bytes = 1 << min(self.unsigned(), 16)
        return MemoryType(
            minimum_bytes=minimum * page_bytes,
            is_shared=bool(flags & _LIMITS_SHARED),
            is_64=bool(flags & _LIMITS_64),
            maximum_bytes=None if maximum is None else maximum * page_bytes,
            page_bytes=page_bytes,
        )

    def value_type(self) -> str:
        code = self.byte()
        if code in _VALUE_TYPES:
            return _VALUE_TYPES[code]
        if code in {0x63, 0x64}:  # (ref null? heaptype)
            self.unsigned(33)
            return "ref"
        return f"type {code:#04x}"

    def section(self) -> Section:
        """The next section's place; the cursor is behind it then.

        Raises `ModuleError` when it runs past the end.
        """
        self.budget.spend_section()
        start = self.position
        number = self.byte()
        size = self.unsigned()
        body = self.position
        end = body + size
        if end > self.end:
            raise ModuleError(
                f"the module is truncated: {end - self.end} bytes are missing after byte "
                f"{self.end}. Copy or download it again"
            )
        self.position = end
        name = self.within(body, end).name() if number == CUSTOM_SECTION else ""
        return Section(number, start, body, end, name)

    def within(self, start: int, end: int) -> Reader:
        """A cursor over a part of the same bytes, on the same budget."""
        return Reader(self.data, start, end, self.budget)


def damaged(what: str) -> str:
    """The text of an error about bytes that no toolchain writes."""
    return (
        f"the module is damaged: {what}. Copy or build it again; "
        "`wasm-tools validate` tells more about it"
    )


def read_shape(module: bytes) -> Shape:
    """The shape of a core module that starts with the right magic and version.

    Raises `ModuleError` for truncated and malformed ones.
    """
    return read_sections(Reader(module, HEADER_BYTES, len(module)))


def read_sections(reader: Reader) -> Shape:
    """The shape of the core module whose sections are left in this reader."""
    shape = Shape()
    while reader.position < reader.end:
        section = reader.section()
        shape.sections.append(section)
        read = _SECTIONS.get(section.id)
        if read is not None:
            read(reader.within(section.body, section.end), shape)
    return shape


def _read_types(reader: Reader, shape: Shape) -> None:
    for _ in range(reader.count()):
        if reader.byte() != _FORM_FUNCTION:
            # A type of the garbage collection proposal: the engine says that it is off.
            shape.types.append(None)
            return
        parameters = tuple([reader.value_type() for _ in range(reader.count())])
        results = tuple([reader.value_type() for _ in range(reader.count())])
        shape.types.append(FunctionType(parameters, results))


def _read_imports(reader: Reader, shape: Shape) -> None:
    for _ in range(reader.count(MAX_NAMES)):
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
            raise ModuleError(damaged(f"import {module}.{name} is of the unknown kind {kind}"))
        shape.imports.append(Import(module, name, kind, function_type))


def _read_functions(reader: Reader, shape: Shape) -> None:
    shape.functions.extend(reader.unsigned() for _ in range(reader.count()))


def _read_memories(reader: Reader, shape: Shape) -> None:
    shape.memories.extend(reader.limits() for _ in range(reader.count()))


def _read_exports(reader: Reader, shape: Shape) -> None:
    for _ in range(reader.count(MAX_NAMES)):
        name, kind = reader.name(), reader.byte()
        if kind >= len(KIND_NAMES):
            raise ModuleError(damaged(f"export {name} is of the unknown kind {kind}"))
        shape.exports[name] = (kind, reader.unsigned())


_SECTIONS = {
    1: _read_types,
    2: _read_imports,
    3: _read_functions,
    5: _read_memories,
    7: _read_exports,
}
