"""The types of `wasi:filesystem`, and its error codes.

The codes have the meanings of preview 1's error numbers, under longer names.
"""

from __future__ import annotations

import os

from limpet.wasi import errnos
from limpet.wasi.errnos import WasiError, errno_from_os
from limpet.wasi.preview2.clocks import DATETIME
from limpet.wasi.preview2.interface import Refused
from limpet.wasi.preview2.types import (
    STRING,
    U64,
    Borrow,
    Enum,
    Flags,
    Option,
    Record,
    Result,
    Type,
    Variant,
)

# error-code of wasi:filesystem/types, in its order -> the number of preview 1 that means it.
_CODES = {
    "access": errnos.ACCES,
    "would-block": errnos.AGAIN,
    "already": errnos.ALREADY,
    "bad-descriptor": errnos.BADF,
    "busy": errnos.BUSY,
    "deadlock": errnos.DEADLK,
    "quota": errnos.DQUOT,
    "exist": errnos.EXIST,
    "file-too-large": errnos.FBIG,
    "illegal-byte-sequence": errnos.ILSEQ,
    "in-progress": errnos.INPROGRESS,
    "interrupted": errnos.INTR,
    "invalid": errnos.INVAL,
    "io": errnos.IO,
    "is-directory": errnos.ISDIR,
    "loop": errnos.LOOP,
    "too-many-links": errnos.MLINK,
    "message-size": -1,
    "name-too-long": errnos.NAMETOOLONG,
    "no-device": errnos.NODEV,
    "no-entry": errnos.NOENT,
    "no-lock": errnos.NOLCK,
    "insufficient-memory": errnos.NOMEM,
    "insufficient-space": errnos.NOSPC,
    "not-directory": errnos.NOTDIR,
    "not-empty": errnos.NOTEMPTY,
    "not-recoverable": -1,
    "unsupported": errnos.NOTSUP,
    "no-tty": errnos.NOTTY,
    "no-such-device": errnos.NXIO,
    "overflow": errnos.OVERFLOW,
    "not-permitted": errnos.PERM,
    "pipe": errnos.PIPE,
    "read-only": errnos.ROFS,
    "invalid-seek": errnos.SPIPE,
    "text-file-busy": errnos.TXTBSY,
    "cross-device": errnos.XDEV,
}
_NAMES = {number: name for name, number in _CODES.items() if number >= 0}
_NAMES[errnos.MFILE] = _NAMES[errnos.NFILE] = "insufficient-memory"
ADVICE = {
    "normal": os.POSIX_FADV_NORMAL,
    "sequential": os.POSIX_FADV_SEQUENTIAL,
    "random": os.POSIX_FADV_RANDOM,
    "will-need": os.POSIX_FADV_WILLNEED,
    "dont-need": os.POSIX_FADV_DONTNEED,
    "no-reuse": os.POSIX_FADV_NOREUSE,
}

SELF = Borrow("descriptor")
ERROR_CODE = Enum(tuple(_CODES))
TYPE = Enum(
    (
        "unknown",
        "block-device",
        "character-device",
        "directory",
        "fifo",
        "symbolic-link",
        "regular-file",
        "socket",
    )
)
FLAGS = Flags(
    (
        "read",
        "write",
        "file-integrity-sync",
        "data-integrity-sync",
        "requested-write-sync",
        "mutate-directory",
    )
)
SYNC_FLAGS = frozenset({"file-integrity-sync", "data-integrity-sync", "requested-write-sync"})
LOOKUP = Flags(("symlink-follow",))
OPEN_FLAGS = Flags(("create", "directory", "exclusive", "truncate"))
TIMESTAMP = Variant((("no-change", None), ("now", None), ("timestamp", DATETIME)))
STAT = Record(
    (
        ("type", TYPE),
        ("link-count", U64),
        ("size", U64),
        ("data-access-timestamp", Option(DATETIME)),
        ("data-modification-timestamp", Option(DATETIME)),
        ("status-change-timestamp", Option(DATETIME)),
    )
)
ENTRY = Record((("type", TYPE), ("name", STRING)))
HASH = Record((("lower", U64), ("upper", U64)))


def or_code(of: Type | None = None) -> Result:
    return Result(of, ERROR_CODE)


def code_of(error: Exception) -> str:
    number = errno_from_os(error) if isinstance(error, OSError) else errnos.IO
    if isinstance(error, WasiError):
        number = error.number
    return _NAMES.get(number, "io")


def explain(error: Exception) -> object:
    if isinstance(error, Refused):
        return error.value
    if isinstance(error, (OSError, WasiError)):
        return code_of(error)
    raise error
