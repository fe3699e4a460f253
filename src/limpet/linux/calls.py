"""How this room reaches the kernel: libc by ctypes, and system calls that libc has no function for.

The handle keeps the interpreter's lock during a call: the calls made here are short, and no other
Python thread runs between a call and the reading of its errno.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache

from limpet.linux.syscalls import parse_numbers

MACHINE = os.uname().machine
libc = ctypes.PyDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
libc.prctl.restype = ctypes.c_int
# Variadic in C, but the kernel reads whole registers: 32-bit integers could leave junk in them.
libc.prctl.argtypes = (ctypes.c_int, *(ctypes.c_ulong,) * 4)
libc.mount.restype = ctypes.c_int
libc.mount.argtypes = (
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_void_p,
)
libc.umount2.restype = ctypes.c_int
libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)


def check(result: int, what: str) -> int:
    """Return what a libc function returned; raise OSError "what: reason" where that is negative."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def syscall(name: str, *arguments: object) -> int:
    """Make a system call by its name, as syscall(2) does.

    Integers are passed as C longs, everything else (bytes, None, structures by reference) the way
    ctypes passes it. Raises OSError, with ENOSYS where this kernel or architecture lacks the call.
    """
    return check(
        libc.syscall(
            ctypes.c_long(number_of(name)),
            *(ctypes.c_long(each) if isinstance(each, int) else each for each in arguments),
        ),
        name,
    )


def prctl(option: int, *arguments: int, what: str) -> int:
    """prctl(2), unused arguments zero. `what` names the operation in the OSError."""
    padding = (0,) * (4 - len(arguments))
    return check(libc.prctl(option, *arguments, *padding), f"prctl({what})")


@cache
def number_of(name: str) -> int:
    """Return the number of a system call here; -1, which gives ENOSYS, where there is none."""
    return parse_numbers(MACHINE).get(name, -1)
