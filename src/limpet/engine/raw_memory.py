"""Views of memory that a C library owns."""

from __future__ import annotations

import ctypes
from ctypes import c_int, c_ssize_t, c_void_p

# CPython's C API: a view that nothing on the Python side owns. A prototype of our own, for
# `ctypes.pythonapi` hands the same function to everybody.
_memoryview_from_memory = ctypes.PYFUNCTYPE(ctypes.py_object, c_void_p, c_ssize_t, c_int)(
    ("PyMemoryView_FromMemory", ctypes.pythonapi)
)
_PYBUF_WRITE = 0x200


def view_memory(address: int, length: int) -> memoryview:
    """A writable view of raw memory. It must be released before the memory goes."""
    view: memoryview = _memoryview_from_memory(address, length, _PYBUF_WRITE)
    return view
