"""Lets a guest call the WASI functions that are written in Python.

WasmEdge calls back with the addresses of two arrays of 32-byte values, arguments and results
(`WasmEdge_HostFunc_t`). Nothing raised by a host function may pass through C: every exception becomes an
error number for the guest, or its end.
"""

from __future__ import annotations

import ctypes
from struct import Struct
from typing import TYPE_CHECKING

from limpet.engine.wasmedge.binding import (
    HOST_FUNCTION,
    SUCCESS,
    TERMINATED,
    VALUE_BYTES,
    Binding,
    Text,
)
from limpet.wasi import abi

if TYPE_CHECKING:
    from _ctypes import CFuncPtr
    from collections.abc import Callable, Mapping

    from limpet.engine.guest import Guest

_LAYOUTS = {"i": "I28x", "j": "Q24x", "s": "q24x"}
_MODULE = abi.MODULE.encode()


def make_callback(key: str, function: Callable[..., int], guest: Guest) -> CFuncPtr:
    """A C function pointer that calls `function` for the guest. Keep it alive while it is used."""
    parameters = abi.PARAMETERS[key]
    unpack = Struct("<" + "".join(_LAYOUTS[code] for code in parameters)).unpack_from
    arguments_at = (ctypes.c_uint8 * (VALUE_BYTES * max(len(parameters), 1))).from_address
    result_at = (ctypes.c_uint64 * 1).from_address
    # The arrays are allocated for each call, and so come again and again from the same places.
    # For what there is none of, the address is 0; a result is then written here.
    seen_arguments = seen_result = 0
    arguments, result = arguments_at(0), (ctypes.c_uint64 * 1)()

    def call(_data: int, frame: int, at: int, results_at: int) -> int:
        nonlocal seen_arguments, seen_result, arguments, result
        try:
            guest.caller = frame
            if at != seen_arguments:
                arguments = arguments_at(at)
                seen_arguments = at
            if results_at != seen_result:
                result = result_at(results_at)
                seen_result = results_at
            result[0] = function(guest.run, *unpack(arguments))
        except BaseException as error:
            number = guest.answer(error)
            if number is None:
                return TERMINATED
            result[0] = number
        return SUCCESS

    return HOST_FUNCTION(call)


def new_import_module(
    binding: Binding, imports: Mapping[str, str], callbacks: Mapping[str, CFuncPtr]
) -> int:
    """A module instance with the host functions that a guest imports; the caller frees it."""
    module: int = binding.module_instance_create(Text(_MODULE))
    for name, key in imports.items():
        function_type = _new_function_type(binding, key)
        function = binding.function_instance_create(function_type, callbacks[key], None, 0)
        binding.function_type_delete(function_type)
        binding.module_instance_add_function(module, Text(name.encode()), function)
    return module


def _new_function_type(binding: Binding, key: str) -> int:
    kinds = {
        "i": binding.value_type_i32,
        "j": binding.value_type_i64,
        "s": binding.value_type_i64,
    }
    codes = abi.PARAMETERS[key]
    parameters = (ctypes.c_uint64 * len(codes))(*[kinds[code] for code in codes])
    results = (ctypes.c_uint64 * 1)(kinds["i"])
    function_type: int = binding.function_type_create(
        parameters, len(codes), results, 0 if key in abi.NO_RESULT else 1
    )
    return function_type
