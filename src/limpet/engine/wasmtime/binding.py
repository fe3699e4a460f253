"""The C functions of Wasmtime that Limpet calls, bound thinly.

The library is the one inside the official `wasmtime` wheel; the wheel's Python package is never
imported, which saves 7 MB and three quarters of every call's time. Handles are integers: addresses
that C gave and that go back to C. Trivial calls go through `PyDLL`, which keeps the GIL; calls that
run guest code, compile or map files go through `CDLL`, which releases it.

Source of every signature: the C API's headers, `wasm.h` and `wasmtime/*.h`, named above each group.
Whoever calls must free what it is given, as those headers say.
"""

from __future__ import annotations

import ctypes
from ctypes import c_bool, c_char_p, c_int64, c_size_t, c_uint8, c_uint32, c_uint64, c_void_p
from typing import TYPE_CHECKING, Any

from limpet.engine.wasmtime.library import find_library

if TYPE_CHECKING:
    from collections.abc import Callable

LIBRARY_PATH = find_library()

_held = ctypes.PyDLL(LIBRARY_PATH)
_released = ctypes.CDLL(LIBRARY_PATH)


class ByteVec(ctypes.Structure):
    """`wasm_byte_vec_t`; also `wasm_name_t` and `wasm_message_t`."""

    _fields_ = (("size", c_size_t), ("data", c_void_p))


class PointerVec(ctypes.Structure):
    """`wasm_*type_vec_t` and `wasm_frame_vec_t`: an array of pointers."""

    _fields_ = (("size", c_size_t), ("data", ctypes.POINTER(c_void_p)))


class Limits(ctypes.Structure):
    """`wasm_limits_t`."""

    _fields_ = (("min", c_uint32), ("max", c_uint32))


class Instance(ctypes.Structure):
    """`wasmtime_instance_t`."""

    _fields_ = (("store", c_uint64), ("index", c_size_t))


class Extern(ctypes.Structure):
    """`wasmtime_extern_t`: a kind, and at offset 8 a union of at most 24 bytes."""

    _fields_ = (("kind", c_uint8), ("of", c_uint64 * 3))


EXTERN_FUNC = 0
EXTERN_MEMORY = 3
EXTERN_OF_OFFSET = 8

# wasmtime/func.h: wasmtime_func_unchecked_callback_t(env, caller, args_and_results, count).
HOST_FUNCTION = ctypes.CFUNCTYPE(c_size_t, c_size_t, c_size_t, c_size_t, c_size_t)
# wasmtime/store.h: the epoch deadline's callback(context, data, delta*, kind*).
EPOCH_CALLBACK = ctypes.CFUNCTYPE(c_size_t, c_size_t, c_size_t, c_size_t, c_size_t)
VALUE_BYTES = 16  # sizeof(wasmtime_val_raw_t)


def _bind(
    library: ctypes.CDLL, name: str, result: object, *arguments: object
) -> Callable[..., Any]:
    function = getattr(library, name)
    function.restype = result
    function.argtypes = arguments
    bound: Callable[..., Any] = function
    return bound


# wasm.h: vectors, types
byte_vec_delete = _bind(_held, "wasm_byte_vec_delete", None, c_void_p)
functype_new = _bind(_held, "wasm_functype_new", c_void_p, c_void_p, c_void_p)
functype_delete = _bind(_held, "wasm_functype_delete", None, c_void_p)
functype_params = _bind(_held, "wasm_functype_params", ctypes.POINTER(PointerVec), c_void_p)
valtype_kind = _bind(_held, "wasm_valtype_kind", c_uint8, c_void_p)
valtype_new = _bind(_held, "wasm_valtype_new", c_void_p, c_uint8)
valtype_vec_new = _bind(_held, "wasm_valtype_vec_new", None, c_void_p, c_size_t, c_void_p)
importtype_module = _bind(_held, "wasm_importtype_module", ctypes.POINTER(ByteVec), c_void_p)
importtype_name = _bind(_held, "wasm_importtype_name", ctypes.POINTER(ByteVec), c_void_p)
importtype_type = _bind(_held, "wasm_importtype_type", c_void_p, c_void_p)
importtype_vec_delete = _bind(_held, "wasm_importtype_vec_delete", None, c_void_p)
exporttype_name = _bind(_held, "wasm_exporttype_name", ctypes.POINTER(ByteVec), c_void_p)
exporttype_type = _bind(_held, "wasm_exporttype_type", c_void_p, c_void_p)
exporttype_vec_delete = _bind(_held, "wasm_exporttype_vec_delete", None, c_void_p)
externtype_as_functype = _bind(_held, "wasm_externtype_as_functype_const", c_void_p, c_void_p)
externtype_as_memorytype = _bind(_held, "wasm_externtype_as_memorytype_const", c_void_p, c_void_p)
memorytype_limits = _bind(_held, "wasm_memorytype_limits", ctypes.POINTER(Limits), c_void_p)

# wasm.h, wasmtime/engine.h
engine_new_with_config = _bind(_released, "wasm_engine_new_with_config", c_void_p, c_void_p)
engine_delete = _bind(_released, "wasm_engine_delete", None, c_void_p)
engine_increment_epoch = _bind(_held, "wasmtime_engine_increment_epoch", None, c_void_p)
# What a timer calls, without Python.
engine_increment_epoch_address = (
    ctypes.cast(_held.wasmtime_engine_increment_epoch, c_void_p).value or 0
)

# wasm.h, wasmtime/config.h
config_new = _bind(_held, "wasm_config_new", c_void_p)
config_memory_reservation_set = _bind(
    _held, "wasmtime_config_memory_reservation_set", None, c_void_p, c_uint64
)
config_memory_guard_size_set = _bind(
    _held, "wasmtime_config_memory_guard_size_set", None, c_void_p, c_uint64
)
config_memory_reservation_for_growth_set = _bind(
    _held, "wasmtime_config_memory_reservation_for_growth_set", None, c_void_p, c_uint64
)
config_max_wasm_stack_set = _bind(
    _held, "wasmtime_config_max_wasm_stack_set", None, c_void_p, c_size_t
)
pooling_allocation_strategy_set = _bind(
    _held, "wasmtime_pooling_allocation_strategy_set", None, c_void_p, c_void_p
)
pooling_config_new = _bind(_held, "wasmtime_pooling_allocation_config_new", c_void_p)
pooling_config_delete = _bind(_held, "wasmtime_pooling_allocation_config_delete", None, c_void_p)


def config_switch_set(config: int, name: str, *, is_on: bool) -> None:
    """`wasmtime_config_<name>_set(config, bool)`."""
    _bind(_held, f"wasmtime_config_{name}_set", None, c_void_p, c_bool)(config, is_on)


def pooling_config_number_set(pool: int, name: str, value: int) -> None:
    """`wasmtime_pooling_allocation_config_<name>_set(pool, number)`: uint32_t or size_t."""
    _bind(_held, f"wasmtime_pooling_allocation_config_{name}_set", None, c_void_p, c_size_t)(
        pool, value
    )


# wasmtime/module.h
module_new = _bind(
    _released, "wasmtime_module_new", c_void_p, c_void_p, c_char_p, c_size_t, c_void_p
)
module_serialize = _bind(_released, "wasmtime_module_serialize", c_void_p, c_void_p, c_void_p)
module_deserialize = _bind(
    _released, "wasmtime_module_deserialize", c_void_p, c_void_p, c_char_p, c_size_t, c_void_p
)
module_deserialize_file = _bind(
    _released, "wasmtime_module_deserialize_file", c_void_p, c_void_p, c_char_p, c_void_p
)
module_delete = _bind(_released, "wasmtime_module_delete", None, c_void_p)
module_imports = _bind(_held, "wasmtime_module_imports", None, c_void_p, c_void_p)
module_exports = _bind(_held, "wasmtime_module_exports", None, c_void_p, c_void_p)

# wasmtime/linker.h
linker_new = _bind(_held, "wasmtime_linker_new", c_void_p, c_void_p)
linker_delete = _bind(_held, "wasmtime_linker_delete", None, c_void_p)
linker_define_func_unchecked = _bind(
    _held,
    "wasmtime_linker_define_func_unchecked",
    c_void_p,
    c_void_p,
    c_char_p,
    c_size_t,
    c_char_p,
    c_size_t,
    c_void_p,
    HOST_FUNCTION,
    c_void_p,
    c_void_p,
)
linker_instantiate_pre = _bind(
    _released, "wasmtime_linker_instantiate_pre", c_void_p, c_void_p, c_void_p, c_void_p
)

# wasmtime/store.h
store_new = _bind(_held, "wasmtime_store_new", c_void_p, c_void_p, c_void_p, c_void_p)
store_context = _bind(_held, "wasmtime_store_context", c_void_p, c_void_p)
store_delete = _bind(_released, "wasmtime_store_delete", None, c_void_p)
store_limiter = _bind(
    _held, "wasmtime_store_limiter", None, c_void_p, c_int64, c_int64, c_int64, c_int64, c_int64
)
context_set_fuel = _bind(_held, "wasmtime_context_set_fuel", c_void_p, c_void_p, c_uint64)
context_set_epoch_deadline = _bind(
    _held, "wasmtime_context_set_epoch_deadline", None, c_void_p, c_uint64
)
store_epoch_deadline_callback = _bind(
    _held,
    "wasmtime_store_epoch_deadline_callback",
    None,
    c_void_p,
    c_void_p,
    c_void_p,
    c_void_p,
)

# wasmtime/instance.h, wasmtime/func.h, wasmtime/memory.h
instance_pre_instantiate = _bind(
    _released,
    "wasmtime_instance_pre_instantiate",
    c_void_p,
    c_void_p,
    c_void_p,
    c_void_p,
    c_void_p,
)
instance_pre_delete = _bind(_released, "wasmtime_instance_pre_delete", None, c_void_p)
instance_export_get = _bind(
    _held,
    "wasmtime_instance_export_get",
    c_bool,
    c_void_p,
    c_void_p,
    c_char_p,
    c_size_t,
    c_void_p,
)
func_call_unchecked = _bind(
    _released,
    "wasmtime_func_call_unchecked",
    c_void_p,
    c_void_p,
    c_void_p,
    c_void_p,
    c_size_t,
    c_void_p,
)
caller_export_get = _bind(
    _held, "wasmtime_caller_export_get", c_bool, c_void_p, c_char_p, c_size_t, c_void_p
)
memory_data = _bind(_held, "wasmtime_memory_data", c_void_p, c_void_p, c_void_p)
memory_data_size = _bind(_held, "wasmtime_memory_data_size", c_size_t, c_void_p, c_void_p)

# wasm.h, wasmtime/error.h, wasmtime/trap.h
error_new = _bind(_held, "wasmtime_error_new", c_void_p, c_char_p)
error_delete = _bind(_held, "wasmtime_error_delete", None, c_void_p)
error_message = _bind(_held, "wasmtime_error_message", None, c_void_p, c_void_p)
trap_new = _bind(_held, "wasmtime_trap_new", c_void_p, c_char_p, c_size_t)
trap_delete = _bind(_held, "wasm_trap_delete", None, c_void_p)
trap_message = _bind(_held, "wasm_trap_message", None, c_void_p, c_void_p)
trap_code = _bind(_held, "wasmtime_trap_code", c_bool, c_void_p, c_void_p)
trap_trace = _bind(_held, "wasm_trap_trace", None, c_void_p, c_void_p)
frame_func_name = _bind(_held, "wasmtime_frame_func_name", ctypes.POINTER(ByteVec), c_void_p)
frame_func_index = _bind(_held, "wasm_frame_func_index", c_uint32, c_void_p)
frame_vec_delete = _bind(_held, "wasm_frame_vec_delete", None, c_void_p)

# wasmtime/wat.h
wat2wasm = _bind(_released, "wasmtime_wat2wasm", c_void_p, c_char_p, c_size_t, c_void_p)


def take_bytes(vector: ByteVec) -> bytes:
    """Copy a vector that C filled for us, and free it."""
    try:
        return ctypes.string_at(vector.data, vector.size) if vector.size else b""
    finally:
        byte_vec_delete(ctypes.byref(vector))


def take_error(error: int) -> str:
    """The message of a `wasmtime_error_t`, which is freed."""
    message = ByteVec()
    error_message(error, ctypes.byref(message))
    error_delete(error)
    return take_bytes(message).decode(errors="replace")


def read_name(vector: ctypes._Pointer[ByteVec] | None) -> str:
    """The text of a name that C still owns."""
    if not vector:
        return ""
    content = vector.contents
    return ctypes.string_at(content.data, content.size).decode(errors="replace")
