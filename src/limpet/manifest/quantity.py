"""Kubernetes' quantities and Go's durations, in exact integer arithmetic.

Sources: apimachinery `pkg/api/resource/quantity.go` (the grammar in the comment of `Quantity`),
Go's `time.ParseDuration`. Texts are bounded before any number is built from them.
"""

from __future__ import annotations

import re

from limpet.errors import InvalidInputError
from limpet.manifest.problems import shown

_INT64_MAX = 2**63 - 1
_TEXT_LENGTH = 64
_EXPONENT_BOUND = 160  # beyond the digits that a text of _TEXT_LENGTH can cancel

_QUANTITY = re.compile(
    r"([+-]?)(?:([0-9]+)(?:\.([0-9]*))?|\.([0-9]+))([eE][+-]?[0-9]+|[KMGTPE]i|[numkMGTPE]?)"
)
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}

_DURATION = re.compile(r"(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:ns|us|µs|μs|ms|s|m|h))+")
_DURATION_PART = re.compile(r"([0-9]*)\.?([0-9]*)(ns|us|µs|μs|ms|s|m|h)")
_UNIT_NANOS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6}
_UNIT_NANOS |= {"s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}

_CPU_EXAMPLE = "write cores like 500m, 0.5 or 2"
_BYTES_EXAMPLE = "write bytes like 64Mi, 100M or 1Gi"
_DURATION_EXAMPLE = "write time like 90s, 1m30s or 500ms"


class QuantityError(InvalidInputError):
    """A quantity or duration can't be read; the message quotes it and shows a good one."""

    reason = "InvalidQuantity"


def parse_cpu(text: str) -> float:
    """Cores, rounded up to the next thousandth as Kubernetes does."""
    numerator, denominator = _parse_quantity(text, _CPU_EXAMPLE)
    return -(-numerator * 1000 // denominator) / 1000


def parse_bytes(text: str) -> int:
    """Bytes, fractions rounded up."""
    numerator, denominator = _parse_quantity(text, _BYTES_EXAMPLE)
    return -(-numerator // denominator)


def parse_duration(text: str) -> float:
    """Seconds. A bare number other than 0 is refused: it has no unit."""
    if text == "0":
        return 0.0
    if text.startswith("-"):
        raise QuantityError(f"{shown(text)} is negative; {_DURATION_EXAMPLE}")
    if len(text) > _TEXT_LENGTH or not _DURATION.fullmatch(text):
        raise QuantityError(f"{shown(text)} is not a duration; {_DURATION_EXAMPLE}")
    nanos = 0
    for whole, fraction, unit in _DURATION_PART.findall(text):
        scale = _UNIT_NANOS[unit]
        nanos += int(whole or "0") * scale + int(fraction or "0") * scale // 10 ** len(fraction)
    if nanos > _INT64_MAX:
        raise QuantityError(f"{shown(text)} is more than 292 years; {_DURATION_EXAMPLE}")
    return nanos / 10**9


def format_bytes(count: int) -> str:
    """`64Mi`, `1.5Gi`: exact when the count is a multiple of a tenth, else rounded."""
    if count < 1024:
        return str(count)
    exponent = min((count.bit_length() - 1) // 10, 6)
    suffix = " KMGTPE"[exponent] + "i"
    whole, rest = divmod(count, 1024**exponent)
    if rest == 0:
        return f"{whole}{suffix}"
    tenths = round(count * 10 / 1024**exponent)
    if tenths >= 10240 and exponent < 6:
        return f"1{' KMGTPE'[exponent + 1]}i"
    return f"{tenths // 10}.{tenths % 10}{suffix}" if tenths % 10 else f"{tenths // 10}{suffix}"


def format_cpu(cores: float) -> str:
    """`500m`, `2`: whole cores, else thousandths."""
    thousandths = round(cores * 1000)
    return f"{thousandths}m" if thousandths % 1000 else str(thousandths // 1000)


def format_duration(seconds: float) -> str:
    """`1m30s`, `500ms`, `2.5s`: to the millisecond, below that to the microsecond."""
    micros = round(seconds * 10**6)
    if micros < 1000:
        return f"{micros}us" if micros else "0s"
    millis = round(seconds * 1000)
    if millis < 1000:
        return f"{millis}ms"
    hours, millis = divmod(millis, 3_600_000)
    minutes, millis = divmod(millis, 60_000)
    text = (f"{hours}h" if hours else "") + (f"{minutes}m" if minutes else "")
    if millis or not text:
        whole, rest = divmod(millis, 1000)
        text += f"{whole}.{rest:03}".rstrip("0") + "s" if rest else f"{whole}s"
    return text


def _parse_quantity(text: str, example: str) -> tuple[int, int]:
    """The exact non-negative value as numerator and denominator, at most 2**63-1."""
    match = _QUANTITY.fullmatch(text) if len(text) <= _TEXT_LENGTH else None
    if match is None:
        raise QuantityError(f"{shown(text)} is not a quantity; {example}")
    sign, whole, fraction, bare_fraction, suffix = match.groups()
    fraction = fraction or bare_fraction or ""
    mantissa = int((whole or "") + fraction)
    if sign == "-" and mantissa:
        raise QuantityError(f"{shown(text)} is negative; {example}")
    numerator, denominator = mantissa, 10 ** len(fraction)
    if suffix in _BINARY:
        numerator *= 1024 ** _BINARY[suffix]
    else:
        exponent = _DECIMAL[suffix] if suffix in _DECIMAL else int(suffix[1:])
        exponent = max(-_EXPONENT_BOUND, min(exponent, _EXPONENT_BOUND))
        numerator *= 10 ** max(exponent, 0)
        denominator *= 10 ** max(-exponent, 0)
    if numerator > _INT64_MAX * denominator:
        raise QuantityError(f"{shown(text)} is more than 2^63-1; {example}")
    return numerator, denominator
