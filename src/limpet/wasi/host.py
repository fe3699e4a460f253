"""Linux calls that Python's `os` does not offer: openat2, and utimensat with all its flags."""

from __future__ import annotations

import ctypes
import os
from functools import cache

_SYS_OPENAT2 = 437  # the same number on every architecture
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_BENEATH = 0x08
O_PATH = os.O_PATH
UTIME_NOW = (1 << 30) - 1
UTIME_OMIT = (1 << 30) - 2
AT_EMPTY_PATH = 0x1000
AT_SYMLINK_NOFOLLOW = 0x100


class _OpenHow(ctypes.Structure):
    """`struct open_how`, linux/openat2.h."""

    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_int64), ("nanoseconds", ctypes.c_int64))


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    libc.utimensat.restype = ctypes.c_int
    libc.utimensat.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int)
    libc.futimens.restype = ctypes.c_int
    libc.futimens.argtypes = (ctypes.c_int, ctypes.c_void_p)
    return libc


def openat2(directory: int, path: bytes, *, flags: int, mode: int, resolve: int) -> int:
    """openat2(2). `path` holds no NUL. Raises OSError."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    descriptor = _libc().syscall(
        ctypes.c_long(_SYS_OPENAT2),
        ctypes.c_int(directory),
        ctypes.c_char_p(path),
        ctypes.byref(how),
        ctypes.c_size_t(ctypes.sizeof(how)),
    )
    _check(descriptor)
    return int(descriptor)


def utimensat(
    directory: int, path: bytes, access: tuple[int, int], change: tuple[int, int], flags: int
) -> None:
    """utimensat(2) with (seconds, nanoseconds) pairs. `path` holds no NUL. Raises OSError."""
    _check(_libc().utimensat(directory, path, _times(access, change), flags))


def futimens(descriptor: int, access: tuple[int, int], change: tuple[int, int]) -> None:
    """futimens(3) with (seconds, nanoseconds) pairs. Raises OSError."""
    _check(_libc().futimens(descriptor, _times(access, change)))


def _times(access: tuple[int, int], change: tuple[int, int]) -> ctypes.Array[_Timespec]:
    return (_Timespec * 2)(_Timespec(*access), _Timespec(*change))


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
