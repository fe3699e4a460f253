"""How much address space a process can really reserve.

Wasmtime reserves address space for whole guests up front: it makes guest code faster and costs no
memory. Some ARM kernels give a process 39 bits of it, sandboxes may limit it further (RLIMIT_AS),
and what is left depends on what is mapped: so it is tried, not computed.
"""

from __future__ import annotations

import ctypes

_PROT_NONE = 0
_MAP_PRIVATE, _MAP_ANONYMOUS, _MAP_NORESERVE = 0x02, 0x20, 0x4000
_MAP_FAILED = ctypes.c_void_p(-1).value


def can_reserve(length: int) -> bool:
    """Whether `length` bytes of address space can be reserved at once, now, in this process."""
    libc = ctypes.PyDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_long,
    )
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    flags = _MAP_PRIVATE | _MAP_ANONYMOUS | _MAP_NORESERVE
    address = libc.mmap(None, length, _PROT_NONE, flags, -1, 0)
    if address == _MAP_FAILED:
        return False
    libc.munmap(address, length)
    return True
