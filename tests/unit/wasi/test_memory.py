"""Guest memory: nothing outside it is ever touched."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet.wasi import abi
from limpet.wasi.endings import GuestTrap
from limpet.wasi.memory import GuestMemory

SIZE = 64


def _memory(size: int = SIZE) -> tuple[bytearray, GuestMemory]:
    data = bytearray(b"<" * 16 + bytes(size) + b">" * 16)
    return data, GuestMemory(lambda: memoryview(data)[16 : 16 + size])


@given(st.integers(0, 2**32 - 1) | st.integers(0, 80), st.binary(max_size=80))
def test_writing_stays_inside(pointer: int, content: bytes) -> None:
    data, memory = _memory()
    if content and pointer + len(content) > SIZE:
        with pytest.raises(GuestTrap):
            memory.write(pointer, content)
    else:
        memory.write(pointer, content)
        assert memory.read(pointer, len(content)) == content
    assert data[:16] == b"<" * 16
    assert data[-16:] == b">" * 16
    memory.release()


@given(st.integers(0, 2**32 - 1) | st.integers(0, 80), st.integers(0, 2**32 - 1))
def test_reading_stays_inside(pointer: int, length: int) -> None:
    _, memory = _memory()
    if length and pointer + length > SIZE:
        with pytest.raises(GuestTrap, match="out of bounds"):
            memory.read(pointer, length)
        with pytest.raises(GuestTrap, match="out of bounds"):
            memory.slice(pointer, length)
    else:
        assert memory.read(pointer, length) == bytes(length)
    memory.release()


@pytest.mark.parametrize("pointer", [0, 8, 56])
def test_records_and_numbers(pointer: int) -> None:
    data, memory = _memory()
    memory.write_u32(pointer, 0xFFFFFFFF)
    assert data[16 + pointer : 20 + pointer] == b"\xff\xff\xff\xff"
    memory.write_u64(pointer, 1)
    assert data[16 + pointer : 24 + pointer] == b"\1" + bytes(7)
    memory.release()


@pytest.mark.parametrize("pointer", [1, 2, 3, 5, 61, 64, 2**32 - 4])
def test_numbers_that_do_not_fit(pointer: int) -> None:
    _, memory = _memory()
    with pytest.raises(GuestTrap, match=r"aligned|out of bounds"):
        memory.write_u32(pointer, 1)
    with pytest.raises(GuestTrap, match=r"aligned|out of bounds"):
        memory.write_u64(pointer, 1)
    with pytest.raises(GuestTrap, match=r"aligned|out of bounds"):
        memory.write_struct(pointer, abi.FDSTAT, 0, 0, 0, 0)
    memory.release()


def test_growth_is_seen_when_it_is_needed() -> None:
    sizes = iter((16, 32))
    views = []

    def refresh() -> memoryview:
        views.append(memoryview(bytearray(next(sizes))))
        return views[-1]

    memory = GuestMemory(refresh)
    memory.write(0, bytes(16))
    memory.write(8, bytes(4))
    assert len(views) == 1
    memory.write(16, bytes(16))
    assert len(views) == 2
    with pytest.raises(ValueError, match="released"):
        views[0].tobytes()
    memory.release()


def test_nothing_works_after_the_end() -> None:
    data, memory = _memory()
    memory.write_u32(0, 1)
    view = memory.view
    memory.release()
    with pytest.raises(ValueError, match="released"):
        view.tobytes()
    for use in (
        lambda: memory.read(0, 1),
        lambda: memory.write(0, b"x"),
        lambda: memory.write_u32(0, 1),
        lambda: memory.slice(0, 1),
    ):
        with pytest.raises(GuestTrap, match="gone"):
            use()
    data.append(0)  # no view is left that would forbid it


def test_a_piece_is_released_by_its_block() -> None:
    _, memory = _memory()
    with memory.slice(0, 8) as piece:
        piece[:2] = b"ab"
    with pytest.raises(ValueError, match="released"):
        piece.tobytes()
    assert memory.read(0, 2) == b"ab"
    memory.release()
