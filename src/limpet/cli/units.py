"""How times, ages and shares are written for people."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limpet.api.answers import Json

_MISSING = "-"


def now() -> datetime:
    """The one clock that ages are measured by."""
    return datetime.now(UTC)


def format_age(since: str | None, *, at: datetime | None = None) -> str:
    """How long ago an RFC 3339 time was, as kubectl writes it: `45s`, `3m12s`, `2d5h`."""
    if not since:
        return _MISSING
    try:
        seconds = int(((at or now()) - datetime.fromisoformat(since)).total_seconds())
    except (ValueError, TypeError):
        return _MISSING
    return format_span(max(seconds, 0))


def format_span(seconds: int) -> str:
    """A span in one or two units, coarser the longer it is."""
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86_400
    if seconds < 120:
        return f"{seconds}s"
    if minutes < 10:
        return f"{minutes}m{seconds % 60}s" if seconds % 60 else f"{minutes}m"
    if hours < 3:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return f"{days}d{hours % 24}h" if hours % 24 else f"{days}d"
    return f"{days}d" if days < 730 else f"{days // 365}y"


def format_micros(micros: float | None) -> str:
    """A latency with three digits: `80us`, `1.25ms`, `2.5s`."""
    if micros is None:
        return _MISSING
    if micros < 1000:
        return f"{micros:.0f}us"
    if micros < 1_000_000:
        return f"{micros / 1000:.3g}ms"
    return f"{micros / 1_000_000:.3g}s"


def format_milliseconds(milliseconds: float | None) -> str:
    """A cold start's length."""
    return _MISSING if milliseconds is None else f"{milliseconds:.3g}ms"


def format_size(count: float | None) -> str:
    """`1.4Mi`."""
    from limpet.manifest.quantity import format_bytes

    return _MISSING if count is None else format_bytes(int(count))


def format_used(usage: Json | None) -> str:
    """`12Mi of 200Mi (6%)`: how full a volume is."""
    if not usage:
        return _MISSING
    used, size = usage.get("used_bytes"), usage.get("size_bytes")
    return f"{format_size(used)} of {format_size(size)} ({format_share(used, size)})"


def format_cores(cores: float | None) -> str:
    """`12m`: thousandths of a core below one core."""
    from limpet.manifest.quantity import format_cpu

    return _MISSING if cores is None else format_cpu(cores)


def format_share(part: float | None, whole: float | None) -> str:
    """`2%`."""
    return _MISSING if part is None or not whole else f"{part / whole:.0%}"
