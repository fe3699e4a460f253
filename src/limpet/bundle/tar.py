"""The archive: POSIX ustar (IEEE Std 1003.1, pax, "ustar Interchange Format"), as little of it as does.

Regular files of known names, each once, nothing else: no links, devices, sparse files or extended headers,
so that no two readers can see different things in it. Python's tarfile accepts all of those.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from limpet.bundle.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BLOCK = 512
MAX_MEMBERS = 4096
MAX_MEMBER_BYTES = 2 << 30
MAX_TAR_BYTES = 16 << 30
# Tools fill the last record, of twenty blocks by default, and some of them more.
_MAX_END_BYTES = 1 << 20
_END = b"\0" * BLOCK
_FILES = re.compile(r"oci-layout|index\.json|index\.json\.sig|blobs/sha256/[0-9a-f]{64}")
_FOLDERS = ("blobs/", "blobs/sha256/")
_REGULAR, _FOLDER = b"0", b"5"
_KINDS = {
    b"\0": "a file of an older format",
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
    b"x": "an extended header",
    b"g": "an extended header",
    b"L": "an extended header",
    b"K": "an extended header",
    b"S": "a sparse file",
}


@dataclass(frozen=True, slots=True)
class Member:
    """A file of the archive; its bytes begin at `offset`."""

    name: str
    offset: int
    size: int


def read_members(read: Callable[[int, int], bytes], total_bytes: int) -> dict[str, Member]:
    """Return every file of an archive by its name, reading headers only.

    `read(size, offset)` returns up to that many bytes. Raises `BundleError` for whatever is not a bundle.
    """
    if total_bytes > MAX_TAR_BYTES:
        raise BundleError(f"it is larger than a bundle may be ({MAX_TAR_BYTES >> 30} GiB)")
    members: dict[str, Member] = {}
    seen: set[str] = set()
    offset = 0
    while (header := read(BLOCK, offset)) != _END:
        name, kind, size = parse_header(header)
        if name in seen:
            raise BundleError(f"it has {name} twice")
        if len(seen) == MAX_MEMBERS:
            raise BundleError(f"it has over {MAX_MEMBERS} files")
        seen.add(name)
        offset += BLOCK
        if kind == _REGULAR:
            members[name] = Member(name, offset, size)
        if offset + size > total_bytes:
            raise BundleError(f"it ends in the middle of {name}: it was cut short")
        padding = read(-size % BLOCK, offset + size)
        if len(padding) < -size % BLOCK or padding.strip(b"\0"):
            raise BundleError(f"what follows {name} is not padding: it is damaged or was cut short")
        offset += size + len(padding)
    _check_end(read, offset, total_bytes)
    return members


def parse_header(header: bytes) -> tuple[str, bytes, int]:
    """Return name, kind and size in bytes of what a header stands for. Raises `BundleError`."""
    if len(header) < BLOCK:
        raise BundleError("it has no end: it was cut short")
    if header[257:265] != b"ustar\x0000":
        raise BundleError("it is not a bundle, or is damaged: no ustar header where one must be")
    if _number(header[148:156], "checksum") != sum(header) - sum(header[148:156]) + 8 * 0x20:
        raise BundleError("it is damaged: a header's checksum is wrong")
    kind = header[156:157]
    name = header[:100].partition(b"\0")[0].decode("ascii", "backslashreplace")
    if kind not in (_REGULAR, _FOLDER):
        what = _KINDS.get(kind, f"of the unknown kind {kind!r}")
        raise BundleError(f"{name[:100]!r} is {what}; a bundle has plain files only")
    if header[157:257].strip(b"\0") or header[345:500].strip(b"\0"):
        raise BundleError(f"{name[:100]!r} has a link or a prefix; a bundle's names have neither")
    size = _number(header[124:136], "size")
    is_known = name in _FOLDERS if kind == _FOLDER else _FILES.fullmatch(name) is not None
    if not is_known:
        raise BundleError(f"{name[:100]!r} is not a name that a bundle has")
    if size > (MAX_MEMBER_BYTES if kind == _REGULAR else 0):
        raise BundleError(f"{name} says it has {size} bytes, more than a bundle's file may")
    return name, kind, size


def _number(field: bytes, what: str) -> int:
    """Octal digits between blanks and zeros; GNU's binary numbers are for what is too large anyway."""
    digits = field.strip(b"\0 ")
    if not digits or digits.strip(b"01234567"):
        raise BundleError(f"it is damaged: a header's {what} is not a number")
    return int(digits, 8)


def _check_end(read: Callable[[int, int], bytes], offset: int, total_bytes: int) -> None:
    """Two blocks of zeros end an archive; more zeros may follow, and nothing else."""
    rest = total_bytes - offset
    if rest < 2 * BLOCK:
        raise BundleError("its end is missing: it was cut short")
    if rest > _MAX_END_BYTES or read(rest, offset).strip(b"\0"):
        raise BundleError("something follows its end")


def encode_header(name: str, size: int) -> bytes:
    """Return a regular file's header: mode 0644, owner 0, time 0."""
    assert _FILES.fullmatch(name), name
    assert 0 <= size <= MAX_MEMBER_BYTES, size
    fields = (
        name.encode().ljust(100, b"\0"),
        b"0000644\0" + b"0000000\0" + b"0000000\0",
        b"%011o\0" % size,
        b"%011o\0" % 0,
        b" " * 8,  # the checksum's place
        _REGULAR + b"\0" * 100,
        b"ustar\x0000" + b"\0" * (32 + 32),
        b"0000000\0" + b"0000000\0" + b"\0" * (155 + 12),
    )
    header = b"".join(fields)
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


def encode_member(name: str, size: int, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Header, content and padding of a file."""
    yield encode_header(name, size)
    yield from pieces
    yield b"\0" * (-size % BLOCK)


ENDING = _END * 2
"""What ends an archive."""
