"""WASI preview 1 error numbers, and the host's errors in their terms.

Source: `typenames.witx`, type `$errno`. Plain integers: they are compared on the request path.
"""

from __future__ import annotations

import errno as host

SUCCESS = 0
TOOBIG = 1
ACCES = 2
AGAIN = 6
ALREADY = 7
BADF = 8
BUSY = 10
DEADLK = 16
DQUOT = 19
EXIST = 20
FAULT = 21
FBIG = 22
ILSEQ = 25
INPROGRESS = 26
INTR = 27
INVAL = 28
IO = 29
ISDIR = 31
LOOP = 32
MFILE = 33
MLINK = 34
NAMETOOLONG = 37
NFILE = 41
NODEV = 43
NOENT = 44
NOLCK = 46
NOMEM = 48
NOSPC = 51
NOTDIR = 54
NOTEMPTY = 55
NOTSOCK = 57
NOTSUP = 58
NOTTY = 59
NXIO = 60
OVERFLOW = 61
PERM = 63
PIPE = 64
RANGE = 68
ROFS = 69
SPIPE = 70
TXTBSY = 74
XDEV = 75

# Wasmtime answers EIO for ROFS, DQUOT, XDEV, TXTBSY, NXIO, NODEV, MFILE and NFILE; the true
# number is worth more to a guest whose volume is full or read-only.
_FROM_HOST = {
    getattr(host, "E" + name): number
    for name, number in {
        "ACCES": ACCES,
        "AGAIN": AGAIN,
        "ALREADY": ALREADY,
        "BADF": BADF,
        "BUSY": BUSY,
        "DQUOT": DQUOT,
        "EXIST": EXIST,
        "FBIG": FBIG,
        "ILSEQ": ILSEQ,
        "INPROGRESS": INPROGRESS,
        "INTR": INTR,
        "INVAL": INVAL,
        "IO": IO,
        "ISDIR": ISDIR,
        "LOOP": LOOP,
        "MFILE": MFILE,
        "MLINK": MLINK,
        "NAMETOOLONG": NAMETOOLONG,
        "NFILE": NFILE,
        "NODEV": NODEV,
        "NOENT": NOENT,
        "NOMEM": NOMEM,
        "NOSPC": NOSPC,
        "NOSYS": NOTSUP,
        "NOTDIR": NOTDIR,
        "NOTEMPTY": NOTEMPTY,
        "NXIO": NXIO,
        "OPNOTSUPP": NOTSUP,
        "OVERFLOW": OVERFLOW,
        "PERM": PERM,
        "PIPE": PIPE,
        "ROFS": ROFS,
        "SPIPE": SPIPE,
        "TXTBSY": TXTBSY,
        "XDEV": XDEV,
    }.items()
}


class WasiError(Exception):
    """A host function refuses with this error number, which the guest sees."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def errno_from_os(error: OSError) -> int:
    """The guest's number for a host error; EIO for what WASI has no word for."""
    return _FROM_HOST.get(error.errno or 0, IO)
