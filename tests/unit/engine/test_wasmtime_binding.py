"""The lean binding declares every C function as wasmtime-py's own bindings do, and works."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from typing import Any

import pytest
from wasmtime import _bindings as reference

from limpet.engine.raw_memory import view_memory
from limpet.engine.wasmtime import binding, settings
from limpet.engine.wasmtime.library import find_library, find_version

FUNCTIONS = {
    value.__name__: value
    for name, value in vars(binding).items()
    if not name.startswith("_") and hasattr(value, "argtypes") and value.argtypes is not None
}
SWITCHES = [f"wasmtime_config_{name}_set" for name in settings._SWITCHES]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_same_shape_as_the_reference(name: str) -> None:
    ours = FUNCTIONS[name]
    theirs = getattr(reference, f"_{name}", None)
    if theirs is None:
        pytest.skip("the reference does not bind it")
    assert _sizes(ours.argtypes) == _sizes(theirs.argtypes)
    assert _sizes([ours.restype]) == _sizes([theirs.restype])


@pytest.mark.parametrize("name", SWITCHES)
def test_switches_take_a_configuration_and_a_bool(name: str) -> None:
    theirs = getattr(reference, f"_{name}", None)
    if theirs is None:
        assert hasattr(ctypes.CDLL(binding.LIBRARY_PATH), name)
    else:
        assert _sizes(theirs.argtypes) == [8, 1]


def test_structures_have_the_reference_s_sizes() -> None:
    pairs = (
        (binding.ByteVec, reference.wasm_byte_vec_t),
        (binding.PointerVec, reference.wasm_importtype_vec_t),
        (binding.Limits, reference.wasm_limits_t),
        (binding.Instance, reference.wasmtime_instance_t),
        (binding.Extern, reference.wasmtime_extern_t),
    )
    for ours, theirs in pairs:
        assert ctypes.sizeof(ours) == ctypes.sizeof(theirs)
    assert reference.wasmtime_extern_t.of.offset == binding.EXTERN_OF_OFFSET
    assert ctypes.sizeof(reference.wasmtime_val_raw_t) == binding.VALUE_BYTES


def test_text_becomes_a_module_and_errors_become_text() -> None:
    vector = binding.ByteVec()
    assert not binding.wat2wasm(b"(module)", 8, ctypes.byref(vector))
    assert binding.take_bytes(vector) == b"\0asm\1\0\0\0"
    error = binding.wat2wasm(b"(nothing)", 9, ctypes.byref(vector))
    assert "expected" in binding.take_error(error)


def test_errors_and_traps_carry_their_text() -> None:
    assert binding.take_error(binding.error_new(b"some text")) == "some text"
    trap = binding.trap_new(b"why", 3)
    message = binding.ByteVec()
    binding.trap_message(trap, ctypes.byref(message))
    assert binding.take_bytes(message).rstrip(b"\0") == b"why"
    code = ctypes.c_uint8()
    assert not binding.trap_code(trap, ctypes.byref(code))
    binding.trap_delete(trap)


def test_function_types_have_their_parameters() -> None:
    from limpet.engine.wasmtime.hostcalls import new_function_type

    function_type = new_function_type("fd_seek")
    pointer = ctypes.cast(function_type, ctypes.POINTER(reference.wasm_functype_t))
    parameters = reference.wasm_functype_params(pointer).contents
    kinds = [
        reference.wasm_valtype_kind(parameters.data[index]) for index in range(parameters.size)
    ]
    assert kinds == [0, 1, 0, 0]
    assert reference.wasm_functype_results(pointer).contents.size == 1
    binding.functype_delete(function_type)


def test_a_view_of_memory_is_writable_and_can_be_released() -> None:
    buffer = ctypes.create_string_buffer(b"abc")
    view = view_memory(ctypes.addressof(buffer), 3)
    view[1:2] = b"X"
    assert buffer.value == b"aXc"
    view.release()
    with pytest.raises(ValueError, match="released"):
        len(view)


def test_names_of_nothing_are_empty() -> None:
    assert binding.read_name(None) == ""
    assert binding.take_bytes(binding.ByteVec()) == b""


def test_the_library_is_the_wheel_s_and_its_version_is_known() -> None:
    from importlib.metadata import version

    assert find_library() == binding.LIBRARY_PATH
    assert find_version() == version("wasmtime")


@pytest.mark.parametrize(
    "module", ["limpet.engine", "limpet.engine.protocol", "limpet.wasi.streams"]
)
def test_importing_the_protocol_loads_no_engine(module: str) -> None:
    script = (
        f"import {module}, sys; maps = open('/proc/self/maps').read(); "
        "assert 'wasmtime' not in maps; assert 'ctypes' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_an_engine_imports_neither_its_package_nor_what_workers_need_not() -> None:
    script = (
        "from limpet.engine import open_engine; import sys; open_engine(); "
        "unwanted = {'wasmtime', 'asyncio', 'hashlib', 'subprocess', 'socket', "
        "'logging', 'importlib.metadata'} & set(sys.modules); assert not unwanted, unwanted"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_making_an_engine_starts_no_thread() -> None:
    script = (
        "from limpet.engine import open_engine; open_engine(); import os; "
        "assert len(os.listdir('/proc/self/task')) == 1"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def _sizes(types: Any) -> list[int]:
    return [0 if each is None else ctypes.sizeof(each) for each in types]
