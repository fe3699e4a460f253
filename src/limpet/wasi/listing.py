"""`fd_readdir`: directories as a stream of records.

Source: `fd_readdir` and `$dirent` in the witx. The guest passes a cookie, the number of the entry
to go on with; entry 0 is `.`, entry 1 is `..`, the host's follow in the host's order. The listing
is kept open between calls, so that reading a directory costs what it holds, not its square, and
what is kept of it is bounded by the guest's own buffer.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from limpet.wasi import abi, errnos
from limpet.wasi.descriptors import Listing, OpenDirectory
from limpet.wasi.errnos import WasiError
from limpet.wasi.metadata import inode_number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from limpet.wasi.run import WasiRun

_DOT_ENTRIES = 2


def fd_readdir(
    run: WasiRun, number: int, buffer_at: int, length: int, cookie: int, used_at: int
) -> int:
    directory = run.files.directory(number)
    memory = run.memory
    used = 0
    for record in _records(directory, cookie):
        piece = record[: length - used]
        memory.write(buffer_at + used, piece)
        used += len(piece)
        if used >= length:
            break
    memory.write_u32(used_at, used)
    return errnos.SUCCESS


def _records(directory: OpenDirectory, cookie: int) -> Iterator[bytes]:
    status = os.fstat(directory.descriptor)
    own = inode_number(status.st_dev, status.st_ino)
    for index, name in enumerate((b".", b"..")[cookie:], start=cookie):
        yield abi.DIRENT.pack(index + 1, own, len(name), abi.FILETYPE_DIRECTORY) + name
    first = max(cookie - _DOT_ENTRIES, 0)
    listing = directory.listing
    if listing is None or cookie <= _DOT_ENTRIES or not listing.can_reach(first):
        if listing is not None:
            listing.close()
        listing = directory.listing = Listing(directory.descriptor)
        if not listing.skip_to(first):
            return
    for index, entry in enumerate(listing.entries_from(first), start=first + _DOT_ENTRIES + 1):
        name = os.fsencode(entry.name)
        if not name.isascii():
            try:
                name.decode()
            except UnicodeDecodeError:
                raise WasiError(errnos.ILSEQ) from None
        inode = inode_number(status.st_dev, entry.inode())
        yield abi.DIRENT.pack(index, inode, len(name), _filetype(entry)) + name


def _filetype(entry: os.DirEntry[str]) -> int:
    if entry.is_symlink():
        return abi.FILETYPE_SYMBOLIC_LINK
    if entry.is_file(follow_symlinks=False):
        return abi.FILETYPE_REGULAR_FILE
    if entry.is_dir(follow_symlinks=False):
        return abi.FILETYPE_DIRECTORY
    return abi.FILETYPE_UNKNOWN
