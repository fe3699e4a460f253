"""Lets these tests run the fuzz targets of tests/fuzz, for a moment."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "fuzz"))
