"""Arguments and environments in the form in which a guest gets them."""

from __future__ import annotations

from array import array
from itertools import accumulate
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterable

_plus_one = (1).__add__


class Strings(tuple[bytes, ...]):
    """Strings without NUL. What a guest asks of them is worked out once, however many guests ask.

    The handlers of one app put their strings at one address, so the pointers are kept as well.
    """

    joined: bytes
    """The strings in a row, each with its NUL."""

    _pointers_at = -1
    _pointers = b""

    def __new__(cls, strings: Iterable[bytes] = ()) -> Self:
        made = super().__new__(cls, strings)
        made.joined = b"\0".join((*made, b""))
        return made

    def pointers(self, start: int) -> bytes:
        """Return the addresses of the strings when the first is at `start`, as an array of u32.

        All of them must lie in a 32-bit memory.
        """
        if start != self._pointers_at:
            # No loop in Python: a request's environment has some thirty variables.
            addresses = array("I", accumulate(map(_plus_one, map(len, self)), initial=start))
            del addresses[-1]
            self._pointers = addresses.tobytes()
            self._pointers_at = start
        return self._pointers
