"""A guest's linear memory with every access checked.

Guests choose all pointers and lengths, so nothing here trusts one. A pointer that is out of
bounds, or not aligned to its type, ends the run with a trap: that is what WASI's legacy tools
documentation ("pointers") asks for and what Wasmtime does. Nothing is read or written through a
pointer to no bytes at all, so `read`, `slice` and `write` take any.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from limpet.wasi.endings import GuestTrap

if TYPE_CHECKING:
    from collections.abc import Callable

_U16 = Struct("<H")
_U32 = Struct("<I")
_U64 = Struct("<Q")
_NOTHING = memoryview(bytearray())


class GuestMemory:
    """One memory of one instance.

    `view` covers the memory as it was when last looked at: memories only grow, so what fits into
    the view is in bounds, and only what doesn't asks the engine again through `refresh`, which
    returns a new view. `release` makes every later access fail: no view outlives its instance.
    """

    __slots__ = ("_refresh", "size", "view")

    def __init__(self, refresh: Callable[[], memoryview]) -> None:
        self._refresh = refresh
        self.view = _NOTHING
        self.size = 0

    def require(self, pointer: int, length: int, alignment: int = 1) -> None:
        """Make sure that `view[pointer:pointer + length]` exists, or trap."""
        end = pointer + length
        if end > self.size:
            if self.size > 0:
                self.view.release()
            self.view = self._refresh()
            self.size = len(self.view)
            if end > self.size:
                raise GuestTrap(
                    f"pointer out of bounds: {length} bytes at {pointer:#x}, "
                    f"memory ends at {self.size:#x}"
                )
        if pointer % alignment:
            raise GuestTrap(f"pointer not aligned: {pointer:#x} is not a multiple of {alignment}")

    def read(self, pointer: int, length: int) -> bytes:
        if pointer + length > self.size and length:
            self.require(pointer, length)
        return bytes(self.view[pointer : pointer + length])

    def slice(self, pointer: int, length: int) -> memoryview:
        """A writable piece, to be used in a `with` block: `release` can't reach it later."""
        if pointer + length > self.size and length:
            self.require(pointer, length)
        return self.view[pointer : pointer + length]

    def write(self, pointer: int, data: bytes) -> None:
        end = pointer + len(data)
        if end > self.size and data:
            self.require(pointer, len(data))
        self.view[pointer:end] = data

    def write_u16(self, pointer: int, value: int) -> None:
        if pointer & 1 or pointer + 2 > self.size:
            self.require(pointer, 2, 2)
        _U16.pack_into(self.view, pointer, value)

    def write_u32(self, pointer: int, value: int) -> None:
        if pointer & 3 or pointer + 4 > self.size:
            self.require(pointer, 4, 4)
        _U32.pack_into(self.view, pointer, value)

    def write_u64(self, pointer: int, value: int) -> None:
        if pointer & 7 or pointer + 8 > self.size:
            self.require(pointer, 8, 8)
        _U64.pack_into(self.view, pointer, value)

    def write_struct(self, pointer: int, layout: Struct, *values: int) -> None:
        """Write an 8-aligned record."""
        if pointer & 7 or pointer + layout.size > self.size:
            self.require(pointer, layout.size, 8)
        layout.pack_into(self.view, pointer, *values)

    def release(self) -> None:
        """End of the instance: from here on every access fails."""
        self._refresh = _no_memory
        if self.size > 0:
            self.view.release()
        self.size = -1


def _no_memory() -> memoryview:
    raise GuestTrap("the instance and its memory are gone")
