"""How values of components lie in C's memory, and what a program has to pass them with.

Source: `wasmtime_component_val_t` of wasmtime/component/val.h: 32 bytes, a kind at 0 and what it
holds at 8. A record's entry is a name and a value; a name, as a text, is a size and a pointer.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from limpet.engine.wasmtime import component_binding as c
from limpet.engine.wasmtime.binding import take_error
from limpet.wasi.endings import GuestTrap

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limpet.wasi.preview2.resources import Resource, ResourceTable

VALUE_BYTES = 32
RECORD_ENTRY_BYTES = 48
NAME_BYTES = 16

# wasmtime/component/val.h
KINDS = {"bool": 0, "u8": 2, "u16": 4, "u32": 6, "u64": 8, "string": 12}
LIST, RECORD, TUPLE, VARIANT, ENUM, OPTION, RESULT, FLAGS, RESOURCE = range(13, 22)
INTEGERS: dict[str, type[ctypes._SimpleCData[int]]] = {
    "u8": ctypes.c_uint8,
    "u16": ctypes.c_uint16,
    "u32": ctypes.c_uint32,
    "u64": ctypes.c_uint64,
}
word_at = ctypes.c_uint64.from_address
byte_at = ctypes.c_uint8.from_address


def spread(start: int, count: int, stride: int) -> range:
    """The addresses of so many items."""
    return range(start, start + count * stride, stride)


class Passage:
    """What lifting and lowering need of a program: the store in use, and the run's resources.

    `context` is the `wasmtime_context_t` of the host call in progress. `numbers` are the host's
    types of the resources that the component knows, by name.
    """

    __slots__ = ("_handle", "_handle_at", "context", "numbers", "resources")

    def __init__(self, numbers: Mapping[str, int]) -> None:
        self.context = 0
        self.resources: ResourceTable | None = None
        self.numbers = numbers
        self._handle = ctypes.c_void_p()
        self._handle_at = ctypes.addressof(self._handle)

    def lift_resource(self, at: int) -> Resource:
        """What stands behind the handle in a value. The engine has checked its type."""
        assert self.resources is not None
        error = c.resource_any_to_host(self.context, word_at(at + 8).value, self._handle_at)
        if error:
            raise GuestTrap(" ".join(take_error(error).split()))
        number = c.resource_host_rep(self._handle)
        c.resource_host_delete(self._handle)
        return self.resources.get(number)

    def lower_resource(self, at: int, resource: Resource, type_number: int) -> None:
        """Have the guest own a resource."""
        assert self.resources is not None
        number = self.resources.add(resource)
        host = c.resource_host_new(True, number, type_number)
        error = c.resource_host_to_any(self.context, host, self._handle_at)
        c.resource_host_delete(host)
        if error:
            self.resources.drop(number)
            raise GuestTrap(" ".join(take_error(error).split()))
        word_at(at + 8).value = self._handle.value or 0
        byte_at(at).value = RESOURCE
