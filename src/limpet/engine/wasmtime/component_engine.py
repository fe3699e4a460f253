"""Compiles and loads components, with an engine of their own.

Core modules are compiled and run by an engine that knows no components, so that nothing about them,
neither their artifacts nor what their code can reach, depends on this one, which is made when the
first component is met.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import re
from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING

from limpet.engine import world
from limpet.engine.component_binary import read_component
from limpet.engine.protocol import ModuleError, ModuleInfo
from limpet.engine.wasmtime import binding
from limpet.engine.wasmtime import component_binding as c
from limpet.engine.wasmtime.component_linking import check_offered
from limpet.engine.wasmtime.component_program import ComponentProgram
from limpet.engine.wasmtime.component_types import ComponentShape, ShapeReader
from limpet.engine.wasmtime.deadline import EpochAlarm
from limpet.engine.wasmtime.settings import new_component_engine
from limpet.wasi.preview2.types import Result, Signature

if TYPE_CHECKING:
    from limpet.engine.protocol import Limits
    from limpet.engine.wasmtime.settings import EngineSettings

_ENTRY = re.compile(r"wasi:cli/run@0\.2\.\d+")
_ENTRY_SIGNATURE = Signature((), Result())
# Linear memories that one component may have; they share the app's limit evenly.
MAX_MEMORIES = 4


@dataclass(frozen=True, slots=True)
class Memories:
    """What can't be asked of a compiled component: kept behind the artifact, which is an ELF file."""

    count: int
    initial_bytes: int

    _LAYOUT = Struct("<8sIQ")
    _MAGIC = b"limpet\0\1"

    def pack(self) -> bytes:
        return self._LAYOUT.pack(self._MAGIC, self.count, self.initial_bytes)

    @classmethod
    def read(cls, artifact: int) -> Memories:
        """Raises `ModuleError` when there is nothing behind the artifact."""
        start = os.fstat(artifact).st_size - cls._LAYOUT.size
        packed = os.pread(artifact, cls._LAYOUT.size, max(start, 0))
        if len(packed) == cls._LAYOUT.size:
            magic, count, initial_bytes = cls._LAYOUT.unpack(packed)
            if magic == cls._MAGIC:
                return cls(count, initial_bytes)
        raise ModuleError("the artifact is cut: compile the component again")


class ComponentEngine:
    """What `WasmtimeEngine` hands components to."""

    def __init__(self, settings: EngineSettings, *, is_metered: bool) -> None:
        self._handle = new_component_engine(
            settings, max_memories=MAX_MEMORIES, is_metered=is_metered
        )
        self._alarm = EpochAlarm(self._handle)

    def compile_component(self, component: bytes) -> tuple[bytes, ModuleInfo]:
        """As `Engine.compile_module`."""
        memories = _check(component)
        compiled = ctypes.c_void_p()
        error = c.component_new(self._handle, component, len(component), ctypes.byref(compiled))
        if error:
            reason = " ".join(binding.take_error(error).split())
            raise ModuleError(f"the component can't be compiled: {reason}")
        try:
            shape = ShapeReader(self._handle).read(compiled.value or 0)
            check_offered(shape)
            _find_entry(shape)
            artifact = binding.ByteVec()
            error = c.component_serialize(compiled, ctypes.byref(artifact))
            if error:
                raise ModuleError(f"the component can't be kept: {binding.take_error(error)}")
            content = binding.take_bytes(artifact) + memories.pack()
            return content, _describe(shape, memories)
        finally:
            c.component_delete(compiled)

    def load(self, artifact: int, *, limits: Limits) -> ComponentProgram:
        """As `Engine.load`."""
        memories = Memories.read(artifact)
        if memories.initial_bytes > limits.memory_bytes:
            raise ModuleError(
                f"the component starts with {memories.initial_bytes} bytes of memory and its limit "
                f"is {limits.memory_bytes}: raise the app's memory limit, or link the component "
                "with a smaller stack or less static data"
            )
        component = self._map(artifact)
        try:
            shape = ShapeReader(self._handle).read(component)
            check_offered(shape)
            return ComponentProgram(
                self._handle,
                component,
                shape=shape,
                entry=_find_entry(shape),
                limits=limits,
                memories=memories.count,
                alarm=self._alarm,
            )
        except BaseException:
            c.component_delete(component)
            raise

    def _map(self, artifact: int) -> int:
        """A `wasmtime_component_t` of the artifact; mapped, or read where /proc can't be opened."""
        component = ctypes.c_void_p()
        path = f"/proc/self/fd/{artifact}".encode()
        error = c.component_deserialize_file(self._handle, path, ctypes.byref(component))
        if error and not os.access(path, os.R_OK):
            binding.error_delete(error)
            # C copies it: a mapping spares a second copy, and these may have tens of megabytes.
            with mmap.mmap(artifact, 0, access=mmap.ACCESS_COPY) as content:
                place = (ctypes.c_char * len(content)).from_buffer(content)
                error = c.component_deserialize(
                    self._handle, place, len(content), ctypes.byref(component)
                )
                del place
        if error:
            reason = " ".join(binding.take_error(error).split())
            raise ModuleError(
                f"this is not an artifact of this engine with these settings ({reason}): compile "
                "the component again"
            )
        return component.value or 0


def _check(component: bytes) -> Memories:
    """Refuse, in plain words, what needs no engine to be refused."""
    shape = read_component(component)
    problems = world.find_problems(shape)
    if problems:
        raise ModuleError("\n".join(problems))
    count = sum(len(module.shape.own_memories) for module in shape.modules)
    if count > MAX_MEMORIES:
        raise ModuleError(
            f"the component has {count} memories and {MAX_MEMORIES} are the most: compose it of "
            "fewer components"
        )
    return Memories(count, shape.memory_bytes)


def _find_entry(shape: ComponentShape) -> str:
    """The name of the export that is to run."""
    for name, instance in shape.exports.items():
        if _ENTRY.fullmatch(name):
            if instance.functions.get("run") == _ENTRY_SIGNATURE:
                return name
            raise ModuleError(f"the component's {name} has no function run: func() -> result")
    found = ", ".join(list(shape.exports)[:20]) or "nothing"
    raise ModuleError(
        "the component exports no wasi:cli/run of WASI 0.2, where a program starts (it exports "
        f"{found}): build a command, with a main function"
    )


def _describe(shape: ComponentShape, memories: Memories) -> ModuleInfo:
    return ModuleInfo(
        imports=tuple(
            f"{name}.{function}"
            for name, instance in shape.imports.items()
            for function in instance.functions
        ),
        exports=tuple(shape.exports),
        memory_bytes=memories.initial_bytes,
    )
