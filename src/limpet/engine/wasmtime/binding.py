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

held = ctypes.PyDLL(LIBRARY_PATH)
released = ctypes.CDLL(LIBRARY_PATH)


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


def bind(library: ctypes.CDLL, name: str, result: object, *arguments: object) -> Callable[..., Any]:
    function = getattr(library, name)
    function.restype = result
    function.argtypes = arguments
    bound: Callable[..., Any] = function
    return bound


# wasm.h: vectors, types
byte_vec_delete = bind(held, "wasm_byte_vec_delete", None, c_void_p)
functype_new = bind(held, "wasm_functype_new", c_void_p, c_void_p, c_void_p)
functype_delete = bind(held, "wasm_functype_delete", None, c_void_p)
functype_params = bind(held, "wasm_functype_params", ctypes.POINTER(PointerVec), c_void_p)
functype_results = bind(held, "wasm_functype_results", ctypes.POINTER(PointerVec), c_void_p)
valtype_kind = bind(held, "wasm_valtype_kind", c_uint8, c_void_p)
valtype_new = bind(held, "wasm_valtype_new", c_void_p, c_uint8)
valtype_vec_new = bind(held, "wasm_valtype_vec_new", None, c_void_p, c_size_t, c_void_p)
importtype_module = bind(held, "wasm_importtype_module", ctypes.POINTER(ByteVec), c_void_p)
importtype_name = bind(held, "wasm_importtype_name", ctypes.POINTER(ByteVec), c_void_p)
importtype_type = bind(held, "wasm_importtype_type", c_void_p, c_void_p)
importtype_vec_delete = bind(held, "wasm_importtype_vec_delete", None, c_void_p)
exporttype_name = bind(held, "wasm_exporttype_name", ctypes.POINTER(ByteVec), c_void_p)
exporttype_type = bind(held, "wasm_exporttype_type", c_void_p, c_void_p)
exporttype_vec_delete = bind(held, "wasm_exporttype_vec_delete", None, c_void_p)
externtype_as_functype = bind(held, "wasm_externtype_as_functype_const", c_void_p, c_void_p)
externtype_as_memorytype = bind(held, "wasm_externtype_as_memorytype_const", c_void_p, c_void_p)
memorytype_limits = bind(held, "wasm_memorytype_limits", ctypes.POINTER(Limits), c_void_p)

# wasm.h, wasmtime/engine.h
engine_new_with_config = bind(released, "wasm_engine_new_with_config", c_void_p, c_void_p)
engine_delete = bind(released, "wasm_engine_delete", None, c_void_p)
engine_increment_epoch = bind(held, "wasmtime_engine_increment_epoch", None, c_void_p)
# What a timer calls, without Python.
engine_increment_epoch_address = (
    ctypes.cast(held.wasmtime_engine_increment_epoch, c_void_p).value or 0
)

# wasm.h, wasmtime/config.h
config_new = bind(held, "wasm_config_new", c_void_p)
config_memory_reservation_set = bind(
    held, "wasmtime_config_memory_reservation_set", None, c_void_p, c_uint64
)
config_memory_guard_size_set = bind(
    held, "wasmtime_config_memory_guard_size_set", None, c_void_p, c_uint64
)
config_memory_reservation_for_growth_set = bind(
    held, "wasmtime_config_memory_reservation_for_growth_set", None, c_void_p, c_uint64
)
config_max_wasm_stack_set = bind(
    held, "wasmtime_config_max_wasm_stack_set", None, c_void_p, c_size_t
)
pooling_allocation_strategy_set = bind(
    held, "wasmtime_pooling_allocation_strategy_set", None, c_void_p, c_void_p
)
pooling_config_new = bind(held, "wasmtime_pooling_allocation_config_new", c_void_p)
pooling_config_delete = bind(held, "wasmtime_pooling_allocation_config_delete", None, c_void_p)


def config_switch_set(config: int, name: str, *, is_on: bool) -> None:
    """`wasmtime_config_<name>_set(config, bool)`."""
    bind(held, f"wasmtime_config_{name}_set", None, c_void_p, c_bool)(config, is_on)


def pooling_config_number_set(pool: int, name: str, value: int) -> None:
    """`wasmtime_pooling_allocation_config_<name>_set(pool, number)`: uint32_t or size_t."""
    bind(held, f"wasmtime_pooling_allocation_config_{name}_set", None, c_void_p, c_size_t)(
        pool, value
    )


# wasmtime/module.h
module_new = bind(released, "wasmtime_module_new", c_void_p, c_void_p, c_char_p, c_size_t, c_void_p)
module_serialize = bind(released, "wasmtime_module_serialize", c_void_p, c_void_p, c_void_p)
module_deserialize = bind(
    released, "wasmtime_module_deserialize", c_void_p, c_void_p, c_char_p, c_size_t, c_void_p
)
module_deserialize_file = bind(
    released, "wasmtime_module_deserialize_file", c_void_p, c_void_p, c_char_p, c_void_p
)
module_delete = bind(released, "wasmtime_module_delete", None, c_void_p)
module_imports = bind(held, "wasmtime_module_imports", None, c_void_p, c_void_p)
module_exports = bind(held, "wasmtime_module_exports", None, c_void_p, c_void_p)

# wasmtime/linker.h
linker_new = bind(held, "wasmtime_linker_new", c_void_p, c_void_p)
linker_delete = bind(held, "wasmtime_linker_delete", None, c_void_p)
linker_define_func_unchecked = bind(
    held,
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
linker_instantiate_pre = bind(
    released, "wasmtime_linker_instantiate_pre", c_void_p, c_void_p, c_void_p, c_void_p
)

# wasmtime/store.h
store_new = bind(held, "wasmtime_store_new", c_void_p, c_void_p, c_void_p, c_void_p)
store_context = bind(held, "wasmtime_store_context", c_void_p, c_void_p)
store_delete = bind(released, "wasmtime_store_delete", None, c_void_p)
store_limiter = bind(
    held, "wasmtime_store_limiter", None, c_void_p, c_int64, c_int64, c_int64, c_int64, c_int64
)
context_set_fuel = bind(held, "wasmtime_context_set_fuel", c_void_p, c_void_p, c_uint64)
context_set_epoch_deadline = bind(
    held, "wasmtime_context_set_epoch_deadline", None, c_void_p, c_uint64
)
store_epoch_deadline_callback = bind(
    held,
    "wasmtime_store_epoch_deadline_callback",
    None,
    c_void_p,
    c_void_p,
    c_void_p,
    c_void_p,
)

# wasmtime/instance.h, wasmtime/func.h, wasmtime/memory.h
instance_pre_instantiate = bind(
    released,
    "wasmtime_instance_pre_instantiate",
    c_void_p,
    c_void_p,
    c_void_p,
    c_void_p,
    c_void_p,
)
instance_pre_delete = bind(released, "wasmtime_instance_pre_delete", None, c_void_p)
instance_export_get = bind(
    held,
    "wasmtime_instance_export_get",
    c_bool,
    c_void_p,
    c_void_p,
    c_char_p,
    c_size_t,
    c_void_p,
)
func_call_unchecked = bind(
    released,
    "wasmtime_func_call_unchecked",
    c_void_p,
    c_void_p,
    c_void_p,
    c_void_p,
    c_size_t,
    c_void_p,
)
caller_export_get = bind(
    held, "wasmtime_caller_export_get", c_bool, c_void_p, c_char_p, c_size_t, c_void_p
)
memory_data = bind(held, "wasmtime_memory_data", c_void_p, c_void_p, c_void_p)
memory_data_size = bind(held, "wasmtime_memory_data_size", c_size_t, c_void_p, c_void_p)

# wasm.h, wasmtime/error.h, wasmtime/trap.h
error_new = bind(held, "wasmtime_error_new", c_void_p, c_char_p)
error_delete = bind(held, "wasmtime_error_delete", None, c_void_p)
error_message = bind(held, "wasmtime_error_message", None, c_void_p, c_void_p)
trap_new = bind(held, "wasmtime_trap_new", c_void_p, c_char_p, c_size_t)
trap_delete = bind(held, "wasm_trap_delete", None, c_void_p)
trap_message = bind(held, "wasm_trap_message", None, c_void_p, c_void_p)
trap_code = bind(held, "wasmtime_trap_code", c_bool, c_void_p, c_void_p)
trap_trace = bind(held, "wasm_trap_trace", None, c_void_p, c_void_p)
frame_func_name = bind(held, "wasmtime_frame_func_name", ctypes.POINTER(ByteVec), c_void_p)
frame_func_index = bind(held, "wasm_frame_func_index", c_uint32, c_void_p)
frame_vec_delete = bind(held, "wasm_frame_vec_delete", None, c_void_p)

# wasmtime/wat.h
wat2wasm = bind(released, "wasmtime_wat2wasm", c_void_p, c_char_p, c_size_t, c_void_p)


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
