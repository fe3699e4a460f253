"""Reading a tar archive forwards: POSIX ustar and pax (pax(1), "pax Interchange Format"), and GNU's names.

tarfile reads a pax header of whatever size the archive claims into memory; here strangers' archives are
read in a process with little of it. What is not a file's name, type or size is not looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from limpet.registry.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_BLOCK = 512
_CHUNK = 64 << 10
_MOST_HEADER_BYTES = 64 << 10
_MOST_MEMBERS = 200_000


class TarError(FormatError):
    """Bytes that are no tar archive, or one with larger headers than any file's name needs."""


@dataclass(frozen=True, slots=True)
class Member:
    """One entry; `size` bytes of content follow it."""

    name: str
    is_file: bool
    size: int


class TarReader:
    """Gives members one after the other, and the content of the one just given.

    `read(n)` returns up to n bytes, none at the end. Raises `TarError` for an archive cut short.
    """

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._content = 0
        self._padding = 0

    def members(self) -> Iterator[Member]:
        """Every entry; content that was not asked for is skipped."""
        name, size = "", -1
        for _ in range(_MOST_MEMBERS):
            for _piece in self.content():
                pass
            self._exactly(self._padding)
            self._padding = 0
            header = self._some(_BLOCK)
            if not header.strip(b"\0"):
                return
            _check(header)
            kind, length = header[156:157], _number(header[124:136])
            if kind in b"xLgK":
                name, size = self._extended(kind, length, name, size)
                continue
            length = size if size >= 0 else length
            is_file = kind in b"07\0"
            self._begin(length if is_file or kind not in b"123456" else 0)
            yield Member(name or _name(header), is_file, length)
            name, size = "", -1
        raise TarError(f"an image's layer has over {_MOST_MEMBERS} files")

    def content(self) -> Iterator[bytes]:
        """What is left of the current member's content."""
        while self._content:
            data = self._exactly(min(self._content, _CHUNK))
            self._content -= len(data)
            yield data

    def _extended(self, kind: bytes, length: int, name: str, size: int) -> tuple[str, int]:
        """Read a header before a header: the name and the size that count for the next member."""
        if length > _MOST_HEADER_BYTES:
            raise TarError("an image's layer has a name that is longer than any")
        self._begin(length)
        data = b"".join(self.content())
        if kind == b"L":
            return _text(data.rstrip(b"\0")), size
        if kind == b"x":
            records = _pax_records(data)
            name = records.get("path", name)
            size = _decimal(records["size"]) if "size" in records else size
        return name, size

    def _begin(self, length: int) -> None:
        self._content, self._padding = length, -length % _BLOCK

    def _exactly(self, count: int) -> bytes:
        data = self._some(count)
        if len(data) < count:
            raise TarError("an image's layer ends in the middle of a file")
        return data

    def _some(self, count: int) -> bytes:
        pieces = []
        while count and (data := self._read(count)):
            pieces.append(data)
            count -= len(data)
        return b"".join(pieces)


def _check(header: bytes) -> None:
    """The sum of a header's bytes, with its own field taken as blanks, is in it."""
    if len(header) < _BLOCK or _number(header[148:156]) != (
        sum(header) - sum(header[148:156]) + 8 * 0x20
    ):
        raise TarError("an image's layer is not a tar archive")


def _number(field: bytes) -> int:
    """Octal digits, or GNU's binary numbers where that is not enough."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") - (0x80 << (8 * (len(field) - 1)))
    else:
        digits = field.strip(b"\0 ")
        if digits.strip(b"01234567"):
            raise TarError("an image's layer is not a tar archive: a number is none")
        value = int(digits or b"0", 8)
    if not 0 <= value < 1 << 62:
        raise TarError("an image's layer has a file of impossible size")
    return value


def _decimal(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise TarError("an image's layer has a file of impossible size")
    return int(text)


def _name(header: bytes) -> str:
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500].partition(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return _text(prefix + b"/" + name if prefix else name)


def _pax_records(data: bytes) -> dict[str, str]:
    """`LENGTH KEY=VALUE` and a line feed each, where LENGTH counts all of it."""
    records = {}
    while data:
        digits, space, _ = data[:20].partition(b" ")
        if not space or not digits.isdigit() or not len(digits) + 2 < int(digits) <= len(data):
            raise TarError("an image's layer has a damaged pax header")
        record = data[len(digits) + 1 : int(digits) - 1]
        key, _, value = record.partition(b"=")
        records[_text(key)] = _text(value)
        data = data[int(digits) :]
    return records


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
