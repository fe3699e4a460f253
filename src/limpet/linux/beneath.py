"""Open a path within a folder so that neither `..` nor a symbolic link leads out: openat2(2)."""

from __future__ import annotations

import ctypes
import errno
import os

from limpet.linux.calls import syscall

_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_BENEATH = 0x08
# The kernel answers EAGAIN when a rename raced with `..`.
_ATTEMPTS = 32


class _OpenHow(ctypes.Structure):
    """`struct open_how`, linux/openat2.h."""

    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def open_beneath(folder: int, path: str, flags: int) -> int:
    """Open what is there already. Raises OSError; EXDEV means that the path leads out of the folder."""
    raw = os.fsencode(path)
    if b"\0" in raw:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    how = _OpenHow(flags | os.O_CLOEXEC, 0, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
    for _ in range(_ATTEMPTS):
        try:
            return syscall(
                "openat2",
                folder,
                ctypes.c_char_p(raw),
                ctypes.byref(how),
                ctypes.sizeof(how),
            )
        except OSError as error:
            if error.errno != errno.EAGAIN:  # as open(2) would put it
                raise OSError(error.errno, os.strerror(error.errno or 0)) from None
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
