"""An answer whose body is not there at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


@dataclass(slots=True)
class LogStreamResponse:
    """A body that comes piece by piece."""

    content_type: bytes
    chunks: AsyncGenerator[bytes, None]
