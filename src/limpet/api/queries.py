"""Numbers in a call's query. Nothing that a caller wrote is repeated at length."""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

from limpet.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

_MOST_DIGITS = 9
_MOST_SECONDS = 1e10


def is_number(text: str) -> bool:
    """Whether this is a whole number of a size that makes sense."""
    return text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS


@overload
def read_number(query: Mapping[str, str], name: str, *, default: int) -> int: ...
@overload
def read_number(query: Mapping[str, str], name: str, *, default: None) -> int | None: ...
def read_number(query: Mapping[str, str], name: str, *, default: int | None) -> int | None:
    """Return a whole number. Raises `InvalidInputError`."""
    text = query.get(name)
    if text is None:
        return default
    if not is_number(text):
        raise InvalidInputError(f"{name}={text!r:.40}: expected a whole number")
    return int(text)


def read_seconds(query: Mapping[str, str], name: str) -> float | None:
    """Return a number of seconds, None without one. Raises `InvalidInputError`."""
    text = query.get(name)
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < _MOST_SECONDS:
        raise InvalidInputError(f"{name}={text!r:.40}: expected a number of seconds")
    return seconds
