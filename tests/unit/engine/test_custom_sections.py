"""What toolchains say of themselves, and what is said when it can't be read."""

from __future__ import annotations

import pytest

from limpet.engine.binary import Reader, read_shape
from limpet.engine.custom_sections import (
    find_native_code,
    read_producers,
    read_target_features,
)

HEADER = b"\0asm\1\0\0\0"


def custom(name: bytes, body: bytes) -> bytes:
    content = bytes((len(name),)) + name + body
    return b"\0" + bytes((len(content),)) + content


def texts(*parts: bytes) -> bytes:
    return b"".join(bytes((len(part),)) + part for part in parts)


PRODUCERS = (
    b"\2" + texts(b"language") + b"\2" + texts(b"C", b"11", b"Rust", b"")
    + texts(b"processed-by") + b"\1" + texts(b"clang", b"19")
)  # fmt: skip


def test_producers_of_several_sections_are_joined() -> None:
    more = b"\1" + texts(b"language") + b"\2" + texts(b"C", b"11", b"Zig", b"")
    module = HEADER + custom(b"producers", PRODUCERS) + custom(b"producers", more)
    sections = read_shape(module).custom_sections
    assert read_producers(Reader(module, 0, len(module)), sections) == {
        "language": ["C 11", "Rust", "Zig"],
        "processed-by": ["clang 19"],
    }


def test_features_are_those_that_are_used() -> None:
    body = b"\3+" + texts(b"simd128") + b"-" + texts(b"atomics") + b"+" + texts(b"tail-call")
    module = HEADER + custom(b"target_features", body)
    sections = read_shape(module).custom_sections
    reader = Reader(module, 0, len(module))
    assert read_target_features(reader, sections) == ["simd128", "tail-call"]
    assert read_producers(reader, sections) == {}


@pytest.mark.parametrize("cut", range(len(PRODUCERS)))
def test_a_damaged_section_says_what_can_be_read(cut: int) -> None:
    module = HEADER + custom(b"producers", PRODUCERS[:cut])
    producers = read_producers(Reader(module, 0, len(module)), read_shape(module).custom_sections)
    assert set(producers) <= {"language", "processed-by"}
    features = HEADER + custom(b"target_features", PRODUCERS[:cut])
    sections = read_shape(features).custom_sections
    assert read_target_features(Reader(features, 0, len(features)), sections) == []


def test_long_texts_and_many_of_them_are_cut() -> None:
    many = b"\x7f" + (texts(b"field") + b"\1" + texts(b"n" * 100, b"v" * 100)) * 127
    size = len(many) + len(texts(b"producers"))
    leb = bytes((size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14))
    module = HEADER + b"\0" + leb + texts(b"producers") + many
    producers = read_producers(Reader(module, 0, len(module)), read_shape(module).custom_sections)
    assert producers == {"field": ["n" * 100 + " " + "v" * 99]}


def test_native_code_is_found_by_name() -> None:
    module = HEADER + custom(b"name", b"") + custom(b"wasmedge", b"\1\2\3")
    (found,) = find_native_code(read_shape(module).custom_sections)
    assert found.name == "wasmedge"
    assert module[found.start : found.end] == custom(b"wasmedge", b"\1\2\3")
