"""Reads what a file is and what it needs, as far as can be told without running it.

Plain Python: what is read is a few sections' lists, through readers that hold every count against
the bytes that are left and spend a budget. So a stranger's file has neither native code nor much
time or memory at its disposal, and may be read in the process of whoever asks. What its code does is
for the engine's validation, and for a worker's walls.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from limpet.engine import world
from limpet.engine.binary import (
    HEADER_BYTES,
    KIND_NAMES,
    MAGIC,
    Import,
    MemoryType,
    Reader,
    Section,
    Shape,
    read_shape,
)
from limpet.engine.choice import SOCKET, is_listening
from limpet.engine.component_binary import (
    START_LISTEN,
    Extern,
    is_component,
    parse_interface,
    read_component,
)
from limpet.engine.custom_sections import find_native_code, read_producers, read_target_features
from limpet.engine.inspection import (
    check_header,
    describe_lookalike,
    find_problems,
    import_problem,
)
from limpet.engine.protocol import ModuleError
from limpet.engine.verdicts import Program
from limpet.wasi import abi

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

CORE_MODULE, COMPONENT, OTHER = "core module", "component", "other"
PREVIEW1, SOCKET_EXTENSION, PREVIEW2 = "WASI preview 1", "WasmEdge's sockets", "WASI 0.2"
_NEVER_LISTENS = {
    SOCKET: "it never listens: it imports no sock_listen of WasmEdge's socket extension"
}
_COMPONENT_NEVER_LISTENS = {
    SOCKET: "it never listens: it imports no start-listen of wasi:sockets/tcp"
}
_DEBUG_PREFIX = ".debug_"


@dataclass(frozen=True, slots=True)
class Need:
    """One thing that a module imports; `problem` is empty when it is offered here."""

    name: str
    problem: str = ""


@dataclass(frozen=True, slots=True)
class NeedGroup:
    """What is imported from one place: a core module's namespace, or a package of interfaces.

    `label` is what people call it, where there is a word for it.
    """

    source: str
    label: str
    needs: tuple[Need, ...]

    @property
    def offered(self) -> tuple[Need, ...]:
        return tuple(need for need in self.needs if not need.problem)

    @property
    def missing(self) -> tuple[Need, ...]:
        return tuple(need for need in self.needs if need.problem)


@dataclass(frozen=True, slots=True)
class Export:
    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class Feature:
    """A WebAssembly proposal that the module is seen to use; `is_on` in our engines."""

    name: str
    is_on: bool


@dataclass(frozen=True, slots=True)
class InnerModule:
    """A core module inside a component; `memory_bytes` is what it starts with."""

    size_bytes: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class NativeCode:
    """A custom section of machine code, which is never run here."""

    section: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What was read of a file.

    `description` says for people what it is. `memories` are a core module's, `memory_bytes` is what
    all of them start with, a component's modules together. `target_features` are those that the
    compiler says it was allowed to use, in LLVM's words.
    """

    kind: str
    description: str
    producers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    features: tuple[Feature, ...] = ()
    target_features: tuple[str, ...] = ()
    imports: tuple[NeedGroup, ...] = ()
    exports: tuple[Export, ...] = ()
    memories: tuple[MemoryType, ...] = ()
    memory_bytes: int = 0
    modules: tuple[InnerModule, ...] = ()
    native_code: tuple[NativeCode, ...] = ()
    debug_bytes: int = 0


def read_contents(data: bytes) -> tuple[Contents, Program]:
    """What is in a file, and what of it decides what can run it. Raises nothing."""
    try:
        if is_component(data):
            return _read_component(data)
        check_header(data)
        return _read_core_module(data)
    except ModuleError as error:
        kind, description = _describe_unreadable(data)
        return Contents(kind=kind, description=description), Program(problems=(str(error),))


def _describe_unreadable(data: bytes) -> tuple[str, str]:
    if not data:
        return OTHER, "an empty file"
    if not data.startswith(MAGIC):
        return OTHER, describe_lookalike(data)[0]
    if is_component(data):
        return COMPONENT, "a WebAssembly component that can't be read"
    return CORE_MODULE, "a WebAssembly module that can't be read"


def _read_core_module(data: bytes) -> tuple[Contents, Program]:
    shape = read_shape(data)
    imports = tuple(dict.fromkeys(f"{each.module}.{each.name}" for each in shape.imports))
    reader, custom = Reader(data, HEADER_BYTES, len(data)), shape.custom_sections
    contents = Contents(
        kind=CORE_MODULE,
        description="a WebAssembly core module",
        producers=read_producers(reader, custom),
        features=tuple(_features(shape)),
        target_features=tuple(read_target_features(reader, custom)),
        imports=_group_imports(shape.imports),
        exports=tuple(Export(name, KIND_NAMES[kind]) for name, (kind, _) in shape.exports.items()),
        memories=tuple(shape.memories),
        memory_bytes=sum(memory.minimum_bytes for memory in shape.memories),
        native_code=_native_code(custom),
        debug_bytes=_debug_bytes(custom),
    )
    return contents, Program(
        imports=imports,
        exports=tuple(shape.exports),
        problems=tuple(find_problems(shape)),
        obstacles={} if is_listening(imports) else _NEVER_LISTENS,
    )


def _read_component(data: bytes) -> tuple[Contents, Program]:
    shape = read_component(data)
    # An interface whose functions include none to listen with doesn't make a server.
    can_listen = START_LISTEN in shape.functions
    imports = tuple(
        each.name for each in shape.imports if can_listen or not is_listening((each.name,))
    )
    reader, custom = Reader(data, 0, len(data)), [*shape.sections]
    for module in shape.modules:
        custom += module.shape.custom_sections
    features = [feature for module in shape.modules for feature in _features(module.shape)]
    contents = Contents(
        kind=COMPONENT,
        description="a WebAssembly component",
        producers=read_producers(reader, custom),
        features=tuple(dict.fromkeys(features)),
        target_features=tuple(read_target_features(reader, custom)),
        imports=_group_externs(shape.imports),
        exports=tuple(Export(each.name, each.kind) for each in shape.exports),
        memory_bytes=shape.memory_bytes,
        modules=tuple(
            InnerModule(each.size_bytes, sum(own.minimum_bytes for own in each.shape.own_memories))
            for each in shape.modules
        ),
        native_code=_native_code(custom),
        debug_bytes=_debug_bytes(custom),
    )
    return contents, Program(
        imports=imports,
        exports=tuple(each.name for each in shape.exports),
        is_component=True,
        problems=tuple(world.find_problems(shape)),
        obstacles={} if is_listening(imports) else _COMPONENT_NEVER_LISTENS,
    )


def _features(shape: Shape) -> list[Feature]:
    """What the lists tell; more may be in the code."""
    signatures = [signature for signature in shape.types if signature is not None]
    seen = {
        "garbage collection": (None in shape.types, False),
        "threads": (any(memory.is_shared for memory in shape.memories), False),
        "memory64": (any(memory.is_64 for memory in shape.memories), False),
        "multi-memory": (len(shape.memories) > 1, False),
        "custom page sizes": (any(not memory.has_usual_pages for memory in shape.memories), False),
        "exceptions": (shape.has_tags, False),
        "simd": (any("v128" in each.parameters + each.results for each in signatures), True),
        "multi-value": (any(len(each.results) > 1 for each in signatures), True),
    }
    return [Feature(name, is_on) for name, (is_used, is_on) in seen.items() if is_used]


def _group_imports(imports: Iterable[Import]) -> tuple[NeedGroup, ...]:
    groups: dict[tuple[str, str], dict[str, Need]] = {}
    for each in imports:
        problem = import_problem(each) or ""
        need = Need(f"{each.name} {each.type or ''}".strip() if problem else each.name, problem)
        groups.setdefault((each.module, _label(each)), {})[need.name] = need
    return _groups(groups)


def _label(each: Import) -> str:
    if each.module != abi.MODULE:
        return ""
    if each.name not in abi.PREVIEW1:
        return SOCKET_EXTENSION if abi.candidates(each.name) else PREVIEW1
    key = abi.resolve(each.name, each.type.parameters) if each.type is not None else None
    return SOCKET_EXTENSION if key in abi.SOCKETS else PREVIEW1


def _group_externs(externs: Iterable[Extern]) -> tuple[NeedGroup, ...]:
    groups: dict[tuple[str, str], dict[str, Need]] = {}
    for each in externs:
        interface = parse_interface(each.name)
        problem = world.extern_problem(each) or ""
        source = each.kind if interface is None else interface.package
        label = PREVIEW2 if interface is not None and world.is_known(interface) else ""
        name = each.name if interface is None else each.name.removeprefix(f"{source}/")
        groups.setdefault((source, label), {})[name] = Need(name, problem)
    return _groups(groups)


def _groups(groups: Mapping[tuple[str, str], Mapping[str, Need]]) -> tuple[NeedGroup, ...]:
    return tuple(
        NeedGroup(source, label, tuple(needs.values())) for (source, label), needs in groups.items()
    )


def _native_code(sections: Iterable[Section]) -> tuple[NativeCode, ...]:
    return tuple(NativeCode(each.name, each.end - each.body) for each in find_native_code(sections))


def _debug_bytes(sections: Iterable[Section]) -> int:
    return sum(each.end - each.body for each in sections if each.name.startswith(_DEBUG_PREFIX))
