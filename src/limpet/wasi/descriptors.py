"""What a guest's file descriptors stand for, and the table that numbers them."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from limpet.wasi import errnos
from limpet.wasi.errnos import WasiError
from limpet.wasi.socket_descriptors import OpenSocket

if TYPE_CHECKING:
    from collections.abc import Iterator

    from limpet.engine.protocol import Invocation
    from limpet.wasi.streams import InputStream, OutputStream

# A guest may hold this many descriptors; each costs the worker one of its own.
MAX_DESCRIPTORS = 1024


class StandardStream:
    """What the host gave the guest as descriptors 0 to 2; the caller owns what is behind it."""

    __slots__ = ()


class StandardInput(StandardStream):
    __slots__ = ("stream",)

    def __init__(self, stream: InputStream) -> None:
        self.stream = stream


class StandardOutput(StandardStream):
    __slots__ = ("name", "stream")

    def __init__(self, stream: OutputStream, name: str) -> None:
        self.stream = stream
        self.name = name


class OpenFile:
    """A file that the guest opened. Position and flags are the guest's, not the kernel's."""

    __slots__ = ("descriptor", "flags", "is_readable", "is_writable", "may_write", "position")

    def __init__(
        self, descriptor: int, *, flags: int, is_readable: bool, is_writable: bool, may_write: bool
    ) -> None:
        self.descriptor = descriptor
        self.flags = flags
        self.is_readable = is_readable
        self.is_writable = is_writable
        self.may_write = may_write
        self.position = 0


class OpenDirectory:
    """A directory: preopened (`guest_path` set, the descriptor stays the caller's) or opened."""

    __slots__ = ("descriptor", "guest_path", "is_readable", "listing", "may_write")

    def __init__(
        self,
        descriptor: int,
        *,
        may_write: bool,
        is_readable: bool = True,
        guest_path: bytes | None = None,
    ) -> None:
        self.descriptor = descriptor
        self.may_write = may_write
        self.is_readable = is_readable
        self.guest_path = guest_path
        self.listing: Listing | None = None

    def close(self) -> None:
        if self.listing is not None:
            self.listing.close()
            self.listing = None
        if self.guest_path is None:
            os.close(self.descriptor)


class Listing:
    """A directory being read: an iterator, and the last entries it gave, to step back to."""

    __slots__ = ("_entries", "position", "recent")

    def __init__(self, directory: int) -> None:
        own = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
        try:
            self._entries = os.scandir(own)
        finally:
            os.close(own)  # scandir keeps a duplicate
        # The number of the next entry to come, and the entries just before it.
        self.position = 0
        self.recent: list[os.DirEntry[str]] = []

    def entries_from(self, index: int) -> Iterator[os.DirEntry[str]]:
        """Entries number `index` and after; `can_reach(index)` must hold."""
        # What this call gives is what the next one may step back into.
        self.recent = kept = self.recent[len(self.recent) - (self.position - index) :]
        yield from tuple(kept)
        for entry in self._entries:
            self.position += 1
            kept.append(entry)
            yield entry

    def skip_to(self, index: int) -> bool:
        """Pass over entries up to number `index`; False when there are not that many."""
        while self.position < index:
            if next(self._entries, None) is None:
                return False
            self.position += 1
            self.recent = []
        return True

    def can_reach(self, index: int) -> bool:
        return self.position - len(self.recent) <= index <= self.position

    def close(self) -> None:
        self._entries.close()


Entry = StandardInput | StandardOutput | OpenFile | OpenDirectory | OpenSocket


class DescriptorTable:
    """Numbers descriptors the way Wasmtime does: the highest freed number is used first."""

    __slots__ = ("_free", "entries", "has_opened")

    def __init__(self, invocation: Invocation) -> None:
        self._free: set[int] = set()
        self.has_opened = False
        self.entries: dict[int, Entry] = {
            0: StandardInput(invocation.stdin),
            1: StandardOutput(invocation.stdout, "stdout"),
            2: StandardOutput(invocation.stderr, "stderr"),
        }
        for number, preopen in enumerate(invocation.preopens, start=3):
            # A listing may be left in it, so it is closed as what the guest opened is.
            self.has_opened = True
            self.entries[number] = OpenDirectory(
                preopen.descriptor,
                may_write=not preopen.is_read_only,
                guest_path=preopen.guest_path,
            )

    def require_room(self) -> None:
        if len(self.entries) >= MAX_DESCRIPTORS:
            raise WasiError(errnos.MFILE)

    def add(self, entry: Entry) -> int:
        self.require_room()
        self.has_opened = True
        if self._free:
            number = max(self._free)
            self._free.remove(number)
        else:
            number = max(self.entries, default=-1) + 1
        self.entries[number] = entry
        return number

    def close(self, number: int) -> None:
        entry = self.entries.pop(number, None)
        if entry is None:
            raise WasiError(errnos.BADF)
        self._free.add(number)
        _close_entry(entry)

    def renumber(self, source: int, target: int) -> None:
        if source not in self.entries or target not in self.entries:
            raise WasiError(errnos.BADF)
        if source == target:
            return
        self.close(target)
        self._free.discard(target)
        self._free.add(source)
        self.entries[target] = self.entries.pop(source)

    def file(self, number: int) -> OpenFile:
        entry = self.entries.get(number)
        if isinstance(entry, OpenFile):
            return entry
        raise WasiError(errnos.BADF)

    def seekable(self, number: int) -> OpenFile:
        """As `file`, but a standard stream is a pipe to the guest, and a socket has no position."""
        entry = self.entries.get(number)
        if isinstance(entry, (StandardStream, OpenSocket)):
            raise WasiError(errnos.SPIPE)
        return self.file(number)

    def directory(self, number: int) -> OpenDirectory:
        entry = self.entries.get(number)
        if isinstance(entry, OpenDirectory):
            return entry
        raise WasiError(errnos.BADF)

    def socket(self, number: int) -> OpenSocket:
        entry = self.entries.get(number)
        if isinstance(entry, OpenSocket):
            return entry
        raise WasiError(errnos.BADF if entry is None else errnos.NOTSOCK)

    def close_all(self) -> None:
        for entry in self.entries.values():
            # The guest is gone: nobody is left to tell of a late write error.
            with suppress(OSError):
                _close_entry(entry)
        self.entries.clear()


def _close_entry(entry: Entry) -> None:
    if isinstance(entry, OpenFile):
        os.close(entry.descriptor)
    elif isinstance(entry, (OpenDirectory, OpenSocket)):
        entry.close()
