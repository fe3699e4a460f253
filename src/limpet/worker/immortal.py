"""Objects that are shared with forked children for good: looking at one no longer writes to it.

CPython counts references inside each object, so a child that only reads an object copies its page. From 3.12
on an object whose count has one certain value is immortal and its count is left alone (PEP 683, which names
this as a use). There is no function for it: the value is written where the interpreter keeps it, in versions
whose layout is known and was tried.
"""

from __future__ import annotations

import ctypes
import gc
import sys

_VERSIONS = ((3, 12), (3, 13))
# Include/object.h of these versions: _Py_IMMORTAL_REFCNT, in the low half of a 64-bit count.
_COUNT = 0xFFFF_FFFF

_count_of = ctypes.c_uint32.from_address


def can_immortalise() -> bool:
    """Whether this interpreter's layout is one of those that were tried."""
    is_known = sys.implementation.name == "cpython" and sys.version_info[:2] in _VERSIONS
    has_layout = sys.maxsize > 1 << 32 and "t" not in sys.abiflags
    return is_known and has_layout and _count_of(id(None)).value == _COUNT


def immortalise() -> int:
    """Make every object that this process has immortal; return how many were not yet.

    For a process that forks many children and frees nothing of what it began with, before its first
    fork. It must have one thread. Does nothing, and returns 0, where `can_immortalise` is false.
    """
    if not can_immortalise():
        return 0
    gc.unfreeze()  # what is frozen is not among the objects that the collector names
    found = 0
    waiting = gc.get_objects()
    while waiting:
        each = waiting.pop()
        count = _count_of(id(each))
        if count.value != _COUNT:
            count.value = _COUNT
            found += 1
            waiting += gc.get_referents(each)
    return found
