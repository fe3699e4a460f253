"""The libraries that a library needs, read from its dynamic section (elf(5)).

A library in a prefix finds the others there by the loader's search path. A process that runs without that
path loads them itself, each before what needs it: the loader goes by names, and takes what it has.
"""

from __future__ import annotations

import mmap
import os
import re
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_PT_LOAD = 1
_PT_DYNAMIC = 2
_DT_NULL = 0
_DT_NEEDED = 1
_DT_STRTAB = 5
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_DYNAMIC_ENTRY = struct.Struct("<qQ")

# One C library to a process: its parts always come with the loader that started it.
_C_LIBRARY = re.compile(
    r"(ld-linux-.+|lib(BrokenLocale|anl|c|dl|m|mvec|nsl|nss_(compat|dns|files|hesiod)|pthread"
    r"|resolv|rt|thread_db|util))\.so\.\d+"
)


class ElfError(ValueError):
    """This file is not a 64-bit little-endian ELF with a dynamic section."""


def read_needed(path: str) -> tuple[str, ...]:
    """Names of the libraries that this one names as needed. Raises `ElfError` and OSError."""
    with open(path, "rb") as file:
        if file.read(6) != b"\x7fELF\x02\x01":
            raise ElfError(f"{path} is not a 64-bit little-endian ELF")
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as content:
            try:
                return tuple(_needed(content))
            except (struct.error, OverflowError, ElfError) as error:
                raise ElfError(f"{path} has no dynamic section to be read: {error}") from error


def dependencies(path: str, *, folder: str | None = None) -> list[str]:
    """Paths of what the library at `path` needs, directly or not, from `folder` (default: its own).

    Each comes after what it needs itself. The C library's parts and what is not in the folder are left
    out. Raises `ElfError` and OSError.
    """
    found: dict[str, None] = {}
    _collect(path, folder or os.path.dirname(path), found=found, seen=set())
    return list(found)


def is_c_library(name: str) -> bool:
    """Whether a library of this name is a part of glibc."""
    return _C_LIBRARY.fullmatch(name) is not None


def _collect(path: str, folder: str, *, found: dict[str, None], seen: set[str]) -> None:
    for name in read_needed(path):
        needed = os.path.join(folder, name)
        if name in seen or is_c_library(name) or not os.path.exists(needed):
            continue
        seen.add(name)
        _collect(needed, folder, found=found, seen=seen)
        found[needed] = None


def _needed(content: mmap.mmap) -> Iterator[str]:
    headers = list(_program_headers(content))
    entries = list(_dynamic_entries(content, headers))
    address = next((value for tag, value in entries if tag == _DT_STRTAB), None)
    if address is None:
        raise ElfError("it has no string table")
    strings = _file_offset(address, headers)
    for tag, value in entries:
        if tag == _DT_NEEDED:
            start = strings + value
            end = content.find(b"\0", start)
            if end < 0:
                raise ElfError("a name does not end")
            yield os.fsdecode(content[start:end])


def _program_headers(content: mmap.mmap) -> Iterator[tuple[int, ...]]:
    (offset,) = struct.unpack_from("<Q", content, 32)
    size, count = struct.unpack_from("<HH", content, 54)
    for index in range(count):
        yield _PROGRAM_HEADER.unpack_from(content, offset + index * size)


def _dynamic_entries(
    content: mmap.mmap, headers: Collection[tuple[int, ...]]
) -> Iterator[tuple[int, int]]:
    for kind, _, offset, _, _, size, _, _ in headers:
        if kind != _PT_DYNAMIC:
            continue
        for at in range(offset, offset + size, _DYNAMIC_ENTRY.size):
            tag, value = _DYNAMIC_ENTRY.unpack_from(content, at)
            if tag == _DT_NULL:
                return
            yield tag, value


def _file_offset(address: int, headers: Collection[tuple[int, ...]]) -> int:
    for kind, _, offset, start, _, size, _, _ in headers:
        if kind == _PT_LOAD and start <= address < start + size:
            return offset + address - start
    raise ElfError("its string table is not in the file")
