"""One file out of an image's layers: tar archives, perhaps compressed, from strangers.

Nothing is unpacked but that file. What a layer decompresses to is bounded: a bomb ends at the bound, having
cost time and no memory.
"""

from __future__ import annotations

import posixpath
import zlib
from enum import Enum
from typing import IO, TYPE_CHECKING

from limpet.registry.errors import FormatError
from limpet.registry.tar import TarReader

# Before the walls of a fetch process are up, which nothing can be imported behind.
try:
    from compression import zstd  # type: ignore[import-not-found]  # Python 3.14's
except ImportError:
    zstd = None

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_UNPACKED_BYTES = 2 << 30
_CHUNK = 64 << 10


class Found(Enum):
    """What a layer says of a path."""

    FILE = "the file is in it"
    WHITEOUT = "it removes the file"
    NOTHING = "it does not mention the file"


def extract_file(
    layer: IO[bytes], compression: str, path: str, write: Callable[[bytes], None]
) -> Found:
    """Write the file at a normalised path of a layer, if it is there.

    Raises `FormatError` for what is no archive, is too large, or can't be decompressed here.
    """
    whiteouts = _whiteouts(path)
    found = Found.NOTHING
    archive = TarReader(_bounded(_decompressed(layer, compression)))
    for member in archive.members():
        name = posixpath.normpath(member.name).lstrip("/")
        if name in whiteouts:
            found = Found.WHITEOUT
        if name != path:
            continue
        if not member.is_file:
            raise FormatError(f"{path} in the image is not a regular file")
        for data in archive.content():
            write(data)
        return Found.FILE
    return found


def _whiteouts(path: str) -> frozenset[str]:
    """The names that say that lower layers' file is gone (image specification, layer.md: whiteouts)."""
    names = set()
    while path:
        folder, name = posixpath.split(path)
        names |= {posixpath.join(folder, f".wh.{name}"), posixpath.join(folder, ".wh..wh..opq")}
        path = folder
    return frozenset(names)


def _decompressed(layer: IO[bytes], compression: str) -> Callable[[int], bytes]:
    if compression == "gzip":
        return _Gunzip(layer).read
    if compression != "zstd":
        return layer.read
    if zstd is None:
        raise FormatError(
            "the image's layer is compressed with zstd, which Python before 3.14 can't read: push it "
            "with gzip (docker build --output type=image,compression=gzip)"
        )
    file = zstd.ZstdFile(layer)

    def read(size: int) -> bytes:
        try:
            return bytes(file.read(size))
        except (zstd.ZstdError, EOFError) as error:
            raise FormatError(f"the image's layer is not zstd data: {error}") from error

    return read


class _Gunzip:
    """Decompresses as much as is asked for, never more (RFC 1952, one member after the other)."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self._inflate = zlib.decompressobj(wbits=31)
        self._has_begun = False

    def read(self, size: int) -> bytes:
        while size:
            data = self._inflate.unconsumed_tail or self._source.read(_CHUNK)
            if self._inflate.eof:
                data = (self._inflate.unused_data + data).lstrip(b"\0")
                self._inflate = zlib.decompressobj(wbits=31)
                self._has_begun = False
            if not data:
                if self._has_begun:
                    raise FormatError("the image's layer is cut short")
                return b""
            self._has_begun = True
            try:
                out = self._inflate.decompress(data, size)
            except zlib.error as error:
                raise FormatError(f"the image's layer is not gzip data: {error}") from error
            if out:
                return out
        return b""


def _bounded(read: Callable[[int], bytes]) -> Callable[[int], bytes]:
    left = MAX_UNPACKED_BYTES

    def read_bounded(size: int) -> bytes:
        nonlocal left
        data = read(size)
        left -= len(data)
        if left < 0:
            raise FormatError(f"an image's layer unpacks to over {MAX_UNPACKED_BYTES >> 30} GiB")
        return data

    return read_bounded
