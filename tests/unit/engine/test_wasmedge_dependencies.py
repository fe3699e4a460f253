"""Reading what a library needs: from real libraries, and from what is none."""

from __future__ import annotations

import _ctypes
import contextlib
import os
import shutil
import struct
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet.engine.wasmedge.dependencies import (
    ElfError,
    dependencies,
    is_c_library,
    read_needed,
)

PYTHON = Path(sys.executable).resolve()


def elf(*needed: str) -> bytes:
    """The least of a shared library that names what it needs."""
    strings = b"\0" + b"".join(name.encode() + b"\0" for name in needed)
    headers_end = 64 + 2 * 56
    entries = [(1, 1 + sum(len(each) + 1 for each in needed[:at])) for at in range(len(needed))]
    dynamic_size = 16 * (len(entries) + 2)
    address = 0x400000
    strings_at = headers_end + dynamic_size
    dynamic = b"".join(
        struct.pack("<qQ", *entry) for entry in [*entries, (5, address + strings_at), (0, 0)]
    )
    size = strings_at + len(strings)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 4, 0, address, address, size, size, 4096)
    at = address + headers_end
    found = struct.pack("<IIQQQQQQ", 2, 4, headers_end, at, at, dynamic_size, dynamic_size, 8)
    return header + load + found + dynamic + strings


def test_a_real_library_needs_the_c_library():
    path = getattr(_ctypes, "__file__", None) or str(PYTHON)
    assert "libc.so.6" in read_needed(path)


def test_a_made_one(tmp_path):
    path = tmp_path / "libx.so"
    path.write_bytes(elf("liba.so.1", "libb.so.2"))
    assert read_needed(str(path)) == ("liba.so.1", "libb.so.2")


def test_each_comes_after_what_it_needs(tmp_path):
    tree = {
        "libtop.so": ("libleft.so.1", "libright.so.1", "libc.so.6"),
        "libleft.so.1": ("libbottom.so.1", "libm.so.6", "libelsewhere.so.1"),
        "libright.so.1": ("libbottom.so.1", "libleft.so.1"),
        "libbottom.so.1": ("libc.so.6",),
        "libc.so.6": (),
        "libm.so.6": (),
    }
    for name, needed in tree.items():
        (tmp_path / name).write_bytes(elf(*needed))
    found = dependencies(str(tmp_path / "libtop.so"))
    assert [os.path.basename(path) for path in found] == [
        "libbottom.so.1",
        "libleft.so.1",
        "libright.so.1",
    ]


def test_a_circle_ends(tmp_path):
    (tmp_path / "liba.so").write_bytes(elf("libb.so"))
    (tmp_path / "libb.so").write_bytes(elf("liba.so"))
    found = dependencies(str(tmp_path / "liba.so"))
    assert {os.path.basename(path) for path in found} == {"liba.so", "libb.so"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("libc.so.6", True),
        ("ld-linux-aarch64.so.1", True),
        ("libnss_dns.so.2", True),
        ("libc++.so.1", False),
        ("libcrypt.so.1", False),
        ("libmd.so.0", False),
        ("libc.so.6.bak", False),
    ],
)
def test_parts_of_the_c_library(name, expected):
    assert is_c_library(name) is expected


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", b"\x7fELF\x01\x01" + bytes(60)])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(ElfError, match="is not a 64-bit"):
        read_needed(str(path))


def test_one_without_a_dynamic_section(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"\x7fELF\x02\x01" + bytes(58))
    with pytest.raises(ElfError, match="no dynamic section"):
        read_needed(str(path))


@given(at=st.integers(0, 400), junk=st.binary(min_size=1, max_size=16), cut=st.integers(7, 400))
def test_a_broken_one_is_read_or_refused(tmp_path_factory, at, junk, cut):
    folder = tmp_path_factory.mktemp("elf")
    try:
        content = bytearray(elf("liba.so.1"))
        content[at : at + len(junk)] = junk
        path = folder / "x"
        path.write_bytes(bytes(content[:cut]))
        with contextlib.suppress(ElfError):
            read_needed(str(path))
    finally:
        shutil.rmtree(folder)
