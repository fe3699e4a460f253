"""Streams on their own; with guests: tests/contract."""

from __future__ import annotations

import os

import pytest

from limpet.wasi.control import Control
from limpet.wasi.streams import (
    BufferOutput,
    BytesInput,
    DescriptorInput,
    DescriptorOutput,
    NullInput,
    StreamFullError,
)


@pytest.fixture
def waiter() -> Control:
    control = Control()
    control.begin(0)
    return control


def test_bytes_run_out(waiter: Control) -> None:
    stream = BytesInput(b"abcdef")
    assert [stream.read(4, waiter) for _ in range(3)] == [b"abcd", b"ef", b""]
    assert (stream.poll_descriptor(), stream.is_terminal()) == (-1, False)


def test_nothing_is_at_its_end(waiter: Control) -> None:
    assert NullInput().read(10, waiter) == b""


def test_a_buffer_keeps_what_fits(waiter: Control) -> None:
    stream = BufferOutput(5)
    stream.write(b"abc", waiter)
    assert stream.getvalue() == b"abc"
    stream.write(b"de", waiter)
    assert stream.getvalue() == b"abcde"
    with pytest.raises(StreamFullError) as caught:
        stream.write(b"fgh", waiter)
    assert caught.value.limit_bytes == 5
    assert stream.getvalue() == b"abcde"


def test_a_buffer_keeps_the_part_that_fits(waiter: Control) -> None:
    stream = BufferOutput(5)
    with pytest.raises(StreamFullError):
        stream.write(b"abcdefgh", waiter)
    assert stream.getvalue() == b"abcde"
    with pytest.raises(StreamFullError):
        stream.write(b"x", waiter)
    assert stream.getvalue() == b"abcde"


def test_descriptors(waiter: Control) -> None:
    reader, writer = os.pipe()
    DescriptorOutput(writer).write(b"abc", waiter)
    stream = DescriptorInput(reader)
    assert stream.poll_descriptor() == reader
    assert stream.read(2, waiter) == b"ab"
    assert stream.read(2, waiter) == b"c"
    os.close(writer)
    assert stream.read(2, waiter) == b""
    os.close(reader)
    waiter.close()


def test_errors_of_descriptors_are_the_guest_s_to_see(waiter: Control) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        DescriptorOutput(writer).write(b"abc", waiter)
    os.close(writer)
    waiter.close()
