"""What `wasi:filesystem` says of files: their types, sizes and times."""

from __future__ import annotations

import stat as modes
from typing import TYPE_CHECKING

from limpet.wasi import abi, errnos, host
from limpet.wasi.errnos import WasiError
from limpet.wasi.metadata import filetype_from_mode, inode_number

if TYPE_CHECKING:
    import os

    Timestamp = tuple[str, tuple[int, int] | None]

_TYPES_OF_FILES = {
    abi.FILETYPE_BLOCK_DEVICE: "block-device",
    abi.FILETYPE_CHARACTER_DEVICE: "character-device",
    abi.FILETYPE_DIRECTORY: "directory",
    abi.FILETYPE_SYMBOLIC_LINK: "symbolic-link",
    abi.FILETYPE_REGULAR_FILE: "regular-file",
    abi.FILETYPE_SOCKET_STREAM: "socket",
}
_SECONDS_END = 1 << 62
_NS = 1_000_000_000
_HASH_FACTOR = 0x9E3779B97F4A7C15
_U64_MASK = (1 << 64) - 1


def type_name(mode: int) -> str:
    if modes.S_ISFIFO(mode):
        return "fifo"
    return _TYPES_OF_FILES.get(filetype_from_mode(mode), "unknown")


def form_stat(status: os.stat_result) -> tuple[object, ...]:
    return (
        type_name(status.st_mode),
        status.st_nlink,
        status.st_size,
        divmod(max(status.st_atime_ns, 0), _NS),
        divmod(max(status.st_mtime_ns, 0), _NS),
        divmod(max(status.st_ctime_ns, 0), _NS),
    )


def form_hash(status: os.stat_result) -> tuple[int, int]:
    """The same for the same file while it is unchanged. The lower half is preview 1's inode number."""
    changed = (status.st_mtime_ns ^ status.st_size) * _HASH_FACTOR & _U64_MASK
    return inode_number(status.st_dev, status.st_ino), changed


def parse_times(timestamp: Timestamp) -> tuple[int, int]:
    """As utimensat(2) wants it: seconds and nanoseconds, or what stands for now or no change."""
    case, moment = timestamp
    if case == "now":
        return 0, host.UTIME_NOW
    if moment is None:
        return 0, host.UTIME_OMIT
    seconds, nanoseconds = moment
    if seconds >= _SECONDS_END or nanoseconds >= _NS:
        raise WasiError(errnos.INVAL)
    return seconds, nanoseconds
