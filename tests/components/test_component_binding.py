"""The component part of the binding declares every C function as wasmtime-py's own bindings do."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
from wasmtime import _bindings as reference

from limpet.engine.wasmtime import component_binding as binding
from limpet.engine.wasmtime.component_values import VALUE_BYTES

FUNCTIONS = {
    value.__name__: value
    for name, value in vars(binding).items()
    if not name.startswith("_")
    and not isinstance(value, type)
    and getattr(value, "argtypes", None) is not None
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_same_shape_as_the_reference(name: str) -> None:
    theirs = getattr(reference, f"_{name}")
    assert _sizes(FUNCTIONS[name].argtypes) == _sizes(theirs.argtypes)
    assert _sizes([FUNCTIONS[name].restype]) == _sizes([theirs.restype])


def test_structures_have_the_reference_s_sizes() -> None:
    assert ctypes.sizeof(reference.wasmtime_component_val) == VALUE_BYTES
    assert ctypes.sizeof(reference.wasmtime_component_valrecord_entry_t) == VALUE_BYTES + 16
    assert reference.wasmtime_component_val.of.offset == 8
    assert reference.wasmtime_component_valvariant_t.val.offset == 16
    assert reference.wasmtime_component_valresult_t.val.offset == 8
    pairs = (
        (binding.Instance, reference.wasmtime_component_instance_t),
        (binding.ValueType, reference.wasmtime_component_valtype_t),
        (binding.Item, reference.wasmtime_component_item_t),
    )
    for ours, theirs in pairs:
        assert ctypes.sizeof(ours) == ctypes.sizeof(theirs)
    # One number of ours is spare.
    assert ctypes.sizeof(reference.wasmtime_component_func_t) <= ctypes.sizeof(binding.Function)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (binding.HOST_FUNCTION, reference.wasmtime_component_func_callback_t),
        (binding.DESTRUCTOR, reference.wasmtime_component_resource_destructor_t),
    ],
)
def test_callbacks_have_the_reference_s_shape(ours: Any, theirs: Any) -> None:
    assert _sizes(ours._argtypes_) == _sizes(theirs._argtypes_)
    assert ctypes.sizeof(ours._restype_) == ctypes.sizeof(theirs._restype_)


def _sizes(types: Any) -> list[int]:
    return [0 if each is None else ctypes.sizeof(each) for each in types]
