"""Wasmtime behind Limpet's engine protocol."""

from __future__ import annotations

import ctypes
import os
import zlib
from functools import cache

from limpet.engine.inspection import ENTRY_POINT, MEMORY_EXPORT, inspect_module
from limpet.engine.protocol import Limits, ModuleError, ModuleInfo
from limpet.engine.wasmtime import binding
from limpet.engine.wasmtime.deadline import EpochAlarm
from limpet.engine.wasmtime.library import find_version
from limpet.engine.wasmtime.program import WasmtimeProgram
from limpet.engine.wasmtime.settings import EngineSettings, choose_settings, new_engine
from limpet.wasi import abi

_PAGE_BYTES = 65536
_CPU_LINES = ("flags", "Features", "CPU implementer", "CPU part", "model name")


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

    def artifact_key(self) -> str:
        return f"wasmtime-{self.version}-{self.settings.key()}-{_cpu_key()}"

    def describe_memory(self) -> str:
        """See the protocol."""
        return self.settings.describe()

    def compile_module(self, module: bytes) -> tuple[bytes, ModuleInfo]:
        """See the protocol. Takes 0.03 s for a small module, seconds for a large one."""
        info = inspect_module(module)
        compiled = ctypes.c_void_p()
        error = binding.module_new(self._handle, module, len(module), ctypes.byref(compiled))
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

    def load(self, artifact: int, *, limits: Limits) -> WasmtimeProgram:
        module = self._map(artifact)
        try:
            imports, memory_bytes = _read_module(module)
            if memory_bytes > limits.memory_bytes:
                raise ModuleError(
                    f"the module starts with {memory_bytes} bytes of memory and its limit is "
                    f"{limits.memory_bytes}: raise the app's memory limit, or link the module with "
                    "a smaller stack or less static data"
                )
            return WasmtimeProgram(
                self._handle, module, imports=imports, limits=limits, alarm=self._alarm
            )
        finally:
            binding.module_delete(module)

    def _map(self, artifact: int) -> int:
        """A `wasmtime_module_t` of the artifact; mapped, or read where /proc can't be opened."""
        module = ctypes.c_void_p()
        path = f"/proc/self/fd/{artifact}".encode()
        error = binding.module_deserialize_file(self._handle, path, ctypes.byref(module))
        if error and not os.access(path, os.R_OK):
            binding.error_delete(error)
            size = os.fstat(artifact).st_size
            content = os.pread(artifact, size, 0)
            error = binding.module_deserialize(
                self._handle, content, len(content), ctypes.byref(module)
            )
        if error:
            reason = " ".join(binding.take_error(error).split())
            raise ModuleError(
                f"this is not an artifact of this engine with these settings ({reason}): compile "
                "the module again"
            )
        return module.value or 0


def _read_module(module: int) -> tuple[list[str], int]:
    """The WASI functions that a compiled module imports, and the initial size of its memory."""
    names = _read_imports(module)
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
            return names, 0
        return names, binding.memorytype_limits(memory_type).contents.min * _PAGE_BYTES
    finally:
        binding.exporttype_vec_delete(ctypes.byref(exports))


def _read_imports(module: int) -> list[str]:
    imports = binding.PointerVec()
    binding.module_imports(module, ctypes.byref(imports))
    try:
        names = []
        for each in imports.data[: imports.size]:
            source = binding.read_name(binding.importtype_module(each))
            name = binding.read_name(binding.importtype_name(each))
            if source != abi.MODULE or name not in abi.PARAMETERS:
                raise ModuleError(f"the artifact imports {source}.{name}: compile the module again")
            names.append(name)
        return names
    finally:
        binding.importtype_vec_delete(ctypes.byref(imports))


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


@cache
def _cpu_key() -> str:
    """Changes when the CPU does: Wasmtime compiles for the features it finds at run time."""
    lines: set[str] = set()
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            lines.update(line for line in file if line.startswith(_CPU_LINES))
    except OSError:
        lines.add(" ".join(os.uname()))
    return f"{zlib.crc32(''.join(sorted(lines)).encode()):08x}"
