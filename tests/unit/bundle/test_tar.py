"""The archive's reader: what it takes, and all that it refuses."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from limpet.bundle.errors import BundleError
from limpet.bundle.tar import ENDING, MAX_MEMBERS, encode_header, encode_member, read_members

from .bundles import archive

BLOB = "blobs/sha256/" + "ab" * 32


def members(data: bytes):
    return read_members(lambda size, offset: data[offset : offset + size], len(data))


def refusal(data: bytes) -> str:
    with pytest.raises(BundleError) as caught:
        members(data)
    return str(caught.value)


def header(**changes: bytes) -> bytes:
    """A good header with fields changed, and its checksum right."""
    places = {"name": (0, 100), "size": (124, 136), "kind": (156, 157), "link": (157, 257),
              "magic": (257, 265), "prefix": (345, 500), "checksum": (148, 156)}  # fmt: skip
    made = bytearray(encode_header("oci-layout", 0))
    for field, value in changes.items():
        start, end = places[field]
        made[start:end] = value.ljust(end - start, b"\0")
    if "checksum" not in changes:
        made[148:156] = b" " * 8
        made[148:156] = b"%06o\0 " % sum(made)
    return bytes(made)


def test_what_is_written_is_read():
    data = archive([("oci-layout", b"x" * 512), ("index.json", b""), (BLOB, b"y" * 700)])
    found = members(data)
    assert [(m.name, m.size) for m in found.values()] == [
        ("oci-layout", 512),
        ("index.json", 0),
        (BLOB, 700),
    ]
    blob = found[BLOB]
    assert data[blob.offset : blob.offset + blob.size] == b"y" * 700


def test_other_tools_agree():
    data = archive([("oci-layout", b"x" * 513), (BLOB, b"y")])
    with tarfile.open(fileobj=io.BytesIO(data)) as opened:
        found = opened.getmembers()
        assert [(m.name, m.size, m.mtime, m.mode) for m in found] == [
            ("oci-layout", 513, 0, 0o644),
            (BLOB, 1, 0, 0o644),
        ]
        assert opened.extractfile(found[1]).read() == b"y"


def test_an_archive_of_another_tool_is_read():
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.USTAR_FORMAT) as opened:
        for name in ("blobs", "blobs/sha256"):
            folder = tarfile.TarInfo(name)
            folder.type = tarfile.DIRTYPE
            opened.addfile(folder)
        for name, data in (("oci-layout", b"{}"), (BLOB, b"y")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            opened.addfile(info, io.BytesIO(data))
    assert list(members(made.getvalue())) == ["oci-layout", BLOB]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"name": b"../../etc/passwd"}, "not a name that a bundle has"),
        ({"name": b"/etc/passwd"}, "not a name"),
        ({"name": b"./oci-layout"}, "not a name"),
        ({"name": b"oci-layout/"}, "not a name"),
        ({"name": b"blobs/sha256/" + b"AB" * 32}, "not a name"),
        ({"name": b"blobs/sha512/" + b"ab" * 32}, "not a name"),
        ({"name": b"oci-layout\n"}, "not a name"),
        ({"name": b"\xff\xfe"}, "not a name"),
        ({"name": b""}, "not a name"),
        ({"kind": b"1", "link": b"index.json"}, "is a hard link"),
        ({"kind": b"2", "link": b"/etc/shadow"}, "is a symbolic link"),
        ({"kind": b"3"}, "is a device"),
        ({"kind": b"4"}, "is a device"),
        ({"kind": b"6"}, "is a pipe"),
        ({"kind": b"x"}, "is an extended header"),
        ({"kind": b"g"}, "is an extended header"),
        ({"kind": b"L"}, "is an extended header"),
        ({"kind": b"S"}, "is a sparse file"),
        ({"kind": b"\0"}, "an older format"),
        ({"kind": b"7"}, "of the unknown kind"),
        ({"kind": b"5", "name": b"blobs/sha256/x/"}, "not a name"),
        ({"kind": b"5", "name": b"blobs/", "size": b"00000001000\0"}, "more than a bundle's file"),
        ({"link": b"index.json"}, "has a link or a prefix"),
        ({"prefix": b"blobs"}, "has a link or a prefix"),
        ({"magic": b"ustar  \0"}, "no ustar header"),
        ({"magic": b""}, "no ustar header"),
        ({"size": b"77777777777\0"}, "more than a bundle's file may"),
        ({"size": b"\x80\0\0\0\0\0\0\0\0\0\0\1"}, "size is not a number"),
        ({"size": b"-1\0"}, "size is not a number"),
        ({"size": b""}, "size is not a number"),
        ({"size": b"0x10"}, "size is not a number"),
        ({"checksum": b"000000\0 "}, "checksum is wrong"),
        ({"checksum": b"zzz"}, "checksum is not a number"),
    ],
)
def test_what_no_bundle_has(changes, why):
    assert why in refusal(header(**changes) + ENDING)


def test_the_same_name_twice():
    assert "has oci-layout twice" in refusal(archive([("oci-layout", b"a"), ("oci-layout", b"b")]))


def test_too_many_files():
    names = (f"blobs/sha256/{number:064x}" for number in range(MAX_MEMBERS + 1))
    data = b"".join(encode_header(name, 0) for name in names) + ENDING
    assert f"over {MAX_MEMBERS} files" in refusal(data)


def test_something_after_the_end():
    assert "something follows its end" in refusal(archive([]) + b"x" * 512)
    assert "something follows its end" in refusal(archive([]) + b"\0" * (2 << 20))
    assert members(archive([]) + b"\0" * 9216) == {}, "a record that is filled up"


def test_padding_that_says_something():
    made = bytearray(archive([("oci-layout", b"a")]))
    made[600] = 1
    assert "not padding" in refusal(bytes(made))


WHOLE = archive([("oci-layout", b"a" * 100), ("index.json", b"b" * 512), (BLOB, b"c" * 1300)])


@given(st.integers(0, len(WHOLE) - 1))
@example(0)
@example(512)
@example(len(WHOLE) - 512)
def test_cut_short_anywhere(length):
    refusal(WHOLE[:length])


@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
def test_a_flipped_byte_changes_no_shape(at, flip):
    made = bytearray(WHOLE)
    made[at] ^= flip
    try:
        found = members(bytes(made))
    except BundleError:
        return
    assert found == members(WHOLE), "only contents, which digests are for"


@given(st.binary(max_size=3000))
def test_any_bytes(data):
    try:
        found = members(data)
    except BundleError:
        return
    assert all(m.offset + m.size <= len(data) for m in found.values())


@given(st.lists(st.tuples(st.sampled_from(["oci-layout", "index.json", BLOB]), st.binary()),
                unique_by=lambda pair: pair[0]))  # fmt: skip
def test_there_and_back(pairs):
    data = archive(pairs)
    found = members(data)
    assert {n: data[m.offset : m.offset + m.size] for n, m in found.items()} == dict(pairs)
    assert b"".join(encode_member("oci-layout", 3, iter((b"abc",))))[512:515] == b"abc"
