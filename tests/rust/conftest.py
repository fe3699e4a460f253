"""Lets these tests build guests as the corpus does, and reach the network as sockets' tests do."""

from __future__ import annotations

import sys
from pathlib import Path

_TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(_TESTS / "corpus"), str(_TESTS / "unit" / "wasi"), str(Path(__file__).parent)]
