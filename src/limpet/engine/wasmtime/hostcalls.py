"""Lets a guest call the WASI functions that are written in Python.

Wasmtime calls back with the address of an array of 16-byte slots that holds the arguments and
takes the result (`wasmtime_func_unchecked_callback_t`, wasmtime/func.h). Nothing raised by a host
function may pass through C: every exception becomes an error number for the guest, or a trap.
"""

from __future__ import annotations

import ctypes
from struct import Struct
from time import monotonic_ns
from typing import TYPE_CHECKING

from limpet.engine.wasmtime import binding
from limpet.wasi import abi

if TYPE_CHECKING:
    from _ctypes import CFuncPtr
    from collections.abc import Callable

    from limpet.engine.guest import Ending, Guest
    from limpet.engine.wasmtime.deadline import EpochAlarm
    from limpet.wasi.control import Control

_SLOTS = {"i": "I12x", "j": "Q8x", "s": "q8x"}
_VALUE_KINDS = {"i": 0, "j": 1, "s": 1}  # WASM_I32, WASM_I64 of wasm.h
_ENDED = b"ended by the host"
# One epoch beyond the current one: the next increment makes the guest call back.
NEXT_EPOCH = 1


def make_callback(name: str, function: Callable[..., int], guest: Guest) -> CFuncPtr:
    """A C function pointer that calls `function` for the guest. Keep it alive while it is used."""
    parameters = abi.PARAMETERS[name]
    unpack = Struct("<" + "".join(_SLOTS[code] for code in parameters)).unpack_from
    at_address = (ctypes.c_uint64 * (2 * max(len(parameters), 1))).from_address
    # A guest that does the same again calls from the same place on its stack.
    seen_at, slots = 0, at_address(0)

    def call(_environment: int, caller: int, address: int, _count: int) -> int:
        nonlocal seen_at, slots
        try:
            guest.caller = caller
            if address != seen_at:
                slots = at_address(address)
                seen_at = address
            slots[0] = function(guest.run, *unpack(slots))
        except BaseException as error:
            return _translate(error, guest, address)
        return 0

    return binding.HOST_FUNCTION(call)


def _translate(error: BaseException, guest: Guest, address: int) -> int:
    """What was raised, for the guest: an error number in the result's slot, or a trap."""
    number = guest.answer(error)
    if number is None:
        trap: int = binding.trap_new(_ENDED, len(_ENDED))
        return trap
    ctypes.c_uint64.from_address(address).value = number
    return 0


def make_epoch_callback(guest: Ending, control: Control, alarm: EpochAlarm) -> CFuncPtr:
    """A C function pointer for when the epoch moved while guest code ran. Keep it alive.

    `wasmtime_store_epoch_deadline_callback` of wasmtime/store.h: an error that is returned ends the
    guest, else it goes on until the epoch moves again.
    """

    def call(_context: int, _data: int, delta_at: int, _kind_at: int) -> int:
        try:
            control.check()
            if control.deadline_ns:
                alarm.ensure(control.deadline_ns, monotonic_ns())
            ctypes.c_uint64.from_address(delta_at).value = NEXT_EPOCH
        except BaseException as ending:
            guest.end_with(ending)
            error: int = binding.error_new(_ENDED)
            return error
        return 0

    return binding.EPOCH_CALLBACK(call)


def new_function_type(name: str) -> int:
    """The `wasm_functype_t` of a WASI function; the caller frees it."""
    parameters = _value_types([_VALUE_KINDS[code] for code in abi.PARAMETERS[name]])
    results = _value_types([] if name in abi.NO_RESULT else [_VALUE_KINDS["i"]])
    function_type: int = binding.functype_new(ctypes.byref(parameters), ctypes.byref(results))
    return function_type


def _value_types(kinds: list[int]) -> binding.PointerVec:
    items = (ctypes.c_void_p * len(kinds))(*[binding.valtype_new(kind) for kind in kinds])
    vector = binding.PointerVec()
    binding.valtype_vec_new(ctypes.byref(vector), len(kinds), items)
    return vector
