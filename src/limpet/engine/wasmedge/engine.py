"""WasmEdge behind Limpet's engine protocol."""

from __future__ import annotations

import ctypes
import os

from limpet.engine.address_space import can_reserve
from limpet.engine.binary import read_shape
from limpet.engine.cpu import cpu_key
from limpet.engine.inspection import inspect_module
from limpet.engine.protocol import (
    DEFAULT_OPTIONS,
    ENTRY,
    CompileOptions,
    Limits,
    ModuleError,
    ModuleInfo,
)
from limpet.engine.wasmedge.artifact import Artifact, parse_artifact
from limpet.engine.wasmedge.binding import HOST_FUNCTION, SUCCESS, Binding, Bytes, Text
from limpet.engine.wasmedge.compiler import compile_ahead
from limpet.engine.wasmedge.library import find_library
from limpet.engine.wasmedge.program import WasmEdgeProgram
from limpet.engine.wasmedge.sections import limit_tables, strip_custom_sections
from limpet.engine.wasmedge.settings import (
    RESERVATION_BYTES,
    TABLE_ELEMENTS,
    configuration,
)
from limpet.engine.wasmedge.stopping import Watch
from limpet.errors import UnavailableError
from limpet.wasi import abi

# (module (func (export "")))
_NOTHING = bytes.fromhex("0061736d01000000010401600000030201000704010000000a040102000b")


class WasmEdgeEngine:
    """Implements `limpet.engine.protocol.Engine`.

    Lives as long as its process: nothing here is freed before that. Starts no thread, so that a zygote
    can make it and its forked children can use it; only compiling is for a process that does not fork
    afterwards. A guest whose calls nest too deep for the stack ends its process with SIGSEGV: an engine
    for processes that serve one app.
    """

    name = "wasmedge"

    def __init__(self, library: str | None = None) -> None:
        """Load this library, or the one that is found.

        Raises EngineMissingError, or UnknownVersionError.
        """
        self._binding = Binding(library or find_library())
        self.version = self._binding.version
        # Now, while the CPU can be looked at: a process behind walls comes to the same.
        self._key = f"wasmedge-{self.version}-{cpu_key()}"
        # libffi looks at the system when it makes its first callback: now, for walls would not let it.
        self._first_callback = HOST_FUNCTION(lambda *_: SUCCESS)
        self._watch = Watch()
        self._nothing = self._make_nothing()

    def artifact_key(self) -> str:
        return self._key

    def describe_memory(self) -> str:
        """See the protocol."""
        return f"{RESERVATION_BYTES >> 30} GiB of address space for each guest as it comes"

    def compile_module(
        self, module: bytes, options: CompileOptions = DEFAULT_OPTIONS
    ) -> tuple[bytes, ModuleInfo]:
        """See the protocol. Takes long: LLVM optimises it, seconds for a small program."""
        info = inspect_module(module)
        ready = limit_tables(strip_custom_sections(module), TABLE_ELEMENTS)
        if options.is_interpreted:
            result = self._validate(ready, options)
        else:
            result, ready = compile_ahead(self._binding, ready, options)
        if result:
            raise ModuleError(_explain_refusal(self._binding.message(result)))
        artifact = Artifact(
            self.artifact_key(), options, _resolve_imports(module), info.memory_bytes, ready
        )
        return artifact.pack(), info

    def prepare_components(self) -> None:
        """See the protocol: there are none here."""

    def load(self, artifact: int, *, limits: Limits, entry: str = ENTRY) -> WasmEdgeProgram:
        """See the protocol. Reads it: no file is opened, so that a sealed process can load."""
        content = os.pread(artifact, os.fstat(artifact).st_size, 0)
        parsed = parse_artifact(content, self.artifact_key())
        _check_limits(parsed, limits)
        module = self._parse(limit_tables(parsed.module, limits.table_elements), parsed.options)
        return WasmEdgeProgram(
            self._binding,
            module,
            parsed,
            limits=limits,
            nothing=self._nothing,
            watch=self._watch,
            entry=entry,
        )

    def _parse(self, module: bytes, options: CompileOptions) -> int:
        """A `WasmEdge_ASTModuleContext`, validated; the caller frees it."""
        parsed, result = self._try_parse(module, options)
        if result:
            reason = self._binding.message(result)
            raise ModuleError(
                f"this is not an artifact of this engine with these settings ({reason}): compile "
                "the module again"
            )
        return parsed

    def _validate(self, module: bytes, options: CompileOptions) -> int:
        parsed, result = self._try_parse(module, options)
        if parsed:
            self._binding.ast_module_delete(parsed)
        return result

    def _try_parse(self, module: bytes, options: CompileOptions) -> tuple[int, int]:
        """The validated module and 0, or 0 and the result that says why not."""
        binding = self._binding
        parsed = ctypes.c_void_p()
        with configuration(binding, options) as settings:
            loader, validator = binding.loader_create(settings), binding.validator_create(settings)
        try:
            result = binding.loader_parse_from_bytes(loader, ctypes.byref(parsed), Bytes(module))
            if not result:
                result = binding.validator_validate(validator, parsed)
                if result:
                    binding.ast_module_delete(parsed)
        finally:
            binding.validator_delete(validator)
            binding.loader_delete(loader)
        return (0 if result else parsed.value or 0), result

    def _make_nothing(self) -> int:
        """A function instance that does nothing, for `Stopper`. Stays as long as the engine."""
        binding = self._binding
        options = CompileOptions(is_interpreted=True)
        with configuration(binding, options) as settings:
            executor = binding.executor_create(settings, None)
        self._nothing_store = binding.store_create()
        instance = ctypes.c_void_p()
        self._nothing_module = self._parse(_NOTHING, options)
        binding.executor_instantiate(
            executor, ctypes.byref(instance), self._nothing_store, self._nothing_module
        )
        binding.executor_delete(executor)
        function: int = binding.module_instance_find_function(instance, Text(b""))
        return function


def _resolve_imports(module: bytes) -> dict[str, str]:
    """The name of each import of an inspected module -> the host function that it means."""
    imports = {}
    for each in read_shape(module).imports:
        meaning = abi.resolve(each.name, each.type.parameters) if each.type else None
        assert meaning is not None, f"{each} was inspected"
        imports[each.name] = meaning
    return imports


def _check_limits(artifact: Artifact, limits: Limits) -> None:
    """Raises `ModuleError` when the module can't run within them."""
    if artifact.memory_bytes > limits.memory_bytes:
        raise ModuleError(
            f"the module starts with {artifact.memory_bytes} bytes of memory and its limit is "
            f"{limits.memory_bytes}: raise the app's memory limit, or link the module with a smaller "
            "stack or less static data"
        )
    if artifact.options.is_metered != (limits.cost is not None):
        how = "without" if artifact.options.is_metered else "with"
        raise ModuleError(
            "a limit on cost and an artifact that counts its work go together: compile the module "
            f"again, {how} its work being counted"
        )
    if not can_reserve(RESERVATION_BYTES):
        raise UnavailableError(
            f"WasmEdge reserves {RESERVATION_BYTES >> 30} GiB of address space for each guest, and "
            "this process does not get that: raise its limit (ulimit -v)"
        )


# What it says of instructions and types that it does not know, or that are off.
_UNKNOWN = ("illegal opcode", "malformed")


def _explain_refusal(reason: str) -> str:
    hint = ""
    if reason.startswith(_UNKNOWN):
        hint = " (perhaps of a WebAssembly proposal that is off: build it for plain wasm32-wasip1)"
    return f"the module can't be compiled: {reason}{hint}"
