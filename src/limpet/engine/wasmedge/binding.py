"""The C functions of WasmEdge that Limpet calls, bound thinly, as the loaded version declares them.

One name, `libwasmedge.so.0`, stands for several ABIs: the library says which version it is, and only the
series that the binding was written and tested for are taken. Handles are integers: addresses that C gave
and that go back to C. Trivial calls go through `PyDLL`, which keeps the GIL; calls that run guest code,
compile, map memory or wait go through `CDLL`, which releases it.

Source of every signature: `include/api/wasmedge/` of the tags 0.14.1 and 0.17.1. Whoever calls must free
what it is given, as those headers say.
"""

from __future__ import annotations

import ctypes
from ctypes import c_bool, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from typing import TYPE_CHECKING, Any

from limpet.engine.wasmedge.library import TESTED_VERSIONS, load_library
from limpet.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    Function = Callable[..., Any]

# WasmEdge_HostFunc_t(data, calling frame, parameters, returns) -> WasmEdge_Result.
HOST_FUNCTION = ctypes.CFUNCTYPE(c_uint32, c_size_t, c_size_t, c_size_t, c_size_t)
VALUE_BYTES = 32  # sizeof(WasmEdge_Value): 16 of value, 8 of type, aligned to 16

# WasmEdge_Result is one u32: the category in its highest byte, the code in the others.
# Source: include/common/enum.inc, UseErrCode; the numbers are the same in both series.
SUCCESS = 0x0000
TERMINATED = 0x0001
COST_LIMIT_EXCEEDED = 0x0003
INTERRUPTED = 0x0007


class UnknownVersionError(UnavailableError):
    """The library is there, and is of a version that this binding was not tested with."""

    reason = "EngineVersionUnknown"


class Text(ctypes.Structure):
    """`WasmEdge_String`, passed by value. Keep it alive while C may read it."""

    _fields_ = (("length", c_uint32), ("buffer", c_char_p))

    def __init__(self, content: bytes) -> None:
        super().__init__(len(content), content)


class Bytes(Text):
    """`WasmEdge_Bytes`: the same layout."""


# `WasmEdge_ValType` is eight bytes that C passes and returns by value, as it does a u64.
_VALUE_TYPE = c_uint64

# Which proposals exist, by their number in each series (enum.inc, UseProposal).
_PROPOSALS = {
    "0.14": (
        "import-export-mut-globals non-trap-float-to-int sign-extension multi-value bulk-memory "
        "reference-types simd tail-call extended-const function-references gc multi-memories "
        "threads relaxed-simd annotations memory64 exceptions component"
    ),
    "0.17": (
        "import-export-mut-globals non-trap-float-to-int sign-extension multi-value bulk-memory "
        "reference-types simd tail-call extended-const function-references gc multi-memories "
        "relaxed-simd annotations exceptions memory64 threads component"
    ),
}


class Binding:
    """The functions of one loaded library, by their names without `WasmEdge_`.

    `version` is the library's own word for it; `series` its first two numbers. `proposals` are names in
    the order of the library's numbers.
    """

    def __init__(self, path: str) -> None:
        """Load the library. Raises EngineMissingError, or `UnknownVersionError`."""
        load_library(path)
        self._held = ctypes.PyDLL(path)
        self._released = ctypes.CDLL(path)
        self.version: str = self._bind("VersionGet", c_char_p)().decode()
        self.series = ".".join(self.version.split(".")[:2])
        if self.series not in TESTED_VERSIONS:
            tested = " and ".join(f"{series}.x" for series in TESTED_VERSIONS)
            raise UnknownVersionError(
                f"{path} is WasmEdge {self.version}, whose C functions Limpet does not know: it was "
                f"tested with {tested}. Install one of those (`limpet engine install wasmedge`)"
            )
        self.proposals = tuple(_PROPOSALS[self.series].split())
        self._bind_types()
        self._bind_configuration()
        self._bind_modules()
        self._bind_execution()
        self._bind_instances()
        # Else it writes what goes wrong to standard output, which is the app's.
        self._bind("LogOff", None)()

    def _bind(self, name: str, result: object, *arguments: object) -> Function:
        """A function that returns at once."""
        return _declare(self._held, name, result, arguments)

    def _bind_long(self, name: str, result: object, *arguments: object) -> Function:
        """A function that may take its time: the GIL is released meanwhile."""
        return _declare(self._released, name, result, arguments)

    def _bind_types(self) -> None:
        self.value_type_i32: int = self._bind("ValTypeGenI32", _VALUE_TYPE)()
        self.value_type_i64: int = self._bind("ValTypeGenI64", _VALUE_TYPE)()
        self.function_type_create = self._bind(
            "FunctionTypeCreate", c_void_p, c_void_p, c_uint32, c_void_p, c_uint32
        )
        self.function_type_delete = self._bind("FunctionTypeDelete", None, c_void_p)
        self.result_get_message = self._bind("ResultGetMessage", c_char_p, c_uint32)

    def _bind_configuration(self) -> None:
        # The number of pages was a u32, and there was a switch where there are modes now.
        pages, modes = (c_uint32, c_bool) if self.series == "0.14" else (c_uint64, c_int)
        self.configure_create = self._bind("ConfigureCreate", c_void_p)
        self.configure_delete = self._bind("ConfigureDelete", None, c_void_p)
        self.configure_add_proposal = self._bind("ConfigureAddProposal", None, c_void_p, c_int)
        self.configure_remove_proposal = self._bind(
            "ConfigureRemoveProposal", None, c_void_p, c_int
        )
        self.configure_set_max_memory_page = self._bind(
            "ConfigureSetMaxMemoryPage", None, c_void_p, pages
        )
        mode = "SetForceInterpreter" if self.series == "0.14" else "SetRunMode"
        self._configure_mode = self._bind(f"Configure{mode}", None, c_void_p, modes)
        self.configure_compiler_set_output_format = self._bind(
            "ConfigureCompilerSetOutputFormat", None, c_void_p, c_int
        )
        self.configure_compiler_set_optimization_level = self._bind(
            "ConfigureCompilerSetOptimizationLevel", None, c_void_p, c_int
        )
        self.configure_compiler_set_interruptible = self._bind(
            "ConfigureCompilerSetInterruptible", None, c_void_p, c_bool
        )
        self.configure_statistics_set_cost_measuring = self._bind(
            "ConfigureStatisticsSetCostMeasuring", None, c_void_p, c_bool
        )
        self.statistics_create = self._bind("StatisticsCreate", c_void_p)
        self.statistics_delete = self._bind("StatisticsDelete", None, c_void_p)
        self.statistics_clear = self._bind("StatisticsClear", None, c_void_p)
        self.statistics_set_cost_limit = self._bind(
            "StatisticsSetCostLimit", None, c_void_p, c_uint64
        )

    def configure_native_code(self, configuration: int, *, is_run: bool) -> None:
        """Whether native code that comes inside a module is run, or ignored."""
        if self.series == "0.14":
            self._configure_mode(configuration, not is_run)  # "force interpreter"
        else:
            self._configure_mode(configuration, 2 if is_run else 0)  # WasmEdge_RunMode_*

    def _bind_modules(self) -> None:
        self.compiler_create = self._bind_long("CompilerCreate", c_void_p, c_void_p)
        self.compiler_delete = self._bind_long("CompilerDelete", None, c_void_p)
        self.compiler_compile_from_bytes = self._bind_long(
            "CompilerCompileFromBytes", c_uint32, c_void_p, Bytes, c_char_p
        )
        self.loader_create = self._bind("LoaderCreate", c_void_p, c_void_p)
        self.loader_delete = self._bind("LoaderDelete", None, c_void_p)
        self.loader_parse_from_bytes = self._bind_long(
            "LoaderParseFromBytes", c_uint32, c_void_p, c_void_p, Bytes
        )
        self.validator_create = self._bind("ValidatorCreate", c_void_p, c_void_p)
        self.validator_delete = self._bind("ValidatorDelete", None, c_void_p)
        self.validator_validate = self._bind_long("ValidatorValidate", c_uint32, c_void_p, c_void_p)
        self.ast_module_delete = self._bind_long("ASTModuleDelete", None, c_void_p)

    def _bind_execution(self) -> None:
        self.executor_create = self._bind("ExecutorCreate", c_void_p, c_void_p, c_void_p)
        self.executor_delete = self._bind("ExecutorDelete", None, c_void_p)
        self.executor_register_import = self._bind(
            "ExecutorRegisterImport", c_uint32, c_void_p, c_void_p, c_void_p
        )
        self.executor_instantiate = self._bind_long(
            "ExecutorInstantiate", c_uint32, c_void_p, c_void_p, c_void_p, c_void_p
        )
        self.executor_invoke = self._bind_long(
            "ExecutorInvoke", c_uint32, c_void_p, c_void_p, c_void_p, c_uint32, c_void_p, c_uint32
        )
        self.executor_async_invoke = self._bind_long(
            "ExecutorAsyncInvoke", c_void_p, c_void_p, c_void_p, c_void_p, c_uint32
        )
        self.async_wait = self._bind_long("AsyncWait", None, c_void_p)
        self.async_cancel = self._bind("AsyncCancel", None, c_void_p)
        self.async_delete = self._bind_long("AsyncDelete", None, c_void_p)
        self.store_create = self._bind("StoreCreate", c_void_p)
        self.store_delete = self._bind_long("StoreDelete", None, c_void_p)

    def _bind_instances(self) -> None:
        size = c_uint32 if self.series == "0.14" else c_uint64
        self.module_instance_create = self._bind("ModuleInstanceCreate", c_void_p, Text)
        self.module_instance_delete = self._bind_long("ModuleInstanceDelete", None, c_void_p)
        self.module_instance_add_function = self._bind(
            "ModuleInstanceAddFunction", None, c_void_p, Text, c_void_p
        )
        self.module_instance_find_function = self._bind(
            "ModuleInstanceFindFunction", c_void_p, c_void_p, Text
        )
        self.module_instance_find_memory = self._bind(
            "ModuleInstanceFindMemory", c_void_p, c_void_p, Text
        )
        self.function_instance_create = self._bind(
            "FunctionInstanceCreate", c_void_p, c_void_p, HOST_FUNCTION, c_void_p, c_uint64
        )
        self.calling_frame_get_memory_instance = self._bind(
            "CallingFrameGetMemoryInstance", c_void_p, c_void_p, c_uint32
        )
        self.memory_instance_get_page_size = self._bind("MemoryInstanceGetPageSize", size, c_void_p)
        self.memory_instance_get_pointer = self._bind(
            "MemoryInstanceGetPointer", c_void_p, c_void_p, size, size
        )

    def message(self, result: int) -> str:
        """The library's words for a result."""
        text: bytes = self.result_get_message(result)
        return text.decode(errors="replace")


def _declare(
    library: ctypes.CDLL, name: str, result: object, arguments: tuple[object, ...]
) -> Function:
    function = getattr(library, f"WasmEdge_{name}")
    function.restype = result
    function.argtypes = arguments
    bound: Function = function
    return bound
