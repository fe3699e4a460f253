"""Mounting, unmounting and listing mounts: mount(2), umount2(2), proc_pid_mountinfo(5); FITRIM.

All of it acts on the calling thread's mount namespace. Errors are `OSError` with the call's errno.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from dataclasses import dataclass

# linux/mount.h
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_NOATIME = 1024
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20

# umount2(2)
MNT_FORCE = 1
MNT_DETACH = 2
MNT_EXPIRE = 4
UMOUNT_NOFOLLOW = 8

_FITRIM = 0xC0185879  # _IOWR('X', 121, struct fstrim_range): u64 start, len, minlen
_FSTRIM_RANGE = struct.Struct("=QQQ")
_WHOLE = (1 << 64) - 1

# Mounting waits for a disk: unlike PyDLL, CDLL lets other threads run meanwhile.
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = [
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
]
_libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]
_libc.syncfs.argtypes = [ctypes.c_int]


@dataclass(frozen=True, slots=True, kw_only=True)
class MountEntry:
    """One line of mountinfo. `device` is (major, minor), `root` the mounted part of its file system.

    `propagation` holds tags such as `shared:1`; paths are as the process's root directory shows them.
    """

    mount_id: int
    parent_id: int
    device: tuple[int, int]
    root: str
    mount_point: str
    options: tuple[str, ...]
    propagation: tuple[str, ...]
    kind: str
    source: str
    super_options: tuple[str, ...]


def mount(
    source: str | os.PathLike[str] | None,
    target: str | os.PathLike[str],
    kind: str | None,
    *,
    flags: int = 0,
    data: str = "",
) -> None:
    """mount(2). `kind` is the file system's type, `data` its own comma-separated options."""
    result = _libc.mount(
        None if source is None else os.fsencode(source),
        os.fsencode(target),
        None if kind is None else kind.encode(),
        flags,
        data.encode() or None,
    )
    if result:
        _raise(target)


def unmount(target: str | os.PathLike[str], flags: int = 0) -> None:
    """umount2(2): takes away the topmost mount at `target`; EINVAL when there is none."""
    if _libc.umount2(os.fsencode(target), flags):
        _raise(target)


def read_mounts() -> list[MountEntry]:
    """Return what the calling thread's namespace has mounted, in the kernel's order: later is above."""
    with open("/proc/thread-self/mountinfo", "rb") as file:
        return parse_mountinfo(file.read())


def parse_mountinfo(text: bytes) -> list[MountEntry]:
    """Read the format of proc_pid_mountinfo(5). Raises ValueError for what isn't it."""
    return [_parse_line(line) for line in text.split(b"\n") if line]


def find_mount(target: str | os.PathLike[str]) -> MountEntry | None:
    """Return the topmost mount at exactly this path, None when it is no mount point."""
    path = os.path.realpath(target)
    at_path = [entry for entry in read_mounts() if entry.mount_point == path]
    return at_path[-1] if at_path else None


def sync(descriptor: int) -> None:
    """syncfs(2): write out the whole file system of an open file."""
    if _libc.syncfs(descriptor):
        _raise(f"/proc/self/fd/{descriptor}")


def trim(descriptor: int) -> int:
    """FITRIM on any open file of a file system: tell its device which blocks are free.

    Blocks of files that were just removed count as free once that is written out, see `sync`. Returns
    the bytes that were discarded. EOPNOTSUPP when the device can't; needs CAP_SYS_ADMIN.
    """
    buffer = bytearray(_FSTRIM_RANGE.pack(0, _WHOLE, 0))
    fcntl.ioctl(descriptor, _FITRIM, buffer, True)
    trimmed: int = _FSTRIM_RANGE.unpack(buffer)[1]
    return trimmed


def _parse_line(line: bytes) -> MountEntry:
    fields = line.split(b" ")
    try:
        end = fields.index(b"-", 6)  # a variable number of tags comes before it
        major, minor = fields[2].split(b":")
        kind, source, super_options = fields[end + 1 : end + 4]
        return MountEntry(
            mount_id=int(fields[0]),
            parent_id=int(fields[1]),
            device=(int(major), int(minor)),
            root=_unescape(fields[3]),
            mount_point=_unescape(fields[4]),
            options=_split(fields[5]),
            propagation=tuple(_unescape(tag) for tag in fields[6:end]),
            kind=_unescape(kind),
            source=_unescape(source),
            super_options=_split(super_options),
        )
    except (ValueError, IndexError) as error:
        raise ValueError(f"not a line of mountinfo: {line!r}") from error


def _split(field: bytes) -> tuple[str, ...]:
    return tuple(_unescape(option) for option in field.split(b","))


def _unescape(field: bytes) -> str:
    """Space, tab, newline, backslash and # come as a backslash and three octal digits."""
    first, *others = field.split(b"\\")
    for part in others:
        first += bytes([int(part[:3], 8)]) + part[3:]
    return os.fsdecode(first)


def _raise(target: str | os.PathLike[str]) -> None:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number), os.fspath(target))
