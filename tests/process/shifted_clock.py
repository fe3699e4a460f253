"""A wall clock that can be moved for one node and what it starts, while the device's own clock stays."""

from __future__ import annotations

import struct
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

_SOURCE = Path(__file__).with_suffix(".c")
HAS_COMPILER = find_spec("ziglang") is not None and find_spec("ziglang.__main__") is not None


class Clock:
    """A wall clock that nodes are started with: `shift` moves it, from then on, for all that run."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        library = folder / "shifted_clock.so"
        command = [sys.executable, "-m", "ziglang", "cc", "-shared", "-fPIC", "-O1"]
        subprocess.run([*command, "-o", library, _SOURCE], check=True, timeout=120)
        self._file.write_bytes(bytes(8))
        self.environment = {"LD_PRELOAD": str(library), "SHIFTED_CLOCK": str(self._file)}

    def shift(self, seconds: float) -> None:
        """Set it so far from the true one."""
        with self._file.open("r+b") as file:
            file.write(struct.pack("=q", int(seconds)))
