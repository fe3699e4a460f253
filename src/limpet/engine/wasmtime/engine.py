"""Wasmtime behind Limpet's engine protocol."""

from __future__ import annotations

import ctypes
import os
from functools import cached_property
from typing import TYPE_CHECKING

from limpet.engine.cpu import cpu_key
from limpet.engine.inspection import ENTRY_POINT, MEMORY_EXPORT, inspect_module
from limpet.engine.protocol import (
    DEFAULT_OPTIONS,
    ENTRY,
    CompileOptions,
    Limits,
    ModuleError,
    ModuleInfo,
)
from limpet.engine.wasmtime import binding
from limpet.engine.wasmtime.deadline import EpochAlarm
from limpet.engine.wasmtime.library import find_version
from limpet.engine.wasmtime.program import WasmtimeProgram
from limpet.engine.wasmtime.settings import EngineSettings, choose_settings, new_engine
from limpet.errors import UnavailableError
from limpet.wasi import abi

if TYPE_CHECKING:
    from limpet.engine.protocol import Program
    from limpet.engine.wasmtime.component_engine import ComponentEngine

_PAGE_BYTES = 65536
# The component model's "Binary Format": the magic, version 13, layer 1.
_COMPONENT_HEADER = b"\0asm\x0d\0\1\0"
# An artifact is an ELF file; Wasmtime notes in its `e_flags` what was compiled (elf(5)).
_ELF_FLAGS_OFFSET = 48
_ELF_FLAG_COMPONENT = 2
_I32 = 0  # WASM_I32 of wasm.h
_KINDS = {0: "i32", 1: "i64"}  # WASM_I32, WASM_I64 of wasm.h


class WasmtimeEngine:
    """Implements `limpet.engine.protocol.Engine`.

    Lives as long as its process: nothing here is freed before that. Starts no thread, so that a
    zygote can make it and its forked children can use it; only compiling is for a process that does
    not fork afterwards.
    """

    name = "wasmtime"

    def __init__(self, settings: EngineSettings | None = None) -> None:
        self.version = find_version()
        self.settings = settings or choose_settings()
        self._handle = new_engine(self.settings)
        self._alarm = EpochAlarm(self._handle)
        self._components: dict[bool, ComponentEngine] = {}

    def artifact_key(self) -> str:
        return f"wasmtime-{self.version}-{self.settings.key()}-{cpu_key()}"

    def describe_memory(self) -> str:
        """See the protocol."""
        return self.settings.describe()

    @cached_property
    def _metered(self) -> tuple[int, EpochAlarm]:
        """An engine for code that counts its work, and what moves its epoch."""
        handle = new_engine(self.settings, is_metered=True)
        return handle, EpochAlarm(handle)

    def compile_module(
        self, module: bytes, options: CompileOptions = DEFAULT_OPTIONS
    ) -> tuple[bytes, ModuleInfo]:
        """See the protocol. Takes 0.03 s for a small module, seconds for a large one."""
        if options.is_interpreted:
            raise ModuleError(
                "Wasmtime, as its wheel builds it, has no interpreter: have the module compiled, or "
                "choose WasmEdge"
            )
        if module.startswith(_COMPONENT_HEADER):
            components = self._choose_components(is_metered=options.is_metered)
            return components.compile_component(module)
        info = inspect_module(module)
        engine, _ = self._choose(is_metered=options.is_metered)
        compiled = ctypes.c_void_p()
        error = binding.module_new(engine, module, len(module), ctypes.byref(compiled))
        if error:
            raise ModuleError(_explain_refusal(binding.take_error(error)))
        try:
            artifact = binding.ByteVec()
            error = binding.module_serialize(compiled, ctypes.byref(artifact))
            if error:
                raise ModuleError(f"the module can't be kept: {binding.take_error(error)}")
            return binding.take_bytes(artifact), info
        finally:
            binding.module_delete(compiled)

    def load(self, artifact: int, *, limits: Limits, entry: str = ENTRY) -> Program:
        if _holds_component(artifact):
            if entry != ENTRY:
                raise ModuleError(
                    "a component has no functions for probes; use httpGet or tcpSocket"
                )
            components = self._choose_components(is_metered=limits.cost is not None)
            return components.load(artifact, limits=limits)
        engine, alarm = self._choose(is_metered=limits.cost is not None)
        module = _map(engine, artifact, is_metered=limits.cost is not None)
        try:
            imports, memory_bytes = _read_module(module)
            if memory_bytes > limits.memory_bytes:
                raise ModuleError(
                    f"the module starts with {memory_bytes} bytes of memory and its limit is "
                    f"{limits.memory_bytes}: raise the app's memory limit, or link the module with "
                    "a smaller stack or less static data"
                )
            return WasmtimeProgram(
                engine,
                module,
                imports=imports,
                limits=limits,
                alarm=alarm,
                entry=entry,
                returns=entry != ENTRY and _returns_number(module, entry),
            )
        finally:
            binding.module_delete(module)

    def _choose(self, *, is_metered: bool) -> tuple[int, EpochAlarm]:
        return self._metered if is_metered else (self._handle, self._alarm)

    def prepare_components(self, *, is_metered: bool = False) -> None:
        """Load all that components need, which happens by itself where the first one comes.

        A process that reaches no files then, or whose forks are to share it, must do so before.
        """
        from limpet.wasi.preview2 import offered

        offered.load_all()
        self._choose_components(is_metered=is_metered)

    def _choose_components(self, *, is_metered: bool) -> ComponentEngine:
        engine = self._components.get(is_metered)
        if engine is None:
            try:
                from limpet.engine.wasmtime.component_engine import ComponentEngine
            except ImportError as error:
                raise UnavailableError(
                    "this process can't load what components need: it reaches no files, and was "
                    f"not prepared for components before ({error})"
                ) from error
            engine = ComponentEngine(self.settings, is_metered=is_metered)
            self._components[is_metered] = engine
        return engine


def _map(engine: int, artifact: int, *, is_metered: bool) -> int:
    """A `wasmtime_module_t` of the artifact; mapped, or read where /proc can't be opened."""
    module = ctypes.c_void_p()
    path = f"/proc/self/fd/{artifact}".encode()
    error = binding.module_deserialize_file(engine, path, ctypes.byref(module))
    if error and not os.access(path, os.R_OK):
        binding.error_delete(error)
        size = os.fstat(artifact).st_size
        content = os.pread(artifact, size, 0)
        error = binding.module_deserialize(engine, content, len(content), ctypes.byref(module))
    if error:
        reason = " ".join(binding.take_error(error).split())
        how = "with" if is_metered else "without"
        raise ModuleError(
            f"this is not an artifact of this engine with these settings ({reason}): compile "
            f"the module again, {how} its work being counted"
        )
    return module.value or 0


def _holds_component(artifact: int) -> bool:
    flags = os.pread(artifact, 4, _ELF_FLAGS_OFFSET)
    return bool(int.from_bytes(flags, "little") & _ELF_FLAG_COMPONENT)


def _read_module(module: int) -> tuple[dict[str, str], int]:
    """The functions that a compiled module imports, by name, and the initial size of its memory."""
    imported = _read_imports(module)
    exports = binding.PointerVec()
    binding.module_exports(module, ctypes.byref(exports))
    try:
        found = {
            binding.read_name(binding.exporttype_name(each)): binding.exporttype_type(each)
            for each in exports.data[: exports.size]
        }
        if ENTRY_POINT not in found:
            raise ModuleError(f"the artifact exports no {ENTRY_POINT}: compile the module again")
        memory = found.get(MEMORY_EXPORT)
        memory_type = binding.externtype_as_memorytype(memory) if memory else None
        if not memory_type:
            return imported, 0
        return imported, binding.memorytype_limits(memory_type).contents.min * _PAGE_BYTES
    finally:
        binding.exporttype_vec_delete(ctypes.byref(exports))


def _returns_number(module: int, name: str) -> bool:
    """Whether an exported function returns an i32. Raises `ModuleError` unless it can be called."""
    exports = binding.PointerVec()
    binding.module_exports(module, ctypes.byref(exports))
    try:
        for each in exports.data[: exports.size]:
            if binding.read_name(binding.exporttype_name(each)) == name:
                kind = binding.externtype_as_functype(binding.exporttype_type(each))
                if not kind:
                    break
                results = binding.functype_results(kind).contents
                kinds = [binding.valtype_kind(one) for one in results.data[: results.size]]
                if binding.functype_params(kind).contents.size or kinds not in ([], [_I32]):
                    raise ModuleError(
                        f"the export {name} can't be a probe: it must take nothing and return "
                        "nothing or an i32"
                    )
                return bool(kinds)
    finally:
        binding.exporttype_vec_delete(ctypes.byref(exports))
    raise ModuleError(f"the module exports no function {name}; export it, or name another one")


def _read_imports(module: int) -> dict[str, str]:
    """The name of each import -> the key of the host function that it means by its type."""
    imports = binding.PointerVec()
    binding.module_imports(module, ctypes.byref(imports))
    try:
        functions: dict[str, str] = {}
        for each in imports.data[: imports.size]:
            source = binding.read_name(binding.importtype_module(each))
            name = binding.read_name(binding.importtype_name(each))
            key = abi.resolve(name, _parameters(each)) if source == abi.MODULE else None
            if key is None or functions.setdefault(name, key) != key:
                raise ModuleError(f"the artifact imports {source}.{name}: compile the module again")
        return functions
    finally:
        binding.importtype_vec_delete(ctypes.byref(imports))


def _parameters(import_type: int) -> list[str]:
    """The parameters' types of an imported function, by name; none for other imports."""
    function_type = binding.externtype_as_functype(binding.importtype_type(import_type))
    if not function_type:
        return []
    types = binding.functype_params(function_type).contents
    kinds = [binding.valtype_kind(each) for each in types.data[: types.size]]
    return [_KINDS.get(kind, "") for kind in kinds]


# What Wasmtime says of a proposal that is off -> its name for people, and the next step.
_PROPOSALS = (
    ("exceptions", "exception handling", "build it without -fwasm-exceptions"),
    ("gc", "garbage collection (or typed references)", "use a toolchain that does not need it"),
    ("reference", "typed references", "use a toolchain that does not need them"),
    ("thread", "threads", "build it without -pthread"),
    ("atomic", "threads", "build it without -pthread"),
    ("shared memor", "threads", "build it without -pthread"),
    ("memory64", "64-bit memory", "build it for wasm32"),
    ("multi-memory", "several memories", "build it with one memory"),
    ("multiple memories", "several memories", "build it with one memory"),
    ("wide arithmetic", "wide arithmetic", "build it without -mwide-arithmetic"),
    ("stack-switching", "stack switching", "build it without that feature"),
    ("stack switching", "stack switching", "build it without that feature"),
    ("custom page size", "custom page sizes", "link it with the page size of 64 KiB"),
)


def _explain_refusal(message: str) -> str:
    reason = " ".join(message.split())
    if any(marker in reason for marker in ("enabled", "required", "feature", "proposal")):
        for word, proposal, next_step in _PROPOSALS:
            if word in reason.lower():
                return f"the module uses {proposal}, which is off: {next_step} ({reason})"
    return f"the module can't be compiled: {reason}"
