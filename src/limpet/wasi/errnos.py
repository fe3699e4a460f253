"""WASI preview 1 error numbers, and the host's errors in their terms.

Source: `typenames.witx`, type `$errno`. Plain integers: they are compared on the request path.
"""

from __future__ import annotations

import errno as host

SUCCESS = 0
TOOBIG = 1
ACCES = 2
ADDRINUSE = 3
ADDRNOTAVAIL = 4
AFNOSUPPORT = 5
AGAIN = 6
ALREADY = 7
BADF = 8
BUSY = 10
CONNABORTED = 13
CONNREFUSED = 14
CONNRESET = 15
DEADLK = 16
DESTADDRREQ = 17
DQUOT = 19
EXIST = 20
FAULT = 21
FBIG = 22
HOSTUNREACH = 23
ILSEQ = 25
INPROGRESS = 26
INTR = 27
INVAL = 28
IO = 29
ISCONN = 30
ISDIR = 31
LOOP = 32
MFILE = 33
MLINK = 34
MSGSIZE = 35
NAMETOOLONG = 37
NETDOWN = 38
NETRESET = 39
NETUNREACH = 40
NFILE = 41
NOBUFS = 42
NODEV = 43
NOENT = 44
NOLCK = 46
NOMEM = 48
NOPROTOOPT = 50
NOSPC = 51
NOTCONN = 53
NOTDIR = 54
NOTEMPTY = 55
NOTSOCK = 57
NOTSUP = 58
NOTTY = 59
NXIO = 60
OVERFLOW = 61
PERM = 63
PIPE = 64
PROTO = 65
PROTONOSUPPORT = 66
PROTOTYPE = 67
RANGE = 68
ROFS = 69
SPIPE = 70
TIMEDOUT = 73
TXTBSY = 74
XDEV = 75

# Wasmtime answers EIO for ROFS, DQUOT, XDEV, TXTBSY, NXIO, NODEV, MFILE and NFILE; the true
# number is worth more to a guest whose volume is full or read-only.
_FROM_HOST = {
    getattr(host, "E" + name): number
    for name, number in {
        "ACCES": ACCES,
        "ADDRINUSE": ADDRINUSE,
        "ADDRNOTAVAIL": ADDRNOTAVAIL,
        "AFNOSUPPORT": AFNOSUPPORT,
        "AGAIN": AGAIN,
        "ALREADY": ALREADY,
        "BADF": BADF,
        "BUSY": BUSY,
        "CONNABORTED": CONNABORTED,
        "CONNREFUSED": CONNREFUSED,
        "CONNRESET": CONNRESET,
        "DESTADDRREQ": DESTADDRREQ,
        "DQUOT": DQUOT,
        "EXIST": EXIST,
        "FBIG": FBIG,
        "HOSTUNREACH": HOSTUNREACH,
        "ILSEQ": ILSEQ,
        "INPROGRESS": INPROGRESS,
        "INTR": INTR,
        "INVAL": INVAL,
        "IO": IO,
        "ISCONN": ISCONN,
        "ISDIR": ISDIR,
        "LOOP": LOOP,
        "MFILE": MFILE,
        "MLINK": MLINK,
        "MSGSIZE": MSGSIZE,
        "NAMETOOLONG": NAMETOOLONG,
        "NETDOWN": NETDOWN,
        "NETRESET": NETRESET,
        "NETUNREACH": NETUNREACH,
        "NFILE": NFILE,
        "NOBUFS": NOBUFS,
        "NODEV": NODEV,
        "NOENT": NOENT,
        "NOMEM": NOMEM,
        "NOPROTOOPT": NOPROTOOPT,
        "NOSPC": NOSPC,
        "NOSYS": NOTSUP,
        "NOTCONN": NOTCONN,
        "NOTDIR": NOTDIR,
        "NOTEMPTY": NOTEMPTY,
        "NOTSOCK": NOTSOCK,
        "NXIO": NXIO,
        "OPNOTSUPP": NOTSUP,
        "OVERFLOW": OVERFLOW,
        "PERM": PERM,
        "PIPE": PIPE,
        "PROTO": PROTO,
        "PROTONOSUPPORT": PROTONOSUPPORT,
        "PROTOTYPE": PROTOTYPE,
        "ROFS": ROFS,
        "SPIPE": SPIPE,
        "TIMEDOUT": TIMEDOUT,
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
    return errno_from_number(error.errno or 0)


def errno_from_number(number: int) -> int:
    """The guest's number for one of the host's; EIO for what WASI has no word for."""
    return _FROM_HOST.get(number, IO)
