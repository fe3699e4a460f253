"""What an unquoted word of YAML is: YAML 1.2's core schema, kept to what JSON can say.

YAML 1.1's surprises stay texts: yes/no/on/off, `1:30`, `1_000`, dates. One of its habits is kept,
because every `defaultMode: 0644` relies on it and kubectl reads it so: a leading 0 is octal.
"""

from __future__ import annotations

import math
import re

_NULLS = {"", "~", "null", "Null", "NULL"}
_BOOLEANS = {"true": True, "True": True, "TRUE": True}
_BOOLEANS |= {"false": False, "False": False, "FALSE": False}
_FIRST = frozenset("+-.0123456789")

_INTEGER = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_INTEGER_LENGTH = 24  # longer than any number of 64 bits
_INTEGER_BITS = 64


class ScalarError(ValueError):
    """The word would be a number that JSON, or the rest of the system, can't hold."""


def parse_scalar(text: str) -> bool | int | float | str | None:
    """The value of a plain scalar."""
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if text[0] not in _FIRST:
        return text
    if _NOT_FINITE.fullmatch(text):
        raise ScalarError("is not a number that JSON has; quote it to make it a string")
    if _INTEGER.fullmatch(text):
        return _parse_integer(text)
    if _OCTAL.fullmatch(text):
        return _bounded(text[2:], 8)
    if _HEXADECIMAL.fullmatch(text):
        return _bounded(text[2:], 16)
    if _FLOAT.fullmatch(text):
        return _parse_float(text)
    return text


def _parse_integer(text: str) -> int:
    digits = text.lstrip("+-")
    if len(digits) == 1 or digits[0] != "0":
        return _bounded(text, 10)
    if digits.strip("01234567"):
        raise ScalarError("starts with 0 and is not octal; quote it or remove the 0")
    return _bounded(text, 8)


def _bounded(digits: str, base: int) -> int:
    value = int(digits, base) if len(digits) <= _INTEGER_LENGTH else 1 << _INTEGER_BITS
    if value.bit_length() > _INTEGER_BITS - 1:
        raise ScalarError("is not a number of 64 bits; quote it to make it a string")
    return value


def _parse_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ScalarError("is too large for a number; quote it to make it a string")
    return value
