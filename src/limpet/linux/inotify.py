"""inotify(7): hear that something in a folder changes, without looking again and again.

What is heard is a hint: network file systems tell nothing, queues overflow. Whoever listens looks himself
and looks again now and then.
"""

from __future__ import annotations

import ctypes
import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from limpet.linux.calls import check, libc

if TYPE_CHECKING:
    from collections.abc import Iterator

# linux/inotify.h
MODIFY = 0x2
ATTRIB = 0x4
CLOSE_WRITE = 0x8
MOVED_FROM = 0x40
MOVED_TO = 0x80
CREATE = 0x100
DELETE = 0x200
DELETE_SELF = 0x400
MOVE_SELF = 0x800
UNMOUNT = 0x2000
OVERFLOW = 0x4000
_ONLYDIR = 0x1000000
_CONTENTS = MODIFY | ATTRIB | CLOSE_WRITE | MOVED_FROM | MOVED_TO | CREATE | DELETE
_FOLDER = _CONTENTS | DELETE_SELF | MOVE_SELF | _ONLYDIR

# struct inotify_event without its name.
_EVENT = struct.Struct("iIII")
_READ_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Notice:
    """Something happened to `name` in the folder whose watch has this number, or to the folder itself.

    `mask` is of the constants above; after OVERFLOW anything may have happened (`watch` is -1).
    """

    watch: int
    mask: int
    name: str


class Inotify:
    """An inotify instance: never blocks, and is readable when there is a notice."""

    def __init__(self) -> None:
        """Raises OSError: EMFILE above fs.inotify.max_user_instances."""
        flags = os.O_NONBLOCK | os.O_CLOEXEC
        self._descriptor = check(libc.inotify_init1(flags), "inotify_init1")

    def fileno(self) -> int:
        """The descriptor, for an event loop."""
        return self._descriptor

    def watch(self, folder: int) -> int:
        """Watch an open folder and return the watch's number, the same one for the same folder.

        Raises OSError: ENOSPC above fs.inotify.max_user_watches.
        """
        path = ctypes.c_char_p(f"/proc/self/fd/{folder}".encode())
        number = libc.inotify_add_watch(self._descriptor, path, ctypes.c_uint32(_FOLDER))
        return check(number, "inotify_add_watch")

    def read(self) -> list[Notice]:
        """The notices that wait; none is an empty list."""
        try:
            data = os.read(self._descriptor, _READ_BYTES)
        except BlockingIOError:
            return []
        return list(parse_notices(data))

    def close(self) -> None:
        """Stop watching everything."""
        os.close(self._descriptor)


def parse_notices(data: bytes) -> Iterator[Notice]:
    """Split what the kernel wrote: whole events, names padded with zeros."""
    offset = 0
    while offset + _EVENT.size <= len(data):
        watch, mask, _, length = _EVENT.unpack_from(data, offset)
        offset += _EVENT.size
        name = data[offset : offset + length].partition(b"\0")[0]
        offset += length
        yield Notice(watch, mask, os.fsdecode(name))
