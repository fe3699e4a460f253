"""Files and directories that a component has open, and the streams from and to them.

A descriptor of the host is shared by the guest's descriptor and its streams: it is closed with the last.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from limpet.wasi import errnos, paths
from limpet.wasi.descriptors import Listing
from limpet.wasi.errnos import WasiError
from limpet.wasi.preview2.interface import Refused
from limpet.wasi.preview2.resources import Resource, Shared
from limpet.wasi.preview2.run import MAX_DESCRIPTORS
from limpet.wasi.preview2.streams import CLOSED, InputStream, OutputStream

if TYPE_CHECKING:
    from limpet.wasi.preview2.run import ComponentRun

OFFSET_END = 1 << 63


class Opened:
    """A descriptor of the host that the guest's descriptor and its streams share."""

    __slots__ = ("_run", "number")

    def __init__(self, run: ComponentRun, number: int) -> None:
        self._run = run
        self.number = number
        run.descriptors += 1

    def close(self) -> None:
        self._run.descriptors -= 1
        number, self.number = self.number, -1
        os.close(number)


class Descriptor(Resource):
    """A file or a directory. `may_change` says whether it lies in a preopen that may be written to."""

    __slots__ = ("_shared", "is_directory", "is_readable", "is_writable", "may_change", "opened")

    def __init__(
        self,
        opened: Opened,
        *,
        is_directory: bool,
        is_readable: bool,
        is_writable: bool,
        may_change: bool,
    ) -> None:
        self.opened = opened
        self._shared = Shared(opened)
        self._shared.retain()
        self.is_directory = is_directory
        self.is_readable = is_readable
        self.is_writable = is_writable
        self.may_change = may_change

    @property
    def number(self) -> int:
        return self.opened.number

    def share(self) -> Shared:
        """Keep the host's descriptor open until the result is released."""
        self._shared.retain()
        return self._shared

    def close(self) -> None:
        self._shared.release()

    def require_file(self) -> int:
        """The host's descriptor of a file."""
        if self.is_directory:
            raise WasiError(errnos.ISDIR)
        return self.number

    def require_directory(self, *, for_change: bool = False) -> int:
        """The host's descriptor of a directory, which may be changed if that is asked for."""
        if not self.is_directory:
            raise WasiError(errnos.NOTDIR)
        if for_change and not self.may_change:
            raise WasiError(errnos.PERM)
        return self.number


class FileInput(InputStream):
    __slots__ = ("_number", "_position", "_shared")

    def __init__(self, descriptor: Descriptor, position: int) -> None:
        self._number = descriptor.number
        self._shared = descriptor.share()
        self._position = position

    def read(self, run: ComponentRun, length: int) -> bytes:
        run.control.check()
        data = os.pread(self._number, length, self._position)
        if length and not data:
            raise Refused(CLOSED)
        self._position += len(data)
        return data

    def close(self) -> None:
        self._shared.release()


class FileOutput(OutputStream):
    """Writes from a position on, or to the file's end if that is None."""

    __slots__ = ("_number", "_position", "_shared")

    def __init__(self, descriptor: Descriptor, position: int | None) -> None:
        self._number = descriptor.number
        self._shared = descriptor.share()
        self._position = position

    def write(self, run: ComponentRun, data: bytes) -> None:
        run.control.check()
        _write_all(self._number, data, self._position)
        if self._position is not None:
            self._position += len(data)

    def close(self) -> None:
        self._shared.release()


class EntryStream(Resource):
    """A directory being read."""

    __slots__ = ("_entries", "_listing", "_run")

    def __init__(self, run: ComponentRun, directory: int) -> None:
        self._run = run
        self._listing = Listing(directory)
        run.descriptors += 1
        self._entries = self._listing.entries_from(0)

    def next_entry(self) -> tuple[str, str] | None:
        entry = next(self._entries, None)
        self._listing.recent.clear()  # a stream never steps back
        if entry is None:
            return None
        try:
            name = os.fsencode(entry.name).decode()
        except UnicodeDecodeError:
            raise WasiError(errnos.ILSEQ) from None
        return _entry_type(entry), name

    def close(self) -> None:
        self._run.descriptors -= 1
        self._listing.close()


def _entry_type(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink():
        return "symbolic-link"
    if entry.is_file(follow_symlinks=False):
        return "regular-file"
    return "directory" if entry.is_dir(follow_symlinks=False) else "unknown"


def _write_all(number: int, data: bytes, position: int | None) -> None:
    view = memoryview(data)
    done = 0
    while done < len(data):
        if position is None:
            done += os.pwritev(number, (view[done:],), 0, os.RWF_APPEND)
        else:
            done += os.pwrite(number, view[done:], check_offset(position + done))


def check_offset(offset: int) -> int:
    """An offset that the kernel's signed type can hold; it refuses negative ones."""
    if offset >= OFFSET_END:
        raise WasiError(errnos.INVAL)
    return offset


def require_room(run: ComponentRun) -> None:
    if run.descriptors >= MAX_DESCRIPTORS:
        raise WasiError(errnos.MFILE)


def encode_path(text: str) -> bytes:
    return paths.parse_path(text.encode())
