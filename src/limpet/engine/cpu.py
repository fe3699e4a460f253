"""Which CPU this is, for the names of artifacts: compilers use the features that they find."""

from __future__ import annotations

import os
import zlib
from functools import cache

_CPU_LINES = ("flags", "Features", "CPU implementer", "CPU part", "model name")


@cache
def cpu_key() -> str:
    """Eight hexadecimal digits that change when the CPU does."""
    lines: set[str] = set()
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            lines.update(line for line in file if line.startswith(_CPU_LINES))
    except OSError:
        lines.add(" ".join(os.uname()))
    return f"{zlib.crc32(''.join(sorted(lines)).encode()):08x}"
