"""Shapes of WASI preview 1 as they cross the boundary: signatures, records, flags.

Source: `wasi_snapshot_preview1.witx` and `typenames.witx`. Layouts are little-endian, as
WebAssembly's memory is.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

MODULE = "wasi_snapshot_preview1"

# Parameters of each function: "i" an unsigned i32, "j" an unsigned i64, "s" a signed i64. Each one
# returns an i32 error number, but for proc_exit, which returns nothing.
PREVIEW1 = {
    "args_get": "ii",
    "args_sizes_get": "ii",
    "clock_res_get": "ii",
    "clock_time_get": "iji",
    "environ_get": "ii",
    "environ_sizes_get": "ii",
    "fd_advise": "ijji",
    "fd_allocate": "ijj",
    "fd_close": "i",
    "fd_datasync": "i",
    "fd_fdstat_get": "ii",
    "fd_fdstat_set_flags": "ii",
    "fd_fdstat_set_rights": "ijj",
    "fd_filestat_get": "ii",
    "fd_filestat_set_size": "ij",
    "fd_filestat_set_times": "ijji",
    "fd_pread": "iiiji",
    "fd_prestat_dir_name": "iii",
    "fd_prestat_get": "ii",
    "fd_pwrite": "iiiji",
    "fd_read": "iiii",
    "fd_readdir": "iiiji",
    "fd_renumber": "ii",
    "fd_seek": "isii",
    "fd_sync": "i",
    "fd_tell": "ii",
    "fd_write": "iiii",
    "path_create_directory": "iii",
    "path_filestat_get": "iiiii",
    "path_filestat_set_times": "iiiijji",
    "path_link": "iiiiiii",
    "path_open": "iiiiijjii",
    "path_readlink": "iiiiii",
    "path_remove_directory": "iii",
    "path_rename": "iiiiii",
    "path_symlink": "iiiii",
    "path_unlink_file": "iii",
    "poll_oneoff": "iiii",
    "proc_exit": "i",
    "proc_raise": "i",
    "random_get": "ii",
    "sched_yield": "",
    "sock_accept": "iii",
    "sock_recv": "iiiiii",
    "sock_send": "iiiii",
    "sock_shutdown": "ii",
}
# WasmEdge's socket extension, imported from the same module (`limpet.wasi.socket_abi`). Where it has
# a name in two shapes, a suffix tells them apart here; modules import both by the plain name.
SOCKETS = {
    "sock_accept_v1": "ii",
    "sock_bind": "iii",
    "sock_connect": "iii",
    "sock_getaddrinfo": "iiiiiiii",
    "sock_getlocaladdr": "iiii",
    "sock_getlocaladdr_v2": "iii",
    "sock_getpeeraddr": "iiii",
    "sock_getpeeraddr_v2": "iii",
    "sock_getsockopt": "iiiii",
    "sock_listen": "ii",
    "sock_open": "iii",
    "sock_recv_from": "iiiiiii",
    "sock_recv_from_v2": "iiiiiiii",
    "sock_send_to": "iiiiiii",
    "sock_setsockopt": "iiiii",
}
PARAMETERS = PREVIEW1 | SOCKETS
# Names that modules import -> what they may mean, told apart by the import's type. Other names mean
# themselves. A call whose second version only takes more kinds of address is one function here.
_SHAPES = {
    "sock_accept": ("sock_accept", "sock_accept_v1"),
    "sock_accept_v1": (),
    "sock_accept_v2": ("sock_accept",),
    "sock_bind_v2": ("sock_bind",),
    "sock_connect_v2": ("sock_connect",),
    "sock_getlocaladdr": ("sock_getlocaladdr", "sock_getlocaladdr_v2"),
    "sock_getpeeraddr": ("sock_getpeeraddr", "sock_getpeeraddr_v2"),
    "sock_listen_v2": ("sock_listen",),
    "sock_open_v2": ("sock_open",),
    "sock_recv_v2": ("sock_recv",),
    "sock_recv_from": ("sock_recv_from", "sock_recv_from_v2"),
    "sock_send_v2": ("sock_send",),
    "sock_send_to_v2": ("sock_send_to",),
}
_TYPES = {"i": "i32", "j": "i64", "s": "i64"}
# What one call may have the host copy in; beyond it Wasmtime answers ENOMEM.
CALL_MAX_BYTES = 128 << 20
NO_RESULT = frozenset({"proc_exit"})


def candidates(name: str) -> tuple[str, ...]:
    """Return the keys of `PARAMETERS` that an import of this name may mean; none for others."""
    known = (name,) if name in PARAMETERS else ()
    return _SHAPES.get(name, known)


def resolve(name: str, parameters: Sequence[str]) -> str | None:
    """Return the key of `PARAMETERS` that an import of this name and type means, or None.

    `parameters` are types by name: i32, i64.
    """
    wanted = tuple(parameters)
    for key in candidates(name):
        if parameter_types(key) == wanted:
            return key
    return None


def parameter_types(key: str) -> tuple[str, ...]:
    """Return the names of the types that a function of `PARAMETERS` takes."""
    return tuple([_TYPES[code] for code in PARAMETERS[key]])


IOVEC = Struct("<II")
FDSTAT = Struct("<BxHxxxxQQ")
FILESTAT = Struct("<QQBxxxxxxxQQQQQ")
PRESTAT = Struct("<BxxxI")
DIRENT = Struct("<QQIBxxx")
SUBSCRIPTION_BYTES = 48
SUBSCRIPTION_CLOCK = Struct("<QBxxxxxxxIxxxxQQHxxxxxx")
SUBSCRIPTION_FD = Struct("<QBxxxxxxxI")
EVENT = Struct("<QHBxxxxxQHxxxxxx")

CLOCK_REALTIME, CLOCK_MONOTONIC = 0, 1
CLOCK_COUNT = 4

FILETYPE_UNKNOWN = 0
FILETYPE_BLOCK_DEVICE = 1
FILETYPE_CHARACTER_DEVICE = 2
FILETYPE_DIRECTORY = 3
FILETYPE_REGULAR_FILE = 4
FILETYPE_SOCKET_DGRAM = 5
FILETYPE_SOCKET_STREAM = 6
FILETYPE_SYMBOLIC_LINK = 7

FDFLAGS_APPEND, FDFLAGS_DSYNC, FDFLAGS_NONBLOCK, FDFLAGS_RSYNC, FDFLAGS_SYNC = 1, 2, 4, 8, 16
FDFLAGS_ALL = 31
OFLAGS_CREAT, OFLAGS_DIRECTORY, OFLAGS_EXCL, OFLAGS_TRUNC = 1, 2, 4, 8
OFLAGS_ALL = 15
FSTFLAGS_ATIM, FSTFLAGS_ATIM_NOW, FSTFLAGS_MTIM, FSTFLAGS_MTIM_NOW = 1, 2, 4, 8
FSTFLAGS_ALL = 15
LOOKUP_SYMLINK_FOLLOW = 1
RIFLAGS_ALL = 3
SIFLAGS_ALL = 0xFFFF
SDFLAGS_ALL = 3
SUBCLOCKFLAGS_ABSTIME = 1
EVENTTYPE_CLOCK, EVENTTYPE_FD_READ, EVENTTYPE_FD_WRITE = 0, 1, 2
EVENTRWFLAGS_HANGUP = 1
WHENCE_SET, WHENCE_CUR, WHENCE_END = 0, 1, 2
WHENCE_COUNT = 3
ADVICE_COUNT = 6
SIGNAL_COUNT = 31

# Bits of $rights, in the order of the witx.
RIGHTS_FD_DATASYNC = 1 << 0
RIGHTS_FD_READ = 1 << 1
RIGHTS_FD_SEEK = 1 << 2
RIGHTS_FD_FDSTAT_SET_FLAGS = 1 << 3
RIGHTS_FD_SYNC = 1 << 4
RIGHTS_FD_TELL = 1 << 5
RIGHTS_FD_WRITE = 1 << 6
RIGHTS_FD_ADVISE = 1 << 7
RIGHTS_FD_ALLOCATE = 1 << 8
RIGHTS_PATH_CREATE_DIRECTORY = 1 << 9
RIGHTS_PATH_CREATE_FILE = 1 << 10
RIGHTS_PATH_LINK_SOURCE = 1 << 11
RIGHTS_PATH_LINK_TARGET = 1 << 12
RIGHTS_PATH_OPEN = 1 << 13
RIGHTS_FD_READDIR = 1 << 14
RIGHTS_PATH_READLINK = 1 << 15
RIGHTS_PATH_RENAME_SOURCE = 1 << 16
RIGHTS_PATH_RENAME_TARGET = 1 << 17
RIGHTS_PATH_FILESTAT_GET = 1 << 18
RIGHTS_PATH_FILESTAT_SET_SIZE = 1 << 19
RIGHTS_PATH_FILESTAT_SET_TIMES = 1 << 20
RIGHTS_FD_FILESTAT_GET = 1 << 21
RIGHTS_FD_FILESTAT_SET_SIZE = 1 << 22
RIGHTS_FD_FILESTAT_SET_TIMES = 1 << 23
RIGHTS_PATH_SYMLINK = 1 << 24
RIGHTS_PATH_REMOVE_DIRECTORY = 1 << 25
RIGHTS_PATH_UNLINK_FILE = 1 << 26
RIGHTS_POLL_FD_READWRITE = 1 << 27
RIGHTS_SOCK_SHUTDOWN = 1 << 28
RIGHTS_SOCK_ACCEPT = 1 << 29
RIGHTS_ALL = (1 << 30) - 1

# wasi-libc tells from the first two how a descriptor was opened (fcntl with F_GETFL).
RIGHTS_SOCKET = (
    RIGHTS_FD_READ
    | RIGHTS_FD_WRITE
    | RIGHTS_FD_FDSTAT_SET_FLAGS
    | RIGHTS_FD_FILESTAT_GET
    | RIGHTS_POLL_FD_READWRITE
    | RIGHTS_SOCK_SHUTDOWN
    | RIGHTS_SOCK_ACCEPT
)

# What Wasmtime reports for a preopened directory, and userlands such as wasi-libc rely on.
RIGHTS_PREOPEN = (
    RIGHTS_PATH_CREATE_DIRECTORY
    | RIGHTS_PATH_CREATE_FILE
    | RIGHTS_PATH_LINK_SOURCE
    | RIGHTS_PATH_LINK_TARGET
    | RIGHTS_PATH_OPEN
    | RIGHTS_FD_READDIR
    | RIGHTS_PATH_READLINK
    | RIGHTS_PATH_RENAME_SOURCE
    | RIGHTS_PATH_RENAME_TARGET
    | RIGHTS_PATH_SYMLINK
    | RIGHTS_PATH_REMOVE_DIRECTORY
    | RIGHTS_PATH_UNLINK_FILE
    | RIGHTS_PATH_FILESTAT_GET
    | RIGHTS_PATH_FILESTAT_SET_TIMES
    | RIGHTS_FD_FILESTAT_GET
    | RIGHTS_FD_FILESTAT_SET_TIMES
)
RIGHTS_PREOPEN_INHERITING = (
    RIGHTS_PREOPEN
    | RIGHTS_FD_DATASYNC
    | RIGHTS_FD_READ
    | RIGHTS_FD_SEEK
    | RIGHTS_FD_FDSTAT_SET_FLAGS
    | RIGHTS_FD_SYNC
    | RIGHTS_FD_TELL
    | RIGHTS_FD_WRITE
    | RIGHTS_FD_ADVISE
    | RIGHTS_FD_ALLOCATE
    | RIGHTS_FD_FILESTAT_SET_SIZE
    | RIGHTS_POLL_FD_READWRITE
)
