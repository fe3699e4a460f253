"""Lets these tests run the fuzz targets of tests/fuzz, for a moment."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "fuzz"))

# Where tests are that fork this process, which has to have one thread then; triggers leave threads behind.
_FORKING = ("linux", "worker")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run those that fork first, and the others in the order that they had."""
    items.sort(key=lambda item: item.path.parent.name not in _FORKING)
